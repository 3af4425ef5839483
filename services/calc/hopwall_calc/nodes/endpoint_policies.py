"""endpoint_policies: the tiers and policies that apply to each endpoint, in order.

Tiers by order, then name; policies by order, absent last, then name. A tier is listed only if a policy
of it selects the endpoint. A tier that does not exist comes first: its policies deny (`policies`).

Policies before connection tracking or destination NAT are for host endpoints alone, and leave open what
they do not decide. In the other lists the tier's end decides, unless all of a direction's policies in it
do nothing but log: whoever logs must not close by it. (Calico's closes: there a policy of Log rules is a
policy like any other.)

Source: Calico, calc/policy_sorter.go; "Protect hosts".
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

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


class Applied(Struct, frozen=True, kw_only=True):
    """An endpoint's lists; all but the first are a host endpoint's only."""

    tiers: tuple[TierPolicies, ...] = ()
    forward: tuple[TierPolicies, ...] = ()
    pre_dnat: tuple[TierPolicies, ...] = ()
    untracked: tuple[TierPolicies, ...] = ()


#: What applies to whom nothing selects.
NOTHING = Applied()

_ENDPOINTS = ("WorkloadEndpoint", "HostEndpoint")


class EndpointPolicies(KeyedNode[Key, Applied]):
    """Endpoint → its lists. Endpoints of a kind that the same policies select share one value."""

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
        self._shared: dict[tuple[str, frozenset[Key]], Applied] = {}

    def on_labels(self) -> Answer:
        """Note the endpoints whose labels changed."""
        for key in self._labels.changed:
            if key.kind in _ENDPOINTS:
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
        return (key for key in self._labels if key.kind in _ENDPOINTS)

    def compute(self, key: Key) -> Applied | None:
        """Return the tiers of the policies that select the endpoint."""
        if key not in self._labels:
            return None
        selecting = frozenset(self._index.selectors_of(key))
        applied = self._shared.get((key.kind, selecting))
        if applied is None:
            if len(self._shared) > 2 * len(self.out) + 1000:
                self._shared = {}
            applied = self._shared[key.kind, selecting] = self._apply(key.kind, selecting)
        return applied

    def _apply(self, kind: str, selecting: Iterable[Key]) -> Applied:
        policies = [self._policies.values[key] for key in selecting]
        ordinary = [p for p in policies if not (p.do_not_track or p.pre_dnat)]
        if kind == "WorkloadEndpoint":
            return Applied(tiers=self._arrange(ordinary))
        return Applied(
            tiers=self._arrange(ordinary),
            forward=self._arrange(p for p in ordinary if p.on_forward),
            pre_dnat=self._arrange((p for p in policies if p.pre_dnat), goes_on=True),
            untracked=self._arrange((p for p in policies if p.do_not_track), goes_on=True),
        )

    def _arrange(
        self, policies: Iterable[PolicyInput], *, goes_on: bool = False
    ) -> tuple[TierPolicies, ...]:
        """Return the policies by tier; where `goes_on`, what none of them decides passes every tier."""
        by_tier: dict[tuple[float, str], list[PolicyInput]] = {}
        for policy in policies:
            tier = tier_of(self._tiers, policy.tier) or _MISSING
            by_tier.setdefault((tier.order, policy.tier), []).append(policy)
        return tuple(
            self._tier(name, members, goes_on=goes_on)
            for (_, name), members in sorted(by_tier.items(), key=lambda entry: entry[0])
        )

    def _tier(self, name: str, policies: list[PolicyInput], *, goes_on: bool) -> TierPolicies:
        policies.sort(key=lambda policy: policy.rank)
        ingress = [policy for policy in policies if policy.for_ingress]
        egress = [policy for policy in policies if policy.for_egress]
        tier = tier_of(self._tiers, name)
        passes = goes_on or (tier is not None and tier.passes)
        # In a tier that does not exist every policy denies, whatever its rules.
        only_log_in = tier is not None and _all(policy.logs_ingress for policy in ingress)
        only_log_out = tier is not None and _all(policy.logs_egress for policy in egress)
        return TierPolicies(
            name=name,
            ingress_default="pass" if passes or only_log_in else "deny",
            egress_default="pass" if passes or only_log_out else "deny",
            ingress=tuple(policy.id for policy in ingress),
            egress=tuple(policy.id for policy in egress),
        )


def _all(given: Iterable[bool]) -> bool:
    """Tell whether there are some and all hold."""
    found = list(given)
    return bool(found) and all(found)


def _place(policy: PolicyInput | None) -> Any:
    """Return what decides where a policy stands in the lists, and what they end in."""
    if policy is None:
        return None
    return (
        policy.tier,
        policy.rank,
        (policy.for_ingress, policy.for_egress),
        (policy.logs_ingress, policy.logs_egress),
        (policy.do_not_track, policy.pre_dnat, policy.on_forward),
    )
