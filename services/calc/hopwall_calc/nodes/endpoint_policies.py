"""endpoint_policies: the tiers and policies that apply to each endpoint, in order.

Tiers by order, then name; policies by order, absent last, then name. A tier is listed only if a policy
of it selects the endpoint. A tier that does not exist comes first: its policies deny (`policies`).

Source: Calico, calc/policy_sorter.go.
"""

from collections.abc import Iterable
from typing import Any

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import IMPLIED_TIERS, PolicyInput, TierInput
from hopwall_calc.label_index import LabelIndex
from hopwall_model.resources import Key
from hopwall_model.selectors import Selector
from hopwall_model.updates import TierPolicies

_MISSING = TierInput(float("-inf"), False)


def tier_of(tiers: KeyedNode[str, TierInput], name: str) -> TierInput | None:
    """Return a tier; the reserved ones exist without being declared."""
    return IMPLIED_TIERS.get(name) or tiers.out.get(name)


class EndpointPolicies(KeyedNode[Key, tuple[TierPolicies, ...]]):
    """Endpoint → its tiers. Endpoints selected by the same policies share one value."""

    name = "endpoint_policies"

    def __init__(
        self,
        labels: KeyedNode[Key, dict[str, str]],
        policies: KeyedNode[Key, PolicyInput],
        tiers: KeyedNode[str, TierInput],
    ) -> None:
        super().__init__()
        self._labels = labels.out
        self._policies = policies.out
        self._tiers = tiers
        self._index: LabelIndex[Key] = LabelIndex()
        self._changed_items: dict[Key, dict[str, str] | None] = {}
        self._changed_selectors: dict[Key, Selector | None] = {}
        self._shared: dict[frozenset[Key], tuple[TierPolicies, ...]] = {}

    def on_labels(self) -> Answer:
        """Note the endpoints whose labels changed."""
        for key in self._labels.changed:
            if key.kind == "WorkloadEndpoint":
                self._changed_items[key] = self._labels.get(key)
        return self.mark(self._changed_items)

    def on_policies(self) -> Answer:
        """Note changed selectors; mark who is selected by a policy whose place changed."""
        dirty: set[Key] = set()
        before = len(self._changed_selectors)
        for key, old in self._policies.changed.items():
            new = self._policies.get(key)
            if _place(old) != _place(new):
                self._shared = {}
                dirty.update(self._index.items_of(key))
            if old is None or new is None or old.selector != new.selector:
                self._changed_selectors[key] = new.selector if new else None
        self.dirty |= dirty
        noted = len(self._changed_selectors) > before
        return Answer.HANDLED if dirty or noted else Answer.UNAFFECTED

    def on_tiers(self) -> Answer:
        """Mark who is selected by a policy of a changed tier."""
        self._shared = {}
        changed = self._tiers.out.changed
        return self.mark(
            item
            for key, policy in self._policies.values.items()
            if policy.tier in changed
            for item in self._index.items_of(key)
        )

    def finish(self) -> None:
        """Bring the index up to date, then compute whoever it concerns."""
        deltas = self._index.apply(self._changed_items, self._changed_selectors)
        self._changed_items, self._changed_selectors = {}, {}
        for delta in deltas.values():
            self.dirty.update(delta.joined, delta.left)
        super().finish()

    def rebuild(self) -> None:
        """Fill a fresh index."""
        self._index = LabelIndex()
        self._shared = {}
        self._changed_items = {key: self._labels.get(key) for key in self.keys()}
        self._changed_selectors = {
            key: policy.selector for key, policy in self._policies.values.items()
        }

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return (key for key in self._labels if key.kind == "WorkloadEndpoint")

    def compute(self, key: Key) -> tuple[TierPolicies, ...] | None:
        """Return the tiers of the policies that select the endpoint."""
        if key not in self._labels:
            return None
        selecting = frozenset(self._index.selectors_of(key))
        tiers = self._shared.get(selecting)
        if tiers is None:
            if len(self._shared) > 2 * len(self.out) + 1000:
                self._shared = {}
            tiers = self._shared[selecting] = self._arrange(selecting)
        return tiers

    def _arrange(self, selecting: Iterable[Key]) -> tuple[TierPolicies, ...]:
        by_tier: dict[tuple[float, str], list[PolicyInput]] = {}
        for key in selecting:
            policy = self._policies.values[key]
            tier = tier_of(self._tiers, policy.tier) or _MISSING
            by_tier.setdefault((tier.order, policy.tier), []).append(policy)
        arranged = []
        for (_, name), policies in sorted(by_tier.items()):
            policies.sort(key=lambda policy: policy.rank)
            tier = tier_of(self._tiers, name) or _MISSING
            arranged.append(
                TierPolicies(
                    name=name,
                    ingress_default="pass" if tier.passes else "deny",
                    egress_default="pass" if tier.passes else "deny",
                    ingress=tuple(policy.id for policy in policies if policy.for_ingress),
                    egress=tuple(policy.id for policy in policies if policy.for_egress),
                )
            )
        return tuple(arranged)


def _place(policy: PolicyInput | None) -> Any:
    """Return what decides where a policy stands in the lists."""
    if policy is None:
        return None
    return (policy.tier, policy.rank, policy.for_ingress, policy.for_egress)
