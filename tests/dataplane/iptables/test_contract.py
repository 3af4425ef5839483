"""The contract of iptables, held by the fake and by the real tools alike, both backends and families."""

from hopwall_dataplane.iptables.plan import Plan, plan_table
from hopwall_dataplane.iptables.table import Chain, Jump, TableState, bearing, identities_in
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction, record
from hopwall_dataplane.outcome import Retry
from tests.dataplane.iptables.conftest import FakeKernel, RealKernel
from tests.support.fake_iptables import UNKNOWN_OPTION

Kernel = FakeKernel | RealKernel

JUMPS = (
    Jump("FORWARD", "hw-FORWARD"),
    Jump("FORWARD", "hw-second", match="-i tap+"),
    Jump("FORWARD", "hw-last", where="last"),
    Jump("INPUT", "hw-FORWARD", match="-i tap+"),
)
CHAINS: dict[str, Chain] = {
    "hw-FORWARD": ("-i tap+ -j hw-a", "-o tap+ -g hw-b"),
    "hw-a": (
        '-p tcp -m multiport --dports 80,443 -m comment --comment "hw-rule:gnp/a b" -j ACCEPT',
        "-p udp -j REJECT",
        "-m mark --mark 0x10000/0x10000 -j RETURN",
        "-j DROP",
    ),
    "hw-b": (),
    "hw-second": ("-j RETURN",),
    "hw-last": ("-j RETURN",),
}
FOREIGN = (
    "*filter\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\n"
    "-A FORWARD -i eth9 -j DOCKER\n"
    '-A FORWARD -m comment --comment "say \\"hi\\" --comment hw" -j ACCEPT\nCOMMIT\n'
)


def closed(_chain: str) -> Chain:
    """Close a chain."""
    return ("-j DROP",)


async def read(kernel: Kernel) -> TableState:
    """Read the filter table, which must work."""
    state = await kernel.restore.read("filter")
    assert isinstance(state, TableState)
    return state


async def plan(
    kernel: Kernel, chains: dict[str, Chain] = CHAINS, jumps: tuple[Jump, ...] = JUMPS
) -> Plan:
    """Plan against what the kernel holds now."""
    return plan_table("filter", chains, jumps, await read(kernel))


async def apply(kernel: Kernel, tx: Transaction | None) -> Applied | Failed | Retry:
    """Apply what must be there to apply."""
    assert tx is not None
    return await kernel.restore.apply(tx)


async def converge(
    kernel: Kernel, chains: dict[str, Chain] = CHAINS, jumps: tuple[Jump, ...] = JUMPS
) -> None:
    """Bring the kernel to desired in one turn."""
    planned = await plan(kernel, chains, jumps)
    for tx in (planned.now, planned.later):
        if tx is not None:
            assert await kernel.restore.apply(tx) == Applied()


def foreign_lines(kernel: Kernel) -> list[str]:
    """List every line of the table that is not ours, in order."""
    return [
        line
        for line in kernel.save("filter").splitlines()
        if line[:3] == "-A " and "hw-" not in line
    ]


async def test_second_plan_is_empty_when_the_first_is_applied(kernel: Kernel) -> None:
    """What is applied is read back as right, and what `record` says is what is read."""
    kernel.foreign(FOREIGN)
    before = await read(kernel)
    planned = plan_table("filter", CHAINS, JUMPS, before)
    assert await apply(kernel, planned.now) == Applied()
    assert await plan(kernel) == Plan()
    assert planned.now is not None
    record(before, planned.now)
    assert plan_table("filter", CHAINS, JUMPS, before) == Plan()
    assert before.chains == (await read(kernel)).chains


async def test_what_a_chain_says_is_read_from_what_its_lines_bear(kernel: Kernel) -> None:
    """Whose lines they are, in order, each once; none behind a guard; a line of nobody's is somebody else's."""
    one, two = "aaaaaaaaaa", "bbbbbbbbbb"
    first = bearing("-p udp -j ACCEPT", one), bearing("-p tcp -j ACCEPT", one)
    before = (*first, bearing("-j DROP", two))
    await converge(kernel, {"hw-pi-a": before, "hw-pi-b": ("-j RETURN", "-j DROP")}, ())
    assert (await read(kernel)).says == {"hw-pi-a": (one, two), "hw-pi-b": ()}
    assert identities_in(before) == (one, two)

    now = (bearing("-j DROP", two), *first)
    planned = plan_table("filter", {"hw-pi-a": now}, (), await read(kernel), in_front=("hw-pi-",))
    assert planned.dead == {"hw-pi-a"}
    await apply(kernel, planned.now)
    assert (await read(kernel)).says["hw-pi-a"] == (two, one)

    kernel.foreign("*filter\n-I hw-pi-a 2 -p udp -j ACCEPT\nCOMMIT\n")
    assert (await read(kernel)).says["hw-pi-a"] == (two, "", one)


async def test_foreign_lines_stay_where_they_are(kernel: Kernel) -> None:
    """Neither adding nor removing what is ours moves or loses a foreign line."""
    kernel.foreign(FOREIGN)
    before = foreign_lines(kernel)
    await converge(kernel)
    assert foreign_lines(kernel) == before
    await converge(kernel, {}, ())
    assert foreign_lines(kernel) == before
    assert "hw-" not in kernel.save("filter")


async def test_jumps_enclose_foreign_lines(kernel: Kernel) -> None:
    """`first` jumps stand before all foreign lines in their order, `last` ones after them."""
    kernel.foreign(FOREIGN)
    await converge(kernel)
    lines = [line for line in kernel.save("filter").splitlines() if line.startswith("-A FORWARD")]
    targets = [line.partition("-j ")[2].split()[0] for line in lines]
    assert targets == ["hw-FORWARD", "hw-second", "DOCKER", "ACCEPT", "hw-last"]


async def test_jump_moves_back_before_a_foreign_line(kernel: Kernel) -> None:
    """A foreign line put above ours is passed over again, and itself not touched."""
    await converge(kernel)
    kernel.foreign("*filter\n-I FORWARD 1 -i eth9 -j ACCEPT\nCOMMIT\n")
    before = foreign_lines(kernel)
    await converge(kernel)
    assert await plan(kernel) == Plan()
    assert foreign_lines(kernel) == before
    first = next(line for line in kernel.save("filter").splitlines() if "-A FORWARD" in line)
    assert "-j hw-FORWARD" in first


async def test_deleted_and_doubled_jumps_are_repaired(kernel: Kernel) -> None:
    """A jump that was deleted comes back; one that stands twice stands once."""
    await converge(kernel)
    mark = next(line for line in (await read(kernel)).kernel["INPUT"] if line.hash)
    kernel.foreign(f"*filter\n-A INPUT {mark.text}\nCOMMIT\n")
    await converge(kernel)
    assert kernel.save("filter").count("-A INPUT") == 1
    kernel.foreign(f"*filter\n-D INPUT {mark.text}\nCOMMIT\n")
    await converge(kernel)
    assert kernel.save("filter").count("-A INPUT") == 1
    assert await plan(kernel) == Plan()


async def test_damaged_chains_are_rewritten(kernel: Kernel) -> None:
    """A chain of ours with a foreign line, a missing line, or none left is made whole."""
    await converge(kernel)
    for damage in (
        "-A hw-a -j ACCEPT",
        "-I hw-a 1 -j ACCEPT",
        ":hw-a - [0:0]",
        ":hw-a - [0:0]\n-A hw-a -j DROP",
    ):
        kernel.foreign(f"*filter\n{damage}\nCOMMIT\n")
        planned = await plan(kernel)
        assert planned.now is not None
        assert planned.now.chains == {"hw-a"}
        assert await kernel.restore.apply(planned.now) == Applied()
        assert await plan(kernel) == Plan()


async def test_removed_chains_go_later(kernel: Kernel) -> None:
    """First nothing refers to a chain any more, then it goes."""
    await converge(kernel)
    kept = {name: bodies for name, bodies in CHAINS.items() if name not in ("hw-a", "hw-b")}
    kept["hw-FORWARD"] = ("-j DROP",)
    planned = await plan(kernel, kept)
    assert await apply(kernel, planned.now) == Applied()
    assert ":hw-a " in kernel.save("filter")
    assert await apply(kernel, planned.later) == Applied()
    assert await plan(kernel, kept) == Plan()
    assert ":hw-a " not in kernel.save("filter")


async def test_refused_line_names_its_chain_and_nothing_is_applied(kernel: Kernel) -> None:
    """A line the tool will not have fails the whole transaction; its chain is named."""
    await converge(kernel)
    before = await read(kernel)
    for bad in (f"-p tcp {UNKNOWN_OPTION} 1 -j DROP", "-m set --match-set hw-absent src -j DROP"):
        planned = await plan(kernel, CHAINS | {"hw-c": ("-j DROP", bad), "hw-d": ("-j DROP",)})
        outcome = await apply(kernel, planned.now)
        assert isinstance(outcome, Failed)
        assert outcome.chain == "hw-c"
        assert outcome.line == 5
        assert "COMMIT" not in outcome.message
        assert await read(kernel) == before


async def test_quarantine_closes_the_bad_chain_and_applies_the_rest(kernel: Kernel) -> None:
    """Chains the tool names, and chains only the search finds, are closed; all others are as wanted."""
    await converge(kernel)
    bad: dict[str, Chain] = {
        "hw-bad1": (f"-p tcp {UNKNOWN_OPTION} 1 -j ACCEPT",),
        "hw-bad2": ("-j ACCEPT", "-j hw-missing"),
        "hw-bad3": ("-p udp -j REJECT --reject-with tcp-reset", "-j ACCEPT"),
    }
    good: dict[str, Chain] = {
        f"hw-good{n}": (f"-p tcp --dport {n} -j ACCEPT",) for n in range(1, 9)
    }
    good["hw-FORWARD"] = tuple(f"-j {name}" for name in (*bad, *good))
    wanted = {**CHAINS, **bad, **good}
    planned = await plan(kernel, wanted)
    assert planned.now is not None
    outcome = await kernel.restore.apply_with_quarantine(planned.now, closed)
    assert isinstance(outcome, Applied)
    assert set(outcome.refused) == set(bad)
    assert all(outcome.refused.values())
    held: dict[str, Chain] = {**wanted, **dict.fromkeys(bad, ("-j DROP",))}
    assert await plan(kernel, held) == Plan()


async def test_removal_held_by_a_foreign_line_does_not_stop_the_others(kernel: Kernel) -> None:
    """A chain somebody else jumps to stays, and is reported; other chains go."""
    await converge(kernel)
    kernel.foreign("*filter\n-A OUTPUT -j hw-a\nCOMMIT\n")
    await apply(kernel, (await plan(kernel, {}, ())).now)
    later = (await plan(kernel, {}, ())).later
    assert later is not None
    outcome = await kernel.restore.apply_with_quarantine(later, closed)
    assert isinstance(outcome, Applied)
    assert set(outcome.refused) == {"hw-a"}
    assert set((await read(kernel)).chains) == {"hw-a"}


async def test_fault_of_a_kernel_chain_is_nobodys(kernel: Kernel) -> None:
    """Where no chain can be closed to help, all of it fails and nothing is applied."""
    before = await read(kernel)
    wanted: dict[str, Chain] = {"hw-x": ("-j RETURN",)}
    planned = await plan(kernel, wanted, (Jump("FORWARD", "hw-missing"),))
    assert planned.now is not None
    only_jump = planned.now.subset({"FORWARD"})
    outcome = await kernel.restore.apply_with_quarantine(only_jump, closed)
    assert isinstance(outcome, Failed)
    assert await read(kernel) == before


async def test_stale_picture_asks_for_another_read(kernel: Kernel) -> None:
    """A line of ours that somebody deleted before we could is no fault of ours: read and try again."""
    await converge(kernel)
    planned = await plan(kernel, CHAINS, ())
    mark = next(line for line in (await read(kernel)).kernel["INPUT"] if line.hash)
    kernel.foreign(f"*filter\n-D INPUT {mark.text}\nCOMMIT\n")
    assert isinstance(await apply(kernel, planned.now), Retry)
    await converge(kernel, CHAINS, ())
    assert await plan(kernel, CHAINS, ()) == Plan()


async def test_loop_is_refused_whole(kernel: Kernel) -> None:
    """Chains that jump in a circle are not applied."""
    await converge(kernel)
    before = await read(kernel)
    wanted = CHAINS | {"hw-b": ("-j hw-c",), "hw-c": ("-j hw-b",)}
    assert isinstance(await apply(kernel, (await plan(kernel, wanted)).now), Failed)
    assert await read(kernel) == before


async def test_loop_is_cut_by_quarantine(kernel: Kernel) -> None:
    """Of chains that jump in a circle at least one is closed, and the rest applied."""
    await converge(kernel)
    wanted: dict[str, Chain] = CHAINS | {
        "hw-b": ("-j hw-c",),
        "hw-c": ("-j hw-b",),
        "hw-d": ("-j DROP",),
    }
    planned = await plan(kernel, wanted)
    assert planned.now is not None
    outcome = await kernel.restore.apply_with_quarantine(planned.now, closed)
    assert isinstance(outcome, Applied)
    assert set(outcome.refused) < {"hw-b", "hw-c"}
    assert len((await read(kernel)).chains["hw-d"]) == 1


async def test_all_tables_take_a_chain(kernel: Kernel) -> None:
    """Each of the four tables is planned, applied and read by itself."""
    for table, builtin in (
        ("raw", "PREROUTING"),
        ("mangle", "FORWARD"),
        ("filter", "INPUT"),
        ("nat", "POSTROUTING"),
    ):
        jumps = (Jump(builtin, "hw-x"),)
        chains: dict[str, Chain] = {"hw-x": ("-j RETURN",)}
        for _ in range(2):
            state = await kernel.restore.read(table)  # type: ignore[arg-type]  # a literal above
            assert isinstance(state, TableState)
            planned = plan_table(table, chains, jumps, state)  # type: ignore[arg-type]  # as above
            if planned.now is not None:
                assert await kernel.restore.apply(planned.now) == Applied()
        assert planned == Plan()
