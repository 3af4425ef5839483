"""tierless: the policies whose tier does not exist. They deny (`policies`), and somebody should be told."""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import PolicyInput, TierInput
from hopwall_calc.nodes.endpoint_policies import tier_of
from hopwall_model.resources import Key


class Tierless(KeyedNode[Key, str]):
    """Policy → the name of the tier it belongs to and that is not there."""

    name = "tierless"

    def __init__(
        self, policies: KeyedNode[Key, PolicyInput], tiers: KeyedNode[str, TierInput]
    ) -> None:
        super().__init__()
        self._policies = policies.out
        self._tiers = tiers

    def on_policies(self) -> Answer:
        """Mark the changed policies."""
        return self.mark(self._policies.changed)

    def on_tiers(self) -> Answer:
        """Mark the policies of tiers that appeared or vanished."""
        tiers = self._tiers.out
        moved = {
            name for name, old in tiers.changed.items() if (old is None) != (name not in tiers)
        }
        if not moved:
            return Answer.UNAFFECTED
        policies = self._policies.values.items()
        return self.mark(key for key, policy in policies if policy.tier in moved)

    def keys(self) -> Iterable[Key]:
        """Return every policy."""
        return self._policies

    def compute(self, key: Key) -> str | None:
        """Return the tier that is missing; None if it is there."""
        policy = self._policies.get(key)
        if policy is None or tier_of(self._tiers, policy.tier) is not None:
            return None
        return policy.tier

    def appeared(self) -> Iterable[tuple[Key, str]]:
        """Return the policies that are without their tier since `settle`, and that tier."""
        found = ((key, self.out.get(key)) for key in sorted(self.out.changed))
        return ((key, tier) for key, tier in found if tier is not None)
