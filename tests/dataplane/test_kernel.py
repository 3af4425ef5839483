"""The order of writing, and what becomes of what the kernel will not do, on a kernel in memory."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.as_of import AS_OF
from hopwall_dataplane.ipsets.elements import SetSpec
from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_dataplane.iptables.static import FROM_TREE, TO_TREE, from_set, to_set
from hopwall_dataplane.iptables.transaction import Failed
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family, Retry
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_model.names import set_name
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    NeedRemoved,
    PolicyId,
    Scope,
    SetBucket,
    SetId,
    Update,
)
from tests.dataplane.test_desired import changes, endpoint, policy, step
from tests.support.fake_kernel import FakeHost

PEERS = SetBucket(id=SetId("s:x"), version=1, members=("10.9.0.0/24",))
MARK = re.compile(r"-m mark --mark (\w+)/(\w+) -g (\S+)")


async def turn(kernel: Kernel, *updates: Update) -> str:
    """Fold, read what is stale, apply; return what holds it."""
    kernel.desired.apply(step(*updates))
    if kernel.stale:
        await kernel.resync()
    return (await kernel.apply()).held_by


async def sweep(kernel: Kernel) -> None:
    """Sweep until nothing is left to be swept."""
    for _ in range(5):
        await kernel.sweep()


def leads_to(host: FakeHost, family: Family, root: str, mark: int) -> str:
    """Walk a tree as a packet with this mark does; return the class chain it gets to, "" for none."""
    chain = root
    while (lines := host.chain(family, chain)) is not None:
        if chain.startswith(("hw-cf", "hw-ct")):
            return chain
        matches = [found for line in lines if (found := MARK.match(line))]
        hits = [m[3] for m in matches if mark & int(m[2], 16) == int(m[1], 16)]
        if not hits:
            return ""
        chain = hits[0]
    return ""


def nobodys(host: FakeHost) -> list[str]:
    """List the workload addresses that are closed on purpose, until they are somebody else's."""
    return [
        f"{name} {element}"
        for family in Family
        for name in (from_set(family), to_set(family))
        if name in host.sets.held
        for element, mark in host.sets.held[name][1].items()
        if mark is not None and not mark.value
    ]


def nowhere(host: FakeHost) -> list[str]:
    """List the workload addresses whose class no way leads to: they would be dropped, whatever their policy."""
    return [
        f"{name} {element}"
        for family in Family
        for name, root in ((from_set(family), FROM_TREE), (to_set(family), TO_TREE))
        if name in host.sets.held
        for element, mark in host.sets.held[name][1].items()
        if mark is not None and mark.value and not leads_to(host, family, root, mark.value)
    ]


FAULTS = st.lists(st.sampled_from([None, None, None, Retry("later")]), max_size=4)
Faults = list[Retry | None]
LIVES = st.lists(
    st.tuples(st.lists(changes(), min_size=1, max_size=3), FAULTS, FAULTS, st.booleans()),
    max_size=8,
)


@given(LIVES)
def test_at_no_moment_is_a_workload_marked_with_a_class_that_leads_nowhere(
    life: list[tuple[list[Update], Faults, Faults, bool]],
) -> None:
    """Classes come before, and go after, whoever is in them: also at a restart, also when a step fails."""
    host = FakeHost()
    lost: list[str] = []
    host.told = lambda: lost.extend(nowhere(host))

    async def live() -> None:
        kernel = host.agent()
        everything: list[Update] = []
        for updates, tables_fail, sets_fail, restarts in life:
            if restarts:
                kernel = host.agent()
                await kernel.resync()
                kernel.desired.apply(step(*everything))
            everything += updates
            host.restores[Family.V6].fail_next = list(tables_fail)
            host.sets.fail_next = list(sets_fail)
            held = await turn(kernel, *updates)
            if not held:
                await kernel.sweep()
        host.restores[Family.V6].fail_next = []
        host.sets.fail_next = []
        while await turn(kernel):
            pass
        await sweep(kernel)
        assert not kernel.desired.classes.remembered

    asyncio.run(live())
    assert lost == []
    assert nobodys(host) == []


async def test_a_change_of_a_policy_frees_no_line_until_the_sweep() -> None:
    """Nobody waits for what was freed; an agent that begins in between finds nothing to write, and sweeps too."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, PEERS, policy("gnp/a", "s:x"), endpoint(1, "gnp/a", address=1))
    deny = policy("gnp/a", "s:x", action="deny")
    await turn(kernel, deny)
    chain = policy_chain(PolicyId("gnp/a"), "ingress")
    lines = [f"-m set --match-set {set_name('v4', 's:x')} src -j DROP"]
    for family in Family:
        last = host.restores[family].applied[-1]
        assert chain in last.chains
        assert not last.frees
        assert len(host.tables[family].tables["filter"][chain].lines) == 3
    assert host.chain(Family.V4, chain) == lines
    assert kernel.sweep_in_s is not None
    other = host.agent()
    n_applied = len(host.restores[Family.V4].applied)
    await turn(other, PEERS, deny, endpoint(1, "gnp/a", address=1))
    assert len(host.restores[Family.V4].applied) == n_applied
    await other.sweep()
    assert all(len(host.tables[f].tables["filter"][chain].lines) == 1 for f in Family)
    assert host.chain(Family.V4, chain) == lines


async def test_a_refused_member_closes_the_policy_and_is_told_until_it_is_gone() -> None:
    """A deny by a set that lacks a member would let that member by."""
    host = FakeHost()
    kernel = host.agent()
    host.sets.refused = {"10.9.0.0/24"}
    deny = policy("gnp/a", "s:x", action="deny")
    await turn(kernel, PEERS, deny, endpoint(1, "gnp/a", address=1))
    chain = policy_chain(PolicyId("gnp/a"), "ingress")
    assert host.chain(Family.V4, chain) == ["-j DROP"]
    assert kernel.refused == {"set s:x": "1 members are refused, first 10.9.0.0/24: no"}
    host.sets.refused = set()
    kernel.unpark_all()
    await turn(kernel)
    assert host.chain(Family.V4, chain) == [
        f"-m set --match-set {set_name('v4', 's:x')} src -j DROP"
    ]
    assert kernel.refused == {}


async def test_a_refused_chain_is_told_by_its_policy_until_the_policy_changes_or_goes() -> None:
    """The object has the name the API knows it by; direction and family are in the reason."""
    host = FakeHost()
    kernel = host.agent()
    chain = policy_chain(PolicyId("gnp/a"), "ingress")
    host.restores[Family.V4].fail_next = [Failed(chain, "bad line", 1)]
    await turn(kernel, policy("gnp/a"), endpoint(1, "gnp/a", address=1))
    assert kernel.refused == {"policy gnp/a": "ingress (v4): bad line"}
    assert host.chain(Family.V4, chain) == ["-j DROP"]
    await turn(
        kernel, EndpointRemoved(id=EndpointId("d/e1")), NeedRemoved(scope=Scope("policy/gnp/a"))
    )
    assert kernel.refused == {}


async def test_what_is_withdrawn_goes_though_a_table_cannot_be_written() -> None:
    """To take an address away only closes, so a broken table does not hold it up."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, policy("gnp/a"), endpoint(1, "gnp/a", address=1), endpoint(2, address=2))
    assert len(host.routes.held) == 5
    for restore in host.restores.values():
        restore.fail_next = [Retry("the tool is away")]
    gone = EndpointRemoved(id=EndpointId("d/e1"))
    assert await turn(kernel, gone, endpoint(3, "gnp/b", address=3)) == "the tool is away"
    assert {route.cidr for route in host.routes.held.values()} == {
        "10.65.0.2/32",
        "fd65::2/128",
        "169.254.1.1/32",
    }
    assert [e.cidr for e in host.sets.held[to_set(Family.V4)][1]] == ["10.65.0.2/32"]


async def test_no_line_names_a_set_that_could_not_be_filled() -> None:
    """Chains wait for the sets they name."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel)
    host.sets.fail_next = [None, None, Retry("no memory")]
    assert await turn(kernel, PEERS, policy("gnp/a", "s:x"), endpoint(1, "gnp/a", address=1))
    chain = policy_chain(PolicyId("gnp/a"), "ingress")
    assert host.chain(Family.V4, chain) is None
    assert not await turn(kernel)
    assert host.chain(Family.V4, chain) != ["-j DROP"]


async def test_the_sets_of_identity_are_made_right_whatever_stands_in_their_place() -> None:
    """Neither another kind of set nor half of a rebuilt one left by a crash keeps the host from its work."""
    host = FakeHost()
    for name, kind in ((from_set(Family.V4), "hash:ip"), (to_set(Family.V4), "hash:ip")):
        old = SetSpec(name, kind, Family.V4)  # type: ignore[arg-type]
        host.sets.held[name] = (old, {})
    temporary = f"{to_set(Family.V4)}-t"
    host.sets.held[temporary] = (SetSpec(temporary, "hash:ip", Family.V4, skbinfo=True), {})
    kernel = host.agent()
    assert await turn(kernel, endpoint(1, address=1)) == ""
    assert host.sets.held[from_set(Family.V4)][0].type == "hash:net,iface"
    assert host.sets.held[to_set(Family.V4)][0].skbinfo
    assert [e.cidr for e in host.sets.held[to_set(Family.V4)][1]] == ["10.65.0.1/32"]
    assert temporary not in host.sets.held


async def test_a_class_that_comes_and_goes_unseen_leaves_its_number_free() -> None:
    """Numbers are few: one that never reached the kernel is not lost."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, endpoint(1, "gnp/a", address=1))
    kernel.desired.apply(step(endpoint(2, "gnp/b", address=2)))
    await turn(kernel, EndpointRemoved(id=EndpointId("d/e2")), endpoint(1, address=1))
    await sweep(kernel)
    assert kernel.desired.classes.remembered == {}
    assert len(kernel.desired.classes.classes) == 1


async def test_routes_that_went_with_their_interface_are_no_drift() -> None:
    """A workload that is switched off is nobody's meddling; a deleted route of another is."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, endpoint(1, address=1), endpoint(2, address=2, tap=1))
    links = dict(kernel.desired.links)
    del links["tap0"]
    host.routes.held = {k: r for k, r in host.routes.held.items() if not r.interface}
    kernel.desired.set_links(links)
    kernel.stale.add(Stale.ROUTES)
    found = await kernel.resync()
    assert sorted(one.name for one in found) == ["10.65.0.2/32", "fd65::2/128"]


async def test_where_another_route_was_put_beside_ours_is_known_though_a_reading_fails() -> None:
    """No later reading tells of it: ours is there as it was, and no packet takes it."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, endpoint(1, address=1))
    [key] = (one for one in host.routes.held if one.cidr == "10.65.0.1/32")
    kernel.doubt(Doubts({Stale.ROUTES, Stale.TABLES}, routes={key}))
    host.restores[Family.V4].fail_next_read = [Retry("it is busy")]
    with pytest.raises(OSError, match="busy"):
        await kernel.resync()
    kernel.stale |= set(Stale)
    assert [one.detail for one in await kernel.resync() if one.object == "route"] == [
        f"another was put before or beside it: {kernel.desired.routes.desired[key]}"
    ]
    assert key not in host.routes.held
    assert await turn(kernel) == ""
    assert key in host.routes.held


def test_a_chain_that_could_not_be_removed_is_whole_when_it_is_wanted_again() -> None:
    """A foreign line that held a class's chain when its last endpoint left refuses nothing to the next one."""
    host = FakeHost()

    async def run() -> None:
        kernel = host.agent()
        await turn(kernel, endpoint(1, address=1))
        filter_ = host.tables[Family.V4]
        chain = next(name for name in filter_.tables["filter"] if name.startswith("hw-cf"))
        filter_.restore(f"*filter\n:foreign\n-A foreign -j {chain}\nCOMMIT\n")
        await turn(kernel, EndpointRemoved(id=endpoint(1, address=1).id))
        await sweep(kernel)
        assert host.chain(Family.V4, chain) is not None
        await turn(kernel, endpoint(1, address=1))
        assert kernel.refused == {}
        assert nowhere(host) == []

    asyncio.run(run())


async def test_a_kernel_is_never_ahead_of_the_state_it_says_to_be_of() -> None:
    """Whenever its agent ends: before the first thing of a new state is written, the digest is the new one."""
    host = FakeHost()
    kernel = host.agent()
    kernel.as_of.want("fd00::1/128")
    await turn(kernel, policy("gnp/a", "s:x"), PEERS, endpoint(0, "gnp/a", address=1))
    assert kernel.as_of.is_of("fd00::1/128")
    seen = []
    host.told = lambda: seen.append({e.cidr for e in host.sets.held[AS_OF][1]})
    kernel.as_of.want("fd00::2/128")
    await turn(kernel, policy("gnp/a", action="deny"), endpoint(1, "gnp/a", address=2, tap=1))
    both = {"fd00::1/128", "fd00::2/128"}
    assert len(seen) > 3
    assert all(held == both for held in seen[:-1])
    assert seen[-1] == {"fd00::2/128"}
    again = host.agent()
    await again.resync()
    assert again.as_of.stands
    assert again.as_of.is_of("fd00::2/128")
    assert not again.as_of.is_of("fd00::1/128")
