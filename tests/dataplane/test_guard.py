"""Which snapshots a host obeys."""

import pytest
from msgspec import structs

from hopwall_dataplane.feed import Step
from hopwall_dataplane.guard import Guard, Limits, judge
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    HostBatch,
    HostEndpointId,
    HostEndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    SetBucket,
    SetId,
    TierPolicies,
    Update,
    Verdict,
)

LIMITS = Limits(share=0.5, count=10)


def endpoint(n: int, *policies: str) -> EndpointSet:
    """Return one of many endpoints."""
    ids = tuple(PolicyId(policy) for policy in policies)
    tiers = (TierPolicies(name="default", ingress=ids),) if ids else ()
    address = f"10.65.{n >> 8}.{n & 255}/32"
    return EndpointSet(
        id=EndpointId(f"d/{n}"), interface=f"tap{n}", addresses=(address,), tiers=tiers
    )


def policy(name: str) -> PolicySet:
    """Return a policy."""
    return PolicySet(id=PolicyId(name), version=1)


def held(*updates: Update, epoch: str = "e1") -> Mirror:
    """Return what a host has."""
    mirror = Mirror()
    mirror.fold(Step(epoch, 5, full=True, updates=updates))
    return mirror


def snapshot(*updates: Update, epoch: str = "e2", accounted: tuple[str, ...] = ()) -> HostBatch:
    """Return what calc says."""
    return HostBatch(
        host="h1",
        epoch=epoch,
        number=1,
        revision=3,
        full=True,
        updates=updates,
        accounted=accounted,
    )


@pytest.mark.parametrize(
    ("n_had", "n_have", "obeyed"),
    [
        (0, 0, True),
        (0, 5, True),
        (1, 0, False),
        (10, 1, True),
        (10, 0, False),
        (20, 10, True),
        (20, 9, False),
        (21, 10, False),
        (5000, 2500, True),
        (5000, 2499, False),
    ],
)
def test_a_snapshot_that_lacks_too_much_is_not_obeyed(
    n_had: int, n_have: int, obeyed: bool
) -> None:
    """All of it, or more than half and more than ten."""
    verdict = judge(
        held(*(endpoint(n) for n in range(n_had))),
        (),
        snapshot(*(endpoint(n) for n in range(n_have))),
        LIMITS,
    )
    assert (verdict.reason == "") is obeyed
    if not obeyed:
        assert f"lacks {n_had - n_have} of {n_had} endpoints (endpoint d/" in verdict.reason
        assert len(verdict.missing) == n_had - n_have


def test_what_calc_accounts_for_is_not_missed() -> None:
    """An event took them away: then they may go, however many they are."""
    have = held(*(endpoint(n) for n in range(20)))
    names = tuple(f"endpoint d/{n}" for n in range(20))
    assert judge(have, (), snapshot(), LIMITS).missing == tuple(sorted(names))
    assert judge(have, (), snapshot(accounted=names), LIMITS).reason == ""
    assert judge(have, (), snapshot(accounted=names[:8]), LIMITS).reason.count("12 of 20") == 1


def test_policies_that_vanish_from_endpoints_that_stay_are_missed() -> None:
    """Endpoints without their policies may be open; policies of endpoints that go, go with them."""
    have = held(endpoint(1, "gnp/a"), endpoint(2, "gnp/b"), policy("gnp/a"), policy("gnp/b"))
    bare = snapshot(endpoint(1), endpoint(2))
    assert "2 of 2 policies (policy gnp/a, policy gnp/b)" in judge(have, (), bare, LIMITS).reason
    without_one = snapshot(endpoint(1, "gnp/a"), policy("gnp/a"))
    assert judge(have, (), without_one, LIMITS).reason == ""


def test_host_endpoints_are_missed_too() -> None:
    """They close what is nobody else's."""
    have = held(HostEndpointSet(id=HostEndpointId("h1-eth0"), interface="eth0"))
    assert "1 of 1 host endpoints" in judge(have, (), snapshot(), LIMITS).reason


def test_addresses_in_the_kernel_count_where_nothing_else_is_known() -> None:
    """A restart without a file knows the addresses at least."""
    mine = {"10.65.0.1", "10.65.0.2"}
    assert "2 of 2 addresses" in judge(Mirror(), mine, snapshot(), LIMITS).reason
    assert judge(Mirror(), mine, snapshot(endpoint(1), endpoint(9)), LIMITS).reason == ""


def test_within_an_epoch_everything_is_obeyed() -> None:
    """There things go by events that calc has seen, also over a restart of the agent."""
    guard = Guard(LIMITS)
    have = held(endpoint(1), epoch="e1")
    assert guard.admits(have, (), snapshot(epoch="e1"), epoch="e1")
    assert guard.admits(have, (), snapshot(epoch="e1"), epoch="")
    assert not guard.admits(have, (), snapshot(epoch="e2"), epoch="e1")
    assert guard.held is not None


def test_a_release_is_for_one_epoch() -> None:
    """What the operator has not looked at is not let through; what repairs itself needs no release."""
    guard = Guard(LIMITS)
    have = held(endpoint(1))
    assert guard.release("e2") == "It holds back no snapshot."
    assert not guard.admits(have, (), snapshot(), "e1")
    assert "epoch e2, and not of e9" in guard.release("e9")
    assert guard.release("e2") == ""
    assert guard.admits(have, (), snapshot(), "e1")
    assert guard.held is None
    assert not guard.admits(have, (), snapshot(epoch="e3"), "e2")
    assert guard.admits(have, (), snapshot(endpoint(1), epoch="e4"), "e2")
    assert guard.held is None


def test_the_question_to_calc_fits_a_message() -> None:
    """Of very many names as many are asked about as a message holds."""
    verdict = judge(held(*(endpoint(n) for n in range(60_000))), (), snapshot(), LIMITS)
    assert "60000 of 60000" in verdict.reason
    assert sum(len(name) + 3 for name in verdict.missing) < 600_000


def routes(host: str, *addresses: str) -> RoutesBucket:
    """Return what lives on another host."""
    return RoutesBucket(host=host, version=1, cidrs=addresses, gateway_v4="172.18.203.126")


def members(*found: str, name: str = "s:web") -> SetBucket:
    """Return what is in a set."""
    return SetBucket(id=SetId(name), version=1, members=found)


THERE = ("10.65.0.23/32", "fd65::17/128")


@pytest.mark.parametrize(
    ("snapshot_", "obeyed"),
    [
        (snapshot(), False),
        (snapshot(epoch="other.e2.2"), False),
        (structs.replace(snapshot(epoch="store.e2.2"), revision=6), True),
        (snapshot(routes("h3", *THERE)), True),
        (snapshot(routes("h2", "10.65.0.99/32")), True),
        (snapshot(routes("h2", THERE[0])), True),
        (snapshot(routes("h2"), members(THERE[0])), False),
    ],
    ids=["older", "another", "went on", "moved", "exchanged", "one less", "none there"],
)
def test_what_lives_on_other_hosts_is_missed_where_the_store_is_not_the_one(
    snapshot_: HostBatch, obeyed: bool
) -> None:
    """Their own hosts hold on to it; who took the routes away would cut it off all the same."""
    mirror = held(routes("h2", *THERE), epoch="store.e1.1")
    guard = Guard(LIMITS)
    assert guard.admits(mirror, (), snapshot_, "store.e1.1") is obeyed
    if not obeyed:
        assert guard.held is not None
        assert "2 of 2 addresses of host h2 (10.65.0.23/32, fd65::17/128)" in guard.held.reason


def by_set(action: Verdict, *, excepted: bool = False, name: str = "s:web") -> PolicySet:
    """Return a policy with a rule that names a set."""
    ids = (SetId(name),)
    side = Entity(not_sets=ids) if excepted else Entity(sets=ids)
    rule = ResolvedRule(id="r", action=action, source=side)
    return PolicySet(id=PolicyId("gnp/p"), version=1, ingress=(rule,))


@pytest.mark.parametrize(
    ("policy_", "obeyed"),
    [
        (by_set("deny"), False),
        (by_set("pass"), False),
        (by_set("allow", excepted=True), False),
        (by_set("allow"), True),
        (by_set("deny", excepted=True), True),
        (by_set("log"), True),
        (by_set("deny", name="s:other"), True),
    ],
)
def test_members_are_missed_where_their_absence_lets_somebody_by(
    policy_: PolicySet, obeyed: bool
) -> None:
    """A deny that has nobody left to deny lets by; an allow that has nobody left closes."""
    mirror = held(members(*THERE), epoch="store.e1.1")
    verdict = judge(mirror, (), snapshot(members(), policy_), LIMITS)
    assert (verdict.reason == "") is obeyed
    assert verdict.missing == ()
    if not obeyed:
        assert "2 of 2 members of set s:web" in verdict.reason


def test_a_set_may_change_and_go() -> None:
    """What was exchanged for something else is an ordinary change, unless it is very much."""
    deny = by_set("deny")
    mirror = held(members(*THERE), epoch="store.e1.1")
    assert not judge(mirror, (), snapshot(deny), LIMITS).reason
    assert not judge(mirror, (), snapshot(members("192.0.2.0/24"), deny), LIMITS).reason
    many = held(members(*(f"10.65.0.{n}/32" for n in range(11))))
    assert judge(many, (), snapshot(members("192.0.2.0/24"), deny), LIMITS).reason


def test_of_very_many_hosts_the_first_are_named() -> None:
    """One sentence, however large the cloud is."""
    mirror = held(*(routes(f"h{n}", f"10.65.0.{n}/32") for n in range(100)))
    reason = judge(mirror, (), snapshot(), LIMITS).reason
    assert "much of 97 more" in reason
    assert len(reason) < 500


def test_an_older_store_that_is_written_on_stays_an_older_one() -> None:
    """Its numbers pass the host's own; what it lacks it lacks still, until it is the right one again."""
    mirror = held(routes("h2", *THERE), epoch="store.e1.1")
    guard = Guard(LIMITS)
    assert not guard.admits(mirror, (), snapshot(epoch="store.e2.2"), "store.e1.1")
    grown = structs.replace(snapshot(epoch="store.e2.2"), revision=9)
    assert not guard.admits(mirror, (), grown, "store.e1.1")
    assert not guard.admits(mirror, (), structs.replace(grown, epoch="store.e3.3"), "store.e1.1")
    right = structs.replace(snapshot(routes("h2", *THERE), epoch="store.e4.4"), revision=9)
    assert guard.admits(mirror, (), right, "store.e1.1")
    went_on = structs.replace(snapshot(epoch="store.e5.5"), revision=10)
    assert guard.admits(mirror, (), went_on, "store.e4.4")
