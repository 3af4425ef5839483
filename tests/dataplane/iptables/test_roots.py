"""How tables hang in the kernel: what the iptables tools do not show, read, planned and put right."""

import subprocess

import pytest

from hopwall_dataplane.drift import in_table
from hopwall_dataplane.iptables.nft_driver import NftDriver
from hopwall_dataplane.iptables.parse import parse_save
from hopwall_dataplane.iptables.plan import plan_table, plan_wall
from hopwall_dataplane.iptables.quarantine import closed
from hopwall_dataplane.iptables.roots import HOOKS, Hook, Place, Roots, roots
from hopwall_dataplane.iptables.table import FOREIGN, Jump, TableState, jump_hash
from hopwall_dataplane.iptables.transaction import record
from hopwall_dataplane.outcome import Family
from tests.support.netns import Netns

CHAINS = {"hw-a": ("-j DROP",)}
JUMP = Jump("FORWARD", "hw-a")


@pytest.mark.parametrize(
    "hook", [None, Hook("filter", 2, 25), Hook("filter", 1, 0), Hook("nat", 2, 0)]
)
def test_a_chain_that_hangs_elsewhere_is_another(hook: Hook | None) -> None:
    """Type, hook and priority are the tool's own, or the chain stands in the place of the true one."""
    right = Place(HOOKS["filter"]["INPUT"], 1)
    found = roots("filter", asleep=False, places={"FORWARD": Place(hook, 7), "INPUT": right})
    assert found == Roots(usurped={"FORWARD": 7})


def standing() -> TableState:
    """Return a table in which all is as wanted."""
    state = TableState()
    wanted = plan_table("filter", CHAINS, [JUMP], state).now
    assert wanted is not None
    record(state, wanted)
    assert plan_table("filter", CHAINS, [JUMP], state).now is None
    return state


def test_a_table_that_is_asleep_is_woken_though_all_its_lines_stand() -> None:
    """Nothing else differs, and yet there is a transaction; after it there is none any more."""
    state = standing()
    state.asleep = True
    wall = plan_wall("filter", CHAINS, [JUMP], state)
    for plan in (wall, plan_table("filter", CHAINS, [JUMP], state).now):
        assert plan is not None
        assert (plan.writes, plan.edits, plan.roots) == ((), (), frozenset({"FORWARD"}))
    assert plan is not None
    record(state, plan)
    assert plan_table("filter", CHAINS, [JUMP], state).now is None
    asleep = standing()
    asleep.asleep = True
    [told] = in_table(Family.V4, "filter", standing(), asleep)
    assert (told.object, told.name) == ("table", "v4 filter")


def test_a_table_is_put_right_though_a_chain_of_it_is_refused() -> None:
    """Else one bad chain would keep all others asleep: what goes in its place is a transaction of this table, too."""
    state = standing()
    state.asleep = True
    wanted = plan_table("filter", {"hw-a": ("-j ACCEPT",), "hw-b": ("-j DROP",)}, [JUMP], state).now
    assert wanted is not None
    fed = closed(wanted, {"hw-a": "it is odd"}, lambda _: ("-j DROP",))
    assert fed.roots == wanted.roots == frozenset({"FORWARD"})
    record(state, fed)
    assert not state.asleep


def test_others_tables_and_chains_are_left_as_they_are() -> None:
    """Where nothing of ours hangs nobody looks, nor where the place that is taken is none of ours."""
    assert plan_table("nat", {}, [], TableState(asleep=True)).now is None
    state = standing()
    state.usurped = frozenset({"OUTPUT"})
    assert plan_table("filter", CHAINS, [JUMP], state).now is None


def test_a_place_that_is_taken_is_taken_back() -> None:
    """Our lines come into the true chain, once there is one; it is told whose place it was."""
    known, state = standing(), standing()
    del state.kernel["FORWARD"]
    state.usurped = frozenset({"FORWARD"})
    now = plan_table("filter", CHAINS, [JUMP], state).now
    assert now is not None
    assert (now.roots, len(now.edits)) == (frozenset({"FORWARD"}), 1)
    [told] = in_table(Family.V4, "filter", known, state)
    assert "another name" in told.detail
    record(state, now)
    assert plan_table("filter", CHAINS, [JUMP], state).now is None


def test_a_line_that_went_along_with_a_renamed_chain_is_ours_no_more() -> None:
    """By its comment it is ours, but it leads to another's; other lines with targets of ours are."""
    line = f'-m comment --comment "hw:{jump_hash(JUMP)}"'
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n:hw-a - [0:0]\n:theirs - [0:0]\n-A FORWARD {line} -j {{}}\n-A hw-a {line} -j {{}}\nCOMMIT\n"
    state = parse_save(text.format("theirs", "theirs"))
    assert (state.kernel["FORWARD"], state.chains["hw-a"]) == ((FOREIGN,), (None,))
    state = parse_save(text.format("hw-a", "MARK --set-xmark 0x1/0x1"))
    assert state.kernel["FORWARD"][0].hash == jump_hash(JUMP)
    assert state.chains["hw-a"] == (jump_hash(JUMP),)


def _sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def _play() -> str:
    driver, chain = NftDriver(Family.V4), "ip filter FORWARD"
    _sh("iptables-nft -A FORWARD -s 198.51.100.7 -j ACCEPT")
    assert driver.roots("filter") == driver.roots("mangle") == Roots()
    _sh("nft add table ip filter '{ flags dormant; }'")
    assert driver.roots("filter") == Roots(asleep=True)
    for means in ("{ type filter hook forward priority 25; }", ""):
        away = f"flush chain {chain}; delete chain {chain}"
        _sh(f"nft '{away}; add chain {chain} {means}; add rule {chain} counter'")
        assert driver.roots("filter").usurped.keys() == {"FORWARD"}
        # Whatever is asked for, who is asked wakes the table; the place of another chain stays as it is.
        assert driver.put_right("filter", ["INPUT"]) == bool(means)
        assert driver.put_right("filter", ["FORWARD"]) == 1
        _sh("iptables-nft -A FORWARD -j ACCEPT")
        assert driver.roots("filter") == Roots()
    driver.close()
    return _sh("nft list table ip filter")


@pytest.mark.kernel
def test_the_kernel_wakes_tables_and_gives_places_back() -> None:
    """Each stranger goes on under a name of its own, with its hook and its line."""
    with Netns("roots") as ns:
        text = ns.python(_play)
    assert "dormant" not in text
    first, second = (
        text.partition(f"chain FORWARD-foreign{n} {{")[2].partition("}")[0] for n in ("", 2)
    )
    assert "priority 25" in first
    assert "counter" in first
    assert "hook" not in second
    assert "counter" in second
