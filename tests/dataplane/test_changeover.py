"""Between two states of a kernel in memory: looked at after each element, nothing is open that neither opens."""

import re
from collections.abc import Callable

import pytest
from msgspec import structs

from hopwall_dataplane.ipsets.elements import Element
from hopwall_dataplane.iptables.static import to_set
from hopwall_dataplane.iptables.table import GUARD
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family, Retry
from hopwall_model.names import set_name
from hopwall_model.updates import (
    Entity,
    NeedRemoved,
    PolicyId,
    PolicySet,
    ResolvedRule,
    Scope,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.dataplane.test_desired import endpoint, policy
from tests.dataplane.test_kernel import turn
from tests.support.fake_kernel import FakeHost

PEER = "10.9.0.1/32"
ADDRESS = "10.65.0.9/32"


def members(name: str, *cidrs: str) -> SetBucket:
    """Return the whole of a set."""
    return SetBucket(id=SetId(name), version=1, members=cidrs)


def rules(name: str, *actions: tuple[str, str]) -> PolicySet:
    """Return a policy of these actions, each by a set."""
    made = tuple(
        ResolvedRule(id="r", action=action, source=Entity(sets=(SetId(set_id),)))  # type: ignore[arg-type]
        for action, set_id in actions
    )
    return PolicySet(id=PolicyId(name), version=1, ingress=made)


class Watched:
    """A host of which something is noted after each element and each op."""

    def __init__(self, look: Callable[[FakeHost], object]) -> None:
        self.host = FakeHost()
        self.kernel: Kernel = self.host.agent()
        self.seen: list[object] = []

        def note(_: Element | None = None) -> None:
            now = look(self.host)
            if not self.seen or self.seen[-1] != now:
                self.seen.append(now)

        self.host.told = self.host.passing = note


def holds(host: FakeHost, name: str) -> bool:
    """Tell whether a set has the peer."""
    held = host.sets.held.get(set_name("v4", name))
    return held is not None and Element(PEER) in held[1]


def mark(host: FakeHost, cidr: str = ADDRESS) -> int:
    """Return what an address is marked with as a destination; 0 is nobody."""
    held = host.sets.held.get(to_set(Family.V4))
    found = None if held is None else held[1].get(Element(cidr))
    return 0 if found is None else found.value


async def test_a_peer_that_comes_into_a_denied_set_is_there_first() -> None:
    """One change brings a peer into what is allowed and into what is denied: never into the first alone."""
    watched = Watched(lambda host: (holds(host, "s:deny"), holds(host, "s:allow")))
    both = rules("gnp/a", ("deny", "s:deny"), ("allow", "s:allow"))
    await turn(
        watched.kernel, members("s:deny"), members("s:allow"), both, endpoint(0, "gnp/a", address=9)
    )
    watched.seen.clear()

    await turn(watched.kernel, members("s:deny", PEER), members("s:allow", PEER))
    await turn(watched.kernel, members("s:deny"), members("s:allow"))

    assert watched.seen == [(True, False), (True, True), (True, False), (False, False)]


async def test_a_peer_that_goes_from_one_allowed_set_to_another_is_never_in_none() -> None:
    """What both states let by goes on being let by."""
    watched = Watched(lambda host: (holds(host, "s:x"), holds(host, "s:y")))
    either = rules("gnp/a", ("allow", "s:x"), ("allow", "s:y"))
    await turn(
        watched.kernel,
        members("s:x", PEER),
        members("s:y"),
        either,
        endpoint(0, "gnp/a", address=9),
    )
    watched.seen.clear()

    await turn(watched.kernel, members("s:x"), members("s:y", PEER))

    assert watched.seen == [(True, True), (False, True)]


async def test_whom_no_order_suits_is_nobody_meanwhile_and_others_are_not() -> None:
    """Two moves that nobody can order close those they concern, for that moment, and nobody else."""
    moving = {"s:x", "s:y"}

    def look(host: FakeHost) -> object:
        return (
            tuple(holds(host, name) for name in sorted(moving)),
            bool(mark(host)),
            bool(mark(host, "10.65.0.1/32")),
        )

    watched = Watched(look)
    passing = rules("gnp/a", ("pass", "s:x"), ("pass", "s:y"), ("pass", "s:x"))
    await turn(watched.kernel, members("s:x", PEER), members("s:y"), passing, policy("gnp/b"))
    await turn(watched.kernel, endpoint(0, "gnp/a", address=9), endpoint(1, "gnp/b", address=1))
    watched.seen.clear()

    held = await turn(watched.kernel, members("s:x"), members("s:y", PEER))

    between = [seen for seen in watched.seen if seen[0] != (False, True)]  # type: ignore[index]
    assert held == ""
    assert {seen[1] for seen in between[1:]} == {False}  # type: ignore[index]
    assert {seen[2] for seen in watched.seen} == {True}  # type: ignore[index]
    assert watched.seen[-1] == ((False, True), True, True)


async def test_an_address_that_gets_another_owner_is_nobodys_until_its_route_leads_there() -> None:
    """The loser gets no packet by the winner's policies."""

    def look(host: FakeHost) -> object:
        ways = [r.interface for r in host.routes.held.values() if r.cidr == ADDRESS]
        return mark(host), *ways

    watched = Watched(look)
    await turn(watched.kernel, policy("gnp/a"), policy("gnp/b"))
    loser, winner = endpoint(1, "gnp/a", address=9, tap=1), endpoint(0, "gnp/b", address=9, tap=2)
    await turn(watched.kernel, loser)
    lost = mark(watched.host)
    watched.seen.clear()

    await turn(watched.kernel, winner)
    won = mark(watched.host)

    assert won != lost
    assert (won, "tap1") not in watched.seen
    assert watched.seen[-1] == (won, "tap2")


async def test_who_loses_an_address_gets_no_packet_by_what_policy_says_since() -> None:
    """Also where the next owner is judged by the same policy, which is written anew in the same turn."""

    def look(host: FakeHost) -> object:
        ways = [r.interface for r in host.routes.held.values() if r.cidr == ADDRESS]
        chains = host.tables[Family.V4].tables["filter"]
        said = [(*chain.lines,) for name, chain in sorted(chains.items()) if name[:6] == "hw-pi-"]
        return bool(mark(host)), *ways, *said

    watched = Watched(look)
    opened = rules("gnp/a", ("allow", "s:x"))
    await turn(watched.kernel, members("s:x", PEER), rules("gnp/a", ("deny", "s:x")))
    await turn(watched.kernel, endpoint(1, "gnp/a", address=9, tap=1))
    shut = look(watched.host)
    watched.seen.clear()

    await turn(
        watched.kernel, structs.replace(opened, version=2), endpoint(0, "gnp/a", address=9, tap=2)
    )

    passing = [seen for seen in watched.seen if seen[0]]  # type: ignore[index]
    assert {seen[1] for seen in passing if seen != shut} == {"tap2"}  # type: ignore[index]
    assert len(passing) > 0


async def test_a_move_that_could_not_be_closed_for_is_not_made() -> None:
    """Where an address cannot be made nobody's, members stay where they are until it can."""
    host = FakeHost()
    kernel = host.agent()
    passing = rules("gnp/a", ("pass", "s:x"), ("pass", "s:y"), ("pass", "s:x"))
    await turn(
        kernel, members("s:x", PEER), members("s:y"), passing, endpoint(0, "gnp/a", address=9)
    )
    host.sets.fail_next = [Retry("later")]

    held = await turn(kernel, members("s:x"), members("s:y", PEER))

    assert held == "later"
    assert (holds(host, "s:x"), holds(host, "s:y")) == (True, False)
    assert await turn(kernel) == ""
    assert (holds(host, "s:x"), holds(host, "s:y")) == (False, True)


def a_stale_set_and_a_new_one() -> tuple[Watched, list[PolicySet]]:
    """Return a host, looked at for whether an address is somebody's, and a policy by one set or by another."""
    watched = Watched(lambda host: bool(mark(host)))
    return watched, [rules("gnp/a", ("allow", name)) for name in ("s:x", "s:y")]


async def test_a_policy_by_another_set_closes_nobody() -> None:
    """The set stands from earlier, with other members: nothing names it until the policy is written."""
    watched, (by_x, by_y) = a_stale_set_and_a_new_one()
    await turn(
        watched.kernel, members("s:x"), members("s:y"), by_x, endpoint(0, "gnp/a", address=9)
    )
    await turn(watched.kernel, NeedRemoved(scope=Scope("set/s:y")))
    watched.seen.clear()

    await turn(watched.kernel, members("s:y", PEER), by_y)

    assert holds(watched.host, "s:y")
    assert watched.seen == [True]


async def test_a_policy_whose_set_moves_as_it_is_written_closes_whom_it_judges() -> None:
    """The old rules must not be met with the new members; who has no memory knows as much of it."""
    watched, (by_x, _) = a_stale_set_and_a_new_one()
    await turn(watched.kernel, members("s:x"), by_x, endpoint(0, "gnp/a", address=9))
    watched.seen.clear()
    other = rules("gnp/a", ("deny", "s:x"))

    await turn(watched.kernel, members("s:x", PEER), other)

    assert watched.seen == [False, True]


def spelled_otherwise(host: FakeHost) -> None:
    """Let what stands be of a version that spells each line otherwise: in more than one, of another hash."""
    for tables in host.tables.values():
        for name, chain in tables.tables["filter"].items():
            if name.startswith("hw-p"):
                lines = [re.sub('"hw:.{16}', f'"hw:{i:016}', x) for i, x in enumerate(chain.lines)]
                chain.lines[:] = [line for line in lines for _ in range(2)]


@pytest.mark.parametrize(
    ("now", "closes"),
    [
        ((("allow", "s:x"), ("deny", "s:y")), False),
        ((("allow", "s:x"),), True),
        ((("deny", "s:y"), ("allow", "s:x")), True),
        ((("allow", "s:x"), ("deny", "s:y"), ("allow", "s:y")), True),
    ],
)
async def test_what_another_version_spelled_otherwise_closes_nobody_while_it_says_the_same(
    now: tuple[tuple[str, str], ...], closes: bool
) -> None:
    """After an upgrade all is written anew, and a set may move as it is: only what says something else closes."""
    watched = Watched(lambda host: bool(mark(host)))
    before = rules("gnp/a", ("allow", "s:x"), ("deny", "s:y"))
    sets = members("s:x"), members("s:y")
    await turn(watched.kernel, *sets, before, endpoint(0, "gnp/a", address=9))
    spelled_otherwise(watched.host)
    later = watched.host.agent()
    await later.resync()
    watched.seen.clear()

    new = members("s:x", PEER), members("s:y"), rules("gnp/a", *now)
    await turn(later, *new, endpoint(0, "gnp/a", address=9))

    assert holds(watched.host, "s:x")
    assert (False in watched.seen) == closes


async def test_what_stands_in_front_of_dead_lines_is_what_another_version_said() -> None:
    """An agent that goes as it has just written leaves lines that no packet meets: they say nothing."""
    watched = Watched(lambda host: bool(mark(host)))
    before, now = rules("gnp/a", ("deny", "s:x")), rules("gnp/a", ("allow", "s:x"))
    await turn(watched.kernel, members("s:x"), before, endpoint(0, "gnp/a", address=9))
    await turn(watched.kernel, now)
    spelled_otherwise(watched.host)
    assert any(
        GUARD in line
        for chain in watched.host.tables[Family.V4].tables["filter"].values()
        for line in chain.lines
    )
    later = watched.host.agent()
    await later.resync()
    watched.seen.clear()

    await turn(later, members("s:x", PEER), now, endpoint(0, "gnp/a", address=9))

    assert watched.seen == [True]


async def test_a_list_that_names_no_set_that_moves_is_not_closed_when_it_is_written() -> None:
    """A policy of somebody else is by that set; known also to an agent that has just begun."""
    watched, (by_x, by_y) = a_stale_set_and_a_new_one()
    others = PolicySet(id=PolicyId("gnp/b"), version=1, ingress=by_y.ingress)
    state = (endpoint(0, "gnp/a", address=9), endpoint(1, "gnp/b", address=1))
    await turn(watched.kernel, members("s:x", PEER), members("s:y"), by_x, others, *state)
    again = watched.host.agent()
    await again.resync()
    watched.seen.clear()

    new = rules("gnp/a", ("allow", "s:x"), ("deny", "s:x"))
    await turn(again, members("s:x", PEER), members("s:y", PEER), new, others, *state)

    assert holds(watched.host, "s:y")
    assert watched.seen == [True]


@pytest.mark.parametrize(("second", "closes"), [("allow", False), ("deny", True), ("pass", True)])
async def test_several_changes_at_once_close_nobody_where_all_is_allowed(
    second: str, closes: bool
) -> None:
    """One policy is written anew and another's set gains a peer: harmless unless something may deny it in between."""
    watched = Watched(lambda host: bool(mark(host)))
    by_x, by_y = rules("gnp/a", ("allow", "s:x")), rules("gnp/b", ("allow", "s:y"))
    both = endpoint(0, "gnp/a", "gnp/b", address=9)
    await turn(watched.kernel, members("s:x"), members("s:y"), by_x, by_y, both)
    watched.seen.clear()

    await turn(
        watched.kernel, members("s:y", PEER), rules("gnp/a", ("allow", "s:x"), (second, "s:x"))
    )

    assert holds(watched.host, "s:y")
    assert (False in watched.seen) == closes


async def test_a_policy_that_passes_no_more_closes_whom_it_judges() -> None:
    """Until it is written it lets packets on to the next tier, whose set has its new members already."""
    watched = Watched(lambda host: bool(mark(host)))
    tiers = tuple(
        TierPolicies(name=name, ingress=(PolicyId(f"gnp/{name}"),)) for name in ("a", "b")
    )
    two = structs.replace(endpoint(0, address=9), tiers=tiers)
    passes, by_y = rules("gnp/a", ("pass", "s:x")), rules("gnp/b", ("allow", "s:y"))
    await turn(watched.kernel, members("s:x", PEER), members("s:y"), passes, by_y, two)
    watched.seen.clear()

    await turn(
        watched.kernel, members("s:y", PEER), rules("gnp/a", ("allow", "s:z")), members("s:z")
    )

    assert holds(watched.host, "s:y")
    assert watched.seen == [False, True]
