"""policies: the rules of each policy and profile that an endpoint names, in renderable form.

What is not used by any endpoint is not resolved. What is named and absent denies: a profile that does
not exist, a policy whose tier does not exist, rules that are not understood.
"""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import PolicyInput, ProfileInput, TierInput, profile_id
from hopwall_calc.nodes.endpoint_policies import tier_of
from hopwall_calc.nodes.policy_uses import PolicyUses
from hopwall_calc.rules import ResolvedPolicy, deny_all, policy_scope, resolve
from hopwall_model.resources import Key
from hopwall_model.updates import PolicyId, PolicySet, Scope

_PROFILE = "profile/"
_NOT_UNDERSTOOD = "Its rules are not understood, so it denies everything; see the log of calc."


class Policies(KeyedNode[PolicyId, ResolvedPolicy]):
    """Policy id → its rules, while an endpoint names it."""

    name = "policies"

    def __init__(
        self,
        uses: PolicyUses,
        policies: KeyedNode[Key, PolicyInput],
        profiles: KeyedNode[str, ProfileInput],
        tiers: KeyedNode[str, TierInput],
    ) -> None:
        super().__init__()
        self._uses = uses
        self._policies = policies.out
        self._profiles = profiles.out
        self._tiers = tiers

    def on_policy_uses(self) -> Answer:
        """Mark policies whose first use began or last use ended."""
        return self.mark(
            policy
            for _, policy in self._uses.out.changed
            if (policy in self._uses.hosts) != (policy in self.out)
        )

    def on_policies(self) -> Answer:
        """Mark changed policies that are in use."""
        return self.mark(
            policy.id
            for key, old in self._policies.changed.items()
            for policy in (old, self._policies.get(key))
            if policy is not None and policy.id in self._uses.hosts
        )

    def on_profiles(self) -> Answer:
        """Mark changed profiles that are in use."""
        changed = (profile_id(name) for name in self._profiles.changed)
        return self.mark(policy for policy in changed if policy in self._uses.hosts)

    def on_tiers(self) -> Answer:
        """Give up when a tier appears or vanishes: rare, and it opens or closes all its policies."""
        existence = (
            (old is None) != (name not in self._tiers.out)
            for name, old in self._tiers.out.changed.items()
        )
        return Answer.UNHANDLED if any(existence) else Answer.UNAFFECTED

    def keys(self) -> Iterable[PolicyId]:
        """Return the policies in use."""
        return self._uses.hosts

    def compute(self, key: PolicyId) -> ResolvedPolicy | None:
        """Return the policy's rules; None if no endpoint names it."""
        if key not in self._uses.hosts:
            return None
        if key.startswith(_PROFILE):
            profile = self._profiles.get(key.removeprefix(_PROFILE))
            if profile is None:
                return deny_all(key, absent=True)
            return resolve(key, "", ingress=profile.ingress, egress=profile.egress)
        policy = self._declared(key)
        if policy is None or policy.closed:
            return self.closed(key)
        if tier_of(self._tiers, policy.tier) is None:
            return deny_all(key, tier=policy.tier, fault=_tierless(policy.tier))
        return resolve(
            key,
            policy.namespace,
            tier=policy.tier,
            ingress=policy.ingress,
            egress=policy.egress,
        )

    def _declared(self, policy_id: PolicyId) -> PolicyInput | None:
        kind, _, rest = policy_id.partition("/")
        namespace, _, name = rest.rpartition("/")
        long_kind = "NetworkPolicy" if kind == "np" else "GlobalNetworkPolicy"
        return self._policies.get(Key(long_kind, namespace, name))

    def closed(self, key: PolicyId) -> ResolvedPolicy:
        """Deny where the rules are not understood."""
        policy = None if key.startswith(_PROFILE) else self._declared(key)
        return deny_all(key, tier=policy.tier if policy else "", fault=_NOT_UNDERSTOOD)

    # ------------------------------------------------------------ as content of scopes

    def dirty_buckets(self) -> dict[Scope, list[int]]:
        """Return the scopes of changed policies."""
        return {policy_scope(key): [0] for key in self.out.changed if key in self.out}

    def n_buckets(self, scope: Scope) -> int:
        """Return 1: a policy travels whole."""
        del scope
        return 1

    def piece(self, scope: Scope, *, bucket: int, version: int, previous: int) -> PolicySet:
        """Return the policy as it travels."""
        del bucket
        key = PolicyId(scope.partition("/")[2])
        value = self.out.values[key]
        return PolicySet(
            id=key,
            version=version,
            previous=previous,
            tier=value.tier,
            ingress=value.ingress,
            egress=value.egress,
            fault=value.fault,
            absent=value.absent,
        )


def _tierless(tier: str) -> str:
    return (
        f"Its tier {tier!r} does not exist, so it denies everything; "
        "declare the tier, or name another."
    )
