"""Which flows are revoked: what a new packet of their first direction would meet."""

import ipaddress

import pytest

from hopwall_dataplane.conntrack.flow import DeleteFlow, Flow, FlowOp, HostAddresses, MarkFlow
from hopwall_dataplane.conntrack.plan import Judgement, plan_flows
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Done, Family
from hopwall_dataplane.residents import Touched, packed
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    ResolvedRule,
    SetBucket,
    SetId,
    TierPolicies,
    Update,
)

A, B, HOST, FAR = "10.65.0.2", "10.65.0.3", "10.0.0.1", "192.0.2.9"
BITS = layout().revoked
OPEN = PolicySet(
    id=PolicyId("gnp/open"),
    version=1,
    ingress=(ResolvedRule(id="i", action="allow"),),
    egress=(ResolvedRule(id="e", action="allow"),),
)
SHUT = PolicySet(id=PolicyId("gnp/shut"), version=1)
PEERS = SetId("s:peers")


def endpoint(address: str, *, ingress: PolicySet = OPEN, egress: PolicySet = OPEN) -> EndpointSet:
    """Return a workload with these policies."""
    tier = TierPolicies(name="t", ingress=(ingress.id,), egress=(egress.id,))
    last = address.rpartition(".")[2]
    return EndpointSet(
        id=EndpointId(f"d/{last}"),
        interface=f"tap{last}",
        addresses=(f"{address}/32",),
        tiers=(tier,),
    )


def host(*updates: Update) -> Desired:
    """Return a host that was told these things, and of which nobody has looked at the flows."""
    settings = RenderSettings(marks=layout(), prefixes=("tap",))
    desired = Desired("h1", settings, (Family.V4, Family.V6), "")
    tell(desired, OPEN, SHUT, *updates)
    return desired


def tell(desired: Desired, *updates: Update) -> None:
    """Tell the host more."""
    desired.apply(Step("e", 1, full=False, updates=updates))


def flow(source: str, destination: str, mark: int = 0) -> Flow:
    """Return a TCP flow."""
    ends = tuple(ipaddress.ip_address(a).packed for a in (source, destination))
    return Flow(4, 6, ends[0], ends[1], 40000, 80, None, None, mark, ends * 2, b"")


def judged(desired: Desired, one: Flow, to_host: str = "drop") -> bool:
    """Tell whether the flow is denied on a host with the address HOST."""
    own = HostAddresses.of([(packed(HOST), 32), (packed("127.0.0.0"), 8)])
    return Judgement(
        classes=desired.residents.classes,
        policies=desired.chains.policies,
        sets=desired.sets.lookup,
        host=own,
        workload_to_host="accept" if to_host == "accept" else "drop",
    ).is_denied(one)


@pytest.mark.parametrize(
    ("egress", "ingress", "source", "destination", "denied"),
    [
        (OPEN, OPEN, A, B, False),
        (SHUT, OPEN, A, B, True),
        (OPEN, SHUT, A, B, True),
        (SHUT, OPEN, A, FAR, True),
        (OPEN, SHUT, A, FAR, False),
        (SHUT, OPEN, FAR, B, False),
        (OPEN, SHUT, FAR, B, True),
        (SHUT, SHUT, HOST, B, False),  # the host reaches its own workloads whatever policy says
        (SHUT, SHUT, FAR, HOST, False),  # nobody's here
    ],
)
def test_a_flow_is_judged_by_both_ends_that_are_here(
    egress: PolicySet, ingress: PolicySet, source: str, destination: str, denied: bool
) -> None:
    """The source's egress and the destination's ingress; of strangers nothing is said."""
    desired = host(endpoint(A, egress=egress), endpoint(B, ingress=ingress))
    assert judged(desired, flow(source, destination)) is denied


@pytest.mark.parametrize(
    ("egress", "to_host", "denied"),
    [(OPEN, "drop", True), (OPEN, "accept", False), (SHUT, "accept", True)],
)
def test_a_flow_to_the_host_is_judged_as_its_packets_are(
    egress: PolicySet, to_host: str, denied: bool
) -> None:
    """Egress policy first, then the setting."""
    assert judged(host(endpoint(A, egress=egress)), flow(A, HOST), to_host) is denied


def test_only_differences_are_written_and_who_left_takes_all_along() -> None:
    """The mark follows the judgement; a flow of an address that left is deleted, judged or not."""
    fine, marked = flow(A, B, mark=0xF0), flow(A, B, mark=0xF0 | BITS)

    def ops(one: Flow, *, denied: bool, left: str = FAR) -> list[FlowOp]:
        return plan_flows([one], lambda _: denied, frozenset({packed(left)}), BITS)

    assert ops(fine, denied=False) == []
    assert ops(marked, denied=True) == []
    assert ops(fine, denied=True) == [MarkFlow(fine, revoked=True)]
    assert ops(marked, denied=False) == [MarkFlow(marked, revoked=False)]
    assert ops(marked, denied=True, left=B) == [DeleteFlow(marked)]


# ---------------------------------------------------------------- what is looked at


def touched(desired: Desired) -> set[str]:
    """Take, as text, the addresses whose flows are to be looked at."""
    return {str(ipaddress.ip_address(a)) for a in desired.take_touched().addresses}


def test_flows_are_looked_at_of_those_whom_a_change_concerns() -> None:
    """All at first; then those whose class, policy or set changed; of nobody when nothing did."""
    by_set = PolicySet(
        id=PolicyId("gnp/set"),
        version=1,
        ingress=(ResolvedRule(id="i", action="allow", source=Entity(sets=(PEERS,))),),
    )
    peers = SetBucket(id=PEERS, version=1, members=("10.0.0.0/8",))
    desired = host(by_set, peers, endpoint(A), endpoint(B, ingress=by_set))
    assert touched(desired) == {A, B}
    tell(desired, OPEN, by_set, peers, endpoint(A))
    assert not desired.take_touched()
    tell(desired, SetBucket(id=PEERS, version=2, members=("10.0.0.0/9",)))
    assert touched(desired) == {B}
    tell(desired, PolicySet(id=OPEN.id, version=2))
    assert touched(desired) == {A, B}
    tell(desired, endpoint(A, ingress=SHUT))
    assert touched(desired) == {A}


def test_an_address_leaves_when_the_kernel_still_knows_it_at_another_interface() -> None:
    """Also before a process without memory: what the sets held is what it goes by."""
    desired = host(endpoint(A))
    for op in desired.identity.plan_additions():
        desired.identity.record(op, Done())
    desired.take_touched()
    desired.note_left()
    assert not desired.take_touched()
    tell(desired, EndpointRemoved(id=EndpointId("d/2")))
    desired.note_left()
    assert desired.take_touched() == Touched(frozenset(), frozenset({packed(A)}))
