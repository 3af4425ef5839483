"""sets: the addresses in each set that a rule in use names.

An address is in a selector's set while an endpoint or network set that the selector means has it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from hopwall_calc.engine import Answer, KeyedNode, Node
from hopwall_calc.intake import NetworkSetInput
from hopwall_calc.label_index import LabelIndex
from hopwall_calc.members import Members
from hopwall_calc.nodes.policies import Policies
from hopwall_calc.rules import SetSource, set_scope
from hopwall_model.resources import Key
from hopwall_model.selectors import Labels, Selector
from hopwall_model.updates import Scope, SetBucket, SetId


class Sets(Node):
    """Set id → its members."""

    name = "sets"

    def __init__(
        self,
        policies: Policies,
        labels: KeyedNode[Key, dict[str, str]],
        addresses: KeyedNode[Key, tuple[str, ...]],
        network_sets: KeyedNode[Key, NetworkSetInput],
    ) -> None:
        super().__init__()
        self._policies = policies.out
        self._labels = labels.out
        self._addresses = addresses.out
        self._network_sets = network_sets.out
        self._index: LabelIndex[SetId] = LabelIndex()
        self.members: dict[SetId, Members] = {}
        #: Set → how many policies name it.
        self._uses: dict[SetId, int] = {}
        self._changed_uses: dict[SetId, SetSource] = {}
        #: Endpoint or network set → what it contributed before.
        self._changed_addresses: dict[Key, tuple[str, ...]] = {}
        self._touched: set[SetId] = set()
        self._appeared_or_gone = False

    # ------------------------------------------------------------ handlers

    def on_policies(self) -> Answer:
        """Count the uses of sets that changed policies name."""
        for key, old in self._policies.changed.items():
            new = self._policies.get(key)
            for policy, by in ((new, 1), (old, -1)):
                for set_id, source in policy.sets.items() if policy else ():
                    self._uses[set_id] = self._uses.get(set_id, 0) + by
                    self._changed_uses[set_id] = source
        return Answer.HANDLED if self._changed_uses else Answer.UNAFFECTED

    def on_labels(self) -> Answer:
        """Note that `finish` has changed labels to look at."""
        return Answer.HANDLED

    def on_addresses(self) -> Answer:
        """Note what the changed endpoints contributed before."""
        for key, old in self._addresses.changed.items():
            self._changed_addresses[key] = old or ()
        return Answer.HANDLED

    def on_network_sets(self) -> Answer:
        """Note what the changed network sets contributed before."""
        for key, old in self._network_sets.changed.items():
            new = self._network_sets.get(key)
            before, after = (old.nets if old else ()), (new.nets if new else ())
            if before != after:
                self._changed_addresses[key] = before
        return Answer.HANDLED if self._changed_addresses else Answer.UNAFFECTED

    def _contributed(self, key: Key) -> tuple[str, ...]:
        if key.kind == "WorkloadEndpoint":
            return self._addresses.get(key) or ()
        network_set = self._network_sets.get(key)
        return network_set.nets if network_set else ()

    # ------------------------------------------------------------ update

    def finish(self) -> None:
        """Move addresses first, under the old selections; then change the selections.

        Cost: O(changed items x the selectors that mean them + changed selectors x their items).
        """
        for key, old in self._changed_addresses.items():
            names = self._index.selectors_of(key)
            self._change(names, old, Members.remove)
            self._change(names, self._contributed(key), Members.add)
        self._changed_addresses = {}
        items: dict[Key, Labels | None] = {
            key: self._labels.get(key) for key in self._labels.changed
        }
        deltas = self._index.apply(items, self._changed_selectors())
        for set_id, delta in deltas.items():
            for key in delta.left:
                self._change((set_id,), self._contributed(key), Members.remove)
            for key in delta.joined:
                self._change((set_id,), self._contributed(key), Members.add)

    def _change(
        self,
        names: Iterable[SetId],
        addresses: tuple[str, ...],
        change: Callable[[Members, str], None],
    ) -> None:
        for name in names:
            members = self.members[name]
            self._touched.add(name)
            for address in addresses:
                change(members, address)

    def _changed_selectors(self) -> dict[SetId, Selector | None]:
        """Create and drop sets by their uses; return which selectors that concerns."""
        changed: dict[SetId, Selector | None] = {}
        for set_id, source in self._changed_uses.items():
            if not self._uses[set_id]:
                del self._uses[set_id]
                if self.members.pop(set_id, None) is not None:
                    self._appeared_or_gone = True
                    self._touched.discard(set_id)
                    changed[set_id] = None
            elif set_id not in self.members:
                self._appeared_or_gone = True
                self._touched.add(set_id)
                if isinstance(source, Selector):
                    self.members[set_id] = Members()
                    changed[set_id] = source
                else:
                    self.members[set_id] = Members(source)
        self._changed_uses = {}
        return changed

    def recompute(self) -> None:
        """Evaluate every set in use by a fresh index."""
        self._changed_addresses, self._changed_uses, self._uses = {}, {}, {}
        sources: dict[SetId, SetSource] = {}
        for policy in self._policies.values.values():
            for set_id, source in policy.sets.items():
                self._uses[set_id] = self._uses.get(set_id, 0) + 1
                sources[set_id] = source
        self._appeared_or_gone = sources.keys() != self.members.keys()
        selecting = {s: source for s, source in sources.items() if isinstance(source, Selector)}
        self._index = LabelIndex()
        self._index.apply(self._labels.values, selecting)
        self.members = {set_id: self.members.get(set_id, Members()) for set_id in sources}
        for set_id, source in sources.items():
            found: Iterable[str] = source if not isinstance(source, Selector) else ()
            if set_id in selecting:
                items = self._index.items_of(set_id)
                found = [address for key in items for address in self._contributed(key)]
            self.members[set_id].replace(found)
        self._touched = set(self.members)

    def has_changes(self) -> bool:
        """Tell whether a set appeared, changed or went."""
        return self._appeared_or_gone or any(self.members[s].touched() for s in self._touched)

    def settle(self) -> None:
        """Forget what changed."""
        for set_id in self._touched:
            self.members[set_id].settle()
        self._touched = set()
        self._appeared_or_gone = False

    def facts(self) -> Any:
        """Return the members by set."""
        return {set_id: members.everything() for set_id, members in self.members.items()}

    # ------------------------------------------------------------ as content of scopes

    def dirty_buckets(self) -> dict[Scope, list[int]]:
        """Return the changed buckets by scope."""
        found = {set_scope(s): self.members[s].dirty_buckets() for s in self._touched}
        return {scope: numbers for scope, numbers in found.items() if numbers}

    def n_buckets(self, scope: Scope) -> int:
        """Return how many buckets the set is cut into."""
        return self._of(scope)[1].n_buckets

    def piece(self, scope: Scope, *, bucket: int, version: int, previous: int) -> SetBucket:
        """Return one bucket as it travels."""
        set_id, members = self._of(scope)
        return SetBucket(
            id=set_id,
            version=version,
            previous=previous,
            n_buckets=members.n_buckets,
            bucket=bucket,
            members=members.bucket(bucket),
        )

    def _of(self, scope: Scope) -> tuple[SetId, Members]:
        set_id = SetId(scope.partition("/")[2])
        return set_id, self.members[set_id]
