"""What calc says is not as declared, so that whoever declared it is told: kept for the status alone.

A policy that denies everything because its tier is not there, an address that an older endpoint owns.
Nothing is decided here: what calc sends is closed already.

Pure.
"""

from collections.abc import Iterable

from hopwall_model.status import Refusal
from hopwall_model.updates import EndpointId, EndpointSet, Lost, PolicyId, PolicySet


class Shortfalls:
    """The faulty policies, and the endpoints that lack an address."""

    def __init__(self) -> None:
        """Begin with none."""
        self._policies: dict[PolicyId, str] = {}
        self._lost: dict[EndpointId, tuple[Lost, ...]] = {}

    def put_policy(self, policy: PolicySet) -> None:
        """Take what a policy says of itself."""
        self._policies.pop(policy.id, None)
        if policy.fault:
            self._policies[policy.id] = policy.fault

    def drop_policy(self, policy_id: PolicyId) -> None:
        """Forget a policy."""
        self._policies.pop(policy_id, None)

    def put_endpoint(self, endpoint_id: EndpointId, now: EndpointSet | None) -> None:
        """Take what an endpoint lacks; None is gone."""
        self._lost.pop(endpoint_id, None)
        if now is not None and now.lost:
            self._lost[endpoint_id] = now.lost

    def refusals(self) -> Iterable[Refusal]:
        """List them, each with the resource whose matter it is."""
        for policy_id, fault in sorted(self._policies.items()):
            yield Refusal(object=f"rules of policy {policy_id}", reason=fault)
        for endpoint_id, lost in sorted(self._lost.items()):
            for address, owner in ((each.address, each.owner) for each in lost):
                reason = (
                    f"It is that of endpoint {owner}, which is older; remove it from one of them."
                )
                yield Refusal(object=f"address {address} of endpoint {endpoint_id}", reason=reason)
