"""sets: the addresses in each set that a rule in use names.

An address is in a selector's set while an endpoint, host endpoint or network set that the selector means
has it; of a named port's set those endpoints are the source that have a port of this name. Two more sets
hold the ranges of the pools, while there are any.
"""

from collections.abc import Callable, Iterable
from typing import Any

from hopwall_calc.engine import Answer, KeyedNode, Node
from hopwall_calc.intake import HostEndpointInput, NetworkSetInput, PoolInput
from hopwall_calc.label_index import LabelIndex
from hopwall_calc.members import Members
from hopwall_calc.nodes.addresses import NOTHING, Owned
from hopwall_calc.nodes.named_ports import PortMembers
from hopwall_calc.nodes.policies import Policies
from hopwall_calc.rules import NamedPort, SetSource, set_scope
from hopwall_model.resources import Key
from hopwall_model.selectors import Labels, Selector
from hopwall_model.updates import NAT_POOLS, POOLS, Scope, SetBucket, SetId


class Sets(Node):
    """Set id → its members."""

    name = "sets"

    def __init__(
        self,
        policies: Policies,
        labels: KeyedNode[Key, dict[str, str]],
        addresses: KeyedNode[Key, Owned],
        named_ports: KeyedNode[Key, PortMembers],
        host_endpoints: KeyedNode[Key, HostEndpointInput],
        network_sets: KeyedNode[Key, NetworkSetInput],
        pools: KeyedNode[str, PoolInput],
    ) -> None:
        super().__init__()
        self._policies = policies.out
        self._labels = labels.out
        self._addresses = addresses.out
        self._named_ports = named_ports.out
        self._host_endpoints = host_endpoints.out
        self._network_sets = network_sets.out
        self._pools = pools.out
        self._index: LabelIndex[SetId] = LabelIndex()
        self.members: dict[SetId, Members] = {}
        #: Set → how many policies name it.
        self._uses: dict[SetId, int] = {}
        self._changed_uses: dict[SetId, SetSource] = {}
        #: The sets of named ports among them.
        self._port_sets: dict[SetId, NamedPort] = {}
        #: Endpoint or network set → what it contributed before.
        self._changed_addresses: dict[Key, tuple[str, ...]] = {}
        #: Endpoint → its named ports before.
        self._changed_ports: dict[Key, PortMembers] = {}
        self._pools_changed = False
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
            self._changed_addresses[key] = (old or NOTHING).addresses
        return Answer.HANDLED

    def on_named_ports(self) -> Answer:
        """Note what the changed endpoints had as ports before."""
        for key, old in self._named_ports.changed.items():
            self._changed_ports[key] = old or {}
        return Answer.HANDLED

    def on_host_endpoints(self) -> Answer:
        """Note what the changed host endpoints contributed before."""
        for key, old in self._host_endpoints.changed.items():
            new = self._host_endpoints.get(key)
            before, after = (old.addresses if old else ()), (new.addresses if new else ())
            if before != after:
                self._changed_addresses[key] = before
        return Answer.HANDLED if self._changed_addresses else Answer.UNAFFECTED

    def on_network_sets(self) -> Answer:
        """Note what the changed network sets contributed before."""
        for key, old in self._network_sets.changed.items():
            new = self._network_sets.get(key)
            before, after = (old.nets if old else ()), (new.nets if new else ())
            if before != after:
                self._changed_addresses[key] = before
        return Answer.HANDLED if self._changed_addresses else Answer.UNAFFECTED

    def on_pools(self) -> Answer:
        """Note that the pools changed."""
        self._pools_changed = True
        return Answer.HANDLED

    def _contributed(self, key: Key) -> tuple[str, ...]:
        if key.kind == "WorkloadEndpoint":
            return (self._addresses.get(key) or NOTHING).addresses
        if key.kind == "HostEndpoint":
            host_endpoint = self._host_endpoints.get(key)
            return host_endpoint.addresses if host_endpoint else ()
        network_set = self._network_sets.get(key)
        return network_set.nets if network_set else ()

    def _contributed_to(self, set_id: SetId, key: Key) -> tuple[str, ...]:
        named = self._port_sets.get(set_id)
        if named is None:
            return self._contributed(key)
        return _at(self._named_ports.get(key) or {}, named)

    # ------------------------------------------------------------ update

    def finish(self) -> None:
        """Move addresses first, under the old selections; then change the selections.

        Cost: O(changed items x the selectors that mean them + changed selectors x their items).
        """
        for key, old in self._changed_addresses.items():
            names = [s for s in self._index.selectors_of(key) if s not in self._port_sets]
            self._change(names, old, Members.remove)
            self._change(names, self._contributed(key), Members.add)
        for key, ports in self._changed_ports.items() if self._port_sets else ():
            new = self._named_ports.get(key) or {}
            for set_id in self._index.selectors_of(key):
                if (named := self._port_sets.get(set_id)) is not None:
                    self._change((set_id,), _at(ports, named), Members.remove)
                    self._change((set_id,), _at(new, named), Members.add)
        self._changed_addresses, self._changed_ports = {}, {}
        items: dict[Key, Labels | None] = {
            key: self._labels.get(key) for key in self._labels.changed
        }
        deltas = self._index.apply(items, self._changed_selectors())
        for set_id, delta in deltas.items():
            for key in delta.left:
                self._change((set_id,), self._contributed_to(set_id, key), Members.remove)
            for key in delta.joined:
                self._change((set_id,), self._contributed_to(set_id, key), Members.add)
        if self._pools_changed:
            self._take_pools()

    def _take_pools(self) -> None:
        """Make the pools' two sets what the pools say; without pools there are none."""
        self._pools_changed = False
        pools = self._pools.values.values()
        wanted = {
            POOLS: [pool.cidr for pool in pools],
            NAT_POOLS: [pool.cidr for pool in pools if pool.nat_outgoing],
        }
        for set_id, cidrs in wanted.items():
            if not pools:
                self._appeared_or_gone |= self.members.pop(set_id, None) is not None
                self._touched.discard(set_id)
                continue
            if set_id not in self.members:
                self._appeared_or_gone = True
                self.members[set_id] = Members()
            self.members[set_id].replace(cidrs)
            self._touched.add(set_id)

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
                    self._port_sets.pop(set_id, None)
                    changed[set_id] = None
            elif set_id not in self.members:
                self._appeared_or_gone = True
                self._touched.add(set_id)
                if isinstance(source, tuple):
                    self.members[set_id] = Members(source)
                    continue
                self.members[set_id] = Members()
                changed[set_id] = _selector(source)
                if isinstance(source, NamedPort):
                    self._port_sets[set_id] = source
        self._changed_uses = {}
        return changed

    def recompute(self) -> None:
        """Evaluate every set in use by a fresh index."""
        self._changed_addresses, self._changed_ports = {}, {}
        self._changed_uses, self._uses = {}, {}
        sources: dict[SetId, SetSource] = {}
        for policy in self._policies.values.values():
            for set_id, source in policy.sets.items():
                self._uses[set_id] = self._uses.get(set_id, 0) + 1
                sources[set_id] = source
        pooled = self.members.keys() & {POOLS, NAT_POOLS}
        self._appeared_or_gone = sources.keys() != self.members.keys() - pooled
        self._port_sets = {s: x for s, x in sources.items() if isinstance(x, NamedPort)}
        selecting = {s: _selector(x) for s, x in sources.items() if not isinstance(x, tuple)}
        self._index = LabelIndex()
        self._index.apply(self._labels.values, selecting)
        kept = {*sources, *pooled}
        self.members = {set_id: self.members.get(set_id, Members()) for set_id in kept}
        for set_id, source in sources.items():
            found: Iterable[str] = source if isinstance(source, tuple) else ()
            if set_id in selecting:
                items = self._index.items_of(set_id)
                found = [member for key in items for member in self._contributed_to(set_id, key)]
            self.members[set_id].replace(found)
        self._touched = set(self.members)
        self._take_pools()

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
            type="port" if set_id in self._port_sets else "net",
            n_buckets=members.n_buckets,
            bucket=bucket,
            members=members.bucket(bucket),
        )

    def _of(self, scope: Scope) -> tuple[SetId, Members]:
        set_id = SetId(scope.partition("/")[2])
        return set_id, self.members[set_id]


def _selector(source: Selector | NamedPort) -> Selector:
    return source.selector if isinstance(source, NamedPort) else source


def _at(ports: PortMembers, named: NamedPort) -> tuple[str, ...]:
    return ports.get((named.protocol, named.port), ())
