"""What was put in front of the former lines of a chain, and how these go: on a fake and on the real nf_tables."""

import asyncio
import subprocess

import pytest

from hopwall_dataplane.chains import ChainBook, TableChains
from hopwall_dataplane.iptables.backend import choose
from hopwall_dataplane.iptables.dead import DeadLines
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import Plan, plan_table
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import Chain, TableKey, TableState, chain_hashes
from hopwall_dataplane.iptables.transaction import Applied, record
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from tests.support.netns import Netns

CHAIN = "hw-pi-a"
OLD: Chain = ("-p tcp -m multiport --dports 1,2 -j ACCEPT", "-s 10.0.0.0/8 -j DROP")
NEW: Chain = ("-p tcp -m multiport --dports 3 -j ACCEPT",)
KEY: TableKey = (Family.V4, "filter")


async def put(restore: Restore, actual: TableState, bodies: Chain) -> Plan:
    """Write the chain, in front of what it has."""
    plan = plan_table("filter", {CHAIN: bodies}, (), actual, in_front=(CHAIN,))
    assert plan.now is not None
    assert isinstance(await restore.apply(plan.now), Applied)
    record(actual, plan.now)
    return plan


async def held(restore: Restore) -> TableState:
    """Read what the kernel holds."""
    state = await restore.read("filter")
    assert isinstance(state, TableState)
    return state


def wanted(bodies: Chain) -> ChainBook:
    """Want the chain to say this."""
    book = ChainBook(RenderSettings(marks=layout(), prefixes=("tap",)), (Family.V4,))
    book.tables[KEY] = TableChains({CHAIN: bodies})
    return book


async def swept(foreign: str = "") -> tuple[set[TableKey], TableState, TableState]:
    """Replace the chain, let somebody else run a command, sweep; return doubts, what is believed, what is held."""
    restore = Restore(Family.V4, await choose("nft", families=(Family.V4,)))
    actual, dead = TableState(), DeadLines()
    try:
        await put(restore, actual, OLD)
        dead.note(KEY, await put(restore, actual, NEW))
        assert dead
        assert (await held(restore)).chains == actual.chains
        assert len(actual.chains[CHAIN]) == 4
        if foreign:
            subprocess.run(foreign.split(), check=True)
        doubts = dead.sweep({Family.V4: restore}, {KEY: actual}, wanted(NEW))
        assert not dead
        return doubts, actual, await held(restore)
    finally:
        await restore.close()


def sweep(foreign: str = "") -> tuple[set[TableKey], TableState, TableState]:
    """Do it in this process."""
    return asyncio.run(swept(foreign))


@pytest.mark.kernel
def test_the_lines_behind_the_guard_go_and_the_guard() -> None:
    """A sweep leaves the chain as if it had been written plainly; its lines keep their counters."""
    with Netns("dead") as ns:
        doubts, actual, kernel = ns.python(sweep)
    assert doubts == set()
    assert actual.chains == kernel.chains == {CHAIN: chain_hashes(CHAIN, NEW)}


@pytest.mark.kernel
@pytest.mark.parametrize("command", ["-F", "-I", "-A"])
def test_who_changed_the_chain_meanwhile_bares_no_dead_line(command: str) -> None:
    """Lines are taken out by what the kernel has now, and none where that is not what is believed."""
    foreign = f"iptables-nft {command} {CHAIN}" + (
        "" if command == "-F" else " -s 192.0.2.1 -j DROP"
    )
    with Netns("dead") as ns:
        doubts, _, kernel = ns.python(sweep, foreign)
    hashes = kernel.chains[CHAIN]
    if command == "-F":
        assert (doubts, hashes) == ({KEY}, ())
    elif command == "-I":
        # Before ours it is the watch's matter; no former line is met.
        assert hashes == (None, *chain_hashes(CHAIN, NEW))
    else:
        assert (doubts, len(hashes)) == ({KEY}, 5)


async def test_a_chain_that_is_another_by_now_is_left() -> None:
    """What is desired now decides what is dead."""

    class Untouched(Restore):
        def __init__(self) -> None:
            """Have no kernel."""

        def trim(self, *_: object) -> bool:
            """Be not called."""
            raise AssertionError

    dead = DeadLines()
    dead.note(KEY, Plan(dead=frozenset({CHAIN})))
    state = TableState({CHAIN: chain_hashes(CHAIN, NEW)})
    assert dead.sweep({Family.V4: Untouched()}, {KEY: state}, wanted(OLD)) == set()
