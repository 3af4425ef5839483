"""What a change of policy rewrites."""

import pytest

from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.dataplane.test_desired import step
from tests.support.fake_kernel import FakeHost

SHARED = PolicyId("gnp/shared")
N_ENDPOINTS = 1000


def endpoint(number: int, n_classes: int) -> EndpointSet:
    """Return one of many endpoints: its class has the shared policy and one of its own, if there are several."""
    own = (PolicyId(f"gnp/own-{number % n_classes}"),) if n_classes > 1 else ()
    policies = (SHARED, *own)
    return EndpointSet(
        id=EndpointId(f"d/e{number}"),
        interface=f"tap{number}",
        addresses=(f"10.65.{number // 250}.{number % 250 + 1}/32", f"fd65::{number + 1:x}/128"),
        tiers=(TierPolicies(name="default", ingress=policies, egress=policies),),
    )


def policy(name: PolicyId, *ports: int) -> PolicySet:
    """Return a policy for both directions."""
    side = Entity(ports=tuple(PortRange(p, p) for p in ports), sets=(SetId("s:x"),))
    rule = ResolvedRule(id="r", action="allow", protocol=6, destination=side)
    return PolicySet(id=name, version=1, ingress=(rule,), egress=(rule,))


@pytest.mark.parametrize("n_classes", [1, 50])
async def test_a_shared_policy_changes_by_its_own_chains_alone(n_classes: int) -> None:
    """A thousand endpoints use it, in one class or in many: two chains a family are written, and no set."""
    host = FakeHost()
    kernel = host.agent()
    own = [policy(PolicyId(f"gnp/own-{i}"), 22) for i in range(n_classes)]
    members = SetBucket(id=SetId("s:x"), version=1, members=("10.9.0.0/24",))
    endpoints = [endpoint(i, n_classes) for i in range(N_ENDPOINTS)]
    kernel.desired.apply(step(members, policy(SHARED, 80), *own, *endpoints))
    await kernel.resync()
    assert (await kernel.apply()).held_by == ""
    assert len(kernel.desired.classes.classes) == n_classes
    for restore in host.restores.values():
        restore.applied.clear()
    for ports in ((80, 443), tuple(range(1, 2000, 3)), ()):
        kernel.desired.apply(step(policy(SHARED, *ports)))
        turn = await kernel.apply()
        assert turn.held_by == ""
        chains = {policy_chain(SHARED, "ingress"), policy_chain(SHARED, "egress")}
        for family in Family:
            (tx,) = host.restores[family].applied
            assert tx.table == "filter"
            assert tx.chains == chains
            assert turn.n_ops == sum(host.restores[f].applied[0].n_lines for f in Family)
        for restore in host.restores.values():
            restore.applied.clear()
