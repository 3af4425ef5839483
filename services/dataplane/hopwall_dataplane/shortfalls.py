"""What is not as declared, or not as this host should have it, so that people are told: for the status alone.

A policy that denies everything because its tier is not there, an endpoint whose profile is not, an address that an
older endpoint owns. Nothing is decided here: what calc sends is closed already.

Pure.
"""

from collections.abc import Iterable

from hopwall_dataplane.classes import tier_default, tier_policies
from hopwall_dataplane.iptables.render_policy import DIRECTIONS, Direction, can_pass
from hopwall_model.status import Refusal
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    HostEndpointSet,
    Lost,
    PolicyId,
    PolicySet,
    TierPolicies,
)


class Shortfalls:
    """The faulty policies, and the endpoints that lack a profile or an address."""

    def __init__(self) -> None:
        """Begin with none."""
        #: What this kernel cannot do → what is open, or missing, for that.
        self.lacking: dict[str, str] = {}
        self._policies: dict[PolicyId, str] = {}
        self._absent: set[PolicyId] = set()
        #: A profile → the endpoints that name it.
        self._naming: dict[PolicyId, dict[EndpointId, EndpointSet]] = {}
        self._profiles: dict[EndpointId, tuple[PolicyId, ...]] = {}
        self._passing: set[tuple[PolicyId, Direction]] = set()
        self._lost: dict[EndpointId, tuple[Lost, ...]] = {}

    def put_policy(self, policy: PolicySet) -> None:
        """Take what a policy says of itself."""
        self.drop_policy(policy.id)
        if policy.fault:
            self._policies[policy.id] = policy.fault
        if policy.absent:
            self._absent.add(policy.id)
        self._passing.update((policy.id, d) for d in DIRECTIONS if can_pass(policy, d))

    def drop_policy(self, policy_id: PolicyId) -> None:
        """Forget a policy."""
        self._policies.pop(policy_id, None)
        self._absent.discard(policy_id)
        self._passing.difference_update((policy_id, d) for d in DIRECTIONS)

    def put_endpoint(self, endpoint_id: EndpointId, now: EndpointSet | None) -> None:
        """Take what an endpoint names and lacks; None is gone."""
        self._lost.pop(endpoint_id, None)
        for profile in self._profiles.pop(endpoint_id, ()):
            del self._naming[profile][endpoint_id]
            if not self._naming[profile]:
                del self._naming[profile]
        if now is None:
            return
        if now.lost:
            self._lost[endpoint_id] = now.lost
        if now.profiles:
            self._profiles[endpoint_id] = tuple(dict.fromkeys(now.profiles))
            for profile in now.profiles:
                self._naming.setdefault(profile, {})[endpoint_id] = now

    def refusals(self, host_endpoints: Iterable[HostEndpointSet]) -> Iterable[Refusal]:
        """List them, each with the resource whose matter it is."""
        for feature, effect in sorted(self.lacking.items()):
            yield Refusal(object=f"kernel without {feature}", reason=effect)
        for policy_id, fault in sorted(self._policies.items()):
            yield Refusal(object=f"rules of policy {policy_id}", reason=fault)
        yield from self._without_profile(host_endpoints)
        for endpoint_id, lost in sorted(self._lost.items()):
            for address, owner in ((each.address, each.owner) for each in lost):
                reason = (
                    f"It is that of endpoint {owner}, which is older; remove it from one of them."
                )
                yield Refusal(object=f"address {address} of endpoint {endpoint_id}", reason=reason)

    def _without_profile(self, host_endpoints: Iterable[HostEndpointSet]) -> Iterable[Refusal]:
        for profile in sorted(self._absent):
            for endpoint_id, endpoint in sorted(self._naming.get(profile, {}).items()):
                if self._matters(endpoint.tiers):
                    yield _missing(profile, f"endpoint {endpoint_id}")
        for host_endpoint in host_endpoints:
            if self._matters(host_endpoint.tiers):
                for profile in host_endpoint.profiles:
                    if profile in self._absent:
                        yield _missing(profile, f"host endpoint {host_endpoint.id}")

    def _matters(self, tiers: Iterable[TierPolicies]) -> bool:
        """Tell whether a packet, either way, gets as far as the profiles."""
        return any(
            not any(self._ends(tier, direction) for tier in tiers) for direction in DIRECTIONS
        )

    def _ends(self, tier: TierPolicies, direction: Direction) -> bool:
        policies = tier_policies(tier, direction)
        return (
            bool(policies)
            and tier_default(tier, direction) == "deny"
            and not any((policy, direction) in self._passing for policy in policies)
        )


def _missing(profile: PolicyId, owner: str) -> Refusal:
    name = profile.removeprefix("profile/")
    reason = (
        f"Profile {name!r} does not exist, so it denies what no policy decides; "
        "declare it, or name another."
    )
    return Refusal(object=f"{profile.replace('/', ' ', 1)} of {owner}", reason=reason)
