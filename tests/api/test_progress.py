"""When is it true: stages of a write from what calc and the hosts report."""

from typing import Any

import pytest
from msgspec import structs

from hopwall_api.progress import Progress, Target, Tracker
from hopwall_model.resources import Key
from hopwall_model.status import BgpStatus, CalcStatus, LeftOut, MovesNobody, Refusal, Waiting
from tests.api.caller import calc_status, host_status

VM = Key("WorkloadEndpoint", "default", "vm1")
HOST_A, HOST_B = (Key("HostEndpoint", "", name) for name in "ab")
TIER = Key("Tier", "", "security")
POLICY = Key("GlobalNetworkPolicy", "", "isolate")
PEER, OTHER_PEER = (Key("BGPPeer", "", name) for name in ("tor", "to"))


#: What reads show, where that is no matter.
SHOWN = 1000


def stages(progress: Progress) -> dict[str, tuple[str, str]]:
    """Return each condition's status and reason."""
    return {c.type: (c.status, c.reason) for c in progress.conditions}


def tracked(*statuses: Any) -> Tracker:
    """Return a tracker that heard these reports."""
    tracker = Tracker()
    for status in statuses:
        if hasattr(status, "host"):
            tracker.fold_host(status)
        else:
            tracker.fold_calc(status, SHOWN)
    return tracker


def repeated(status: CalcStatus, *hosts: str) -> CalcStatus:
    """Return the report as calc repeats it: with all hosts there are."""
    return structs.replace(status, all_hosts=hosts)


def programmed(tracker: Tracker, revision: int = 5, key: Key = VM) -> tuple[str, str]:
    """Return the Programmed condition of one write."""
    return stages(tracker.progress([Target(key, revision)]))["Programmed"]


def test_without_calc_nothing_is_known() -> None:
    """Stored is all that can be said."""
    found = stages(Tracker().progress([Target(VM, 5)]))
    assert found["Accepted"] == ("True", "Stored")
    assert found["Computed"] == ("Unknown", "NoReport")
    assert found["Programmed"] == ("Unknown", "NotComputed")


def test_computed_when_a_report_covers_the_revision() -> None:
    """A report of an earlier revision does not do."""
    tracker = tracked(calc_status(0, 4, "h1"))
    assert stages(tracker.progress([Target(VM, 5)]))["Computed"] == ("False", "Pending")
    tracker.fold_calc(calc_status(5, 6, "h1"), SHOWN)
    assert tracker.progress([Target(VM, 5)]).reached("computed")


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (None, ("False", "Pending")),
        (host_status("h1", 4), ("False", "Pending")),
        (host_status("h1", 5, epoch="e0"), ("False", "Pending")),
        (host_status("h1", 5, in_sync=False), ("False", "Pending")),
        (host_status("h1", 5), ("True", "Enforced")),
        (host_status("h1", 9), ("True", "Enforced")),
        (
            host_status("h1", 5, refused=(Refusal(object="endpoint default/vm1", reason="x"),)),
            ("False", "Refused"),
        ),
        (
            host_status("h1", 5, refused=(Refusal(object="endpoint default/vm2", reason="x"),)),
            ("True", "Enforced"),
        ),
        (
            host_status("h1", 5, refused=(Refusal(object="set s:1", reason="x"),)),
            ("False", "Refused"),
        ),
        (
            host_status("h1", 5, waiting=(Waiting(endpoint="default/vm1", reason="no tap"),)),
            ("False", "Pending"),
        ),
        (
            host_status("h1", 5, waiting=(Waiting(endpoint="default/vm2", reason="no tap"),)),
            ("True", "Enforced"),
        ),
    ],
)
def test_programmed_only_when_the_host_says_so(status: Any, wanted: tuple[str, str]) -> None:
    """One host concerned, in each of its states."""
    tracker = tracked(calc_status(0, 4, "h1"), calc_status(5, 5, "h1"))
    if status is not None:
        tracker.fold_host(status)
    assert programmed(tracker) == wanted


def test_only_the_hosts_of_the_covering_report_matter() -> None:
    """A host that this revision did not change may lag behind as far as it likes."""
    tracker = tracked(
        calc_status(0, 4, "h1", "h2"),
        calc_status(5, 5, "h1"),
        calc_status(6, 6, "h2"),
        host_status("h1", 5),
        host_status("h2", 1),
    )
    assert programmed(tracker, 5) == ("True", "Enforced")
    assert programmed(tracker, 6) == ("False", "Pending")


def test_a_revision_that_concerns_nobody_is_programmed() -> None:
    """A policy that selects nobody is in force at once."""
    tracker = tracked(calc_status(0, 4, "h1"), calc_status(5, 5))
    assert programmed(tracker) == ("True", "NoHosts")


def test_a_migration_that_moves_nobody_is_not_programmed() -> None:
    """It says why, by itself and among others; its removal is done, and so is what moves somebody."""
    move = Key("LiveMigration", "prod", "move-7")
    without = MovesNobody("prod/move-7", "No endpoint is its target.")
    tracker = tracked(structs.replace(calc_status(0, 5, "h1"), moves_nobody=(without,)))
    tracker.fold_host(host_status("h1", 5))
    assert programmed(tracker, key=move) == ("False", "NoPair")
    assert programmed(tracker, key=VM) == ("True", "Enforced")
    both = tracker.progress([Target(VM, 5), Target(move, 5)])
    assert both.conditions[-1].message.endswith("moves nobody. No endpoint is its target.")
    assert not both.settled()
    assert tracker.progress([Target(move, 5, removed=True)]).reached("programmed")
    tracker.fold_calc(calc_status(6, 6, "h1"), SHOWN)
    assert programmed(tracker, key=move) == ("True", "Enforced")


def test_what_calc_leaves_out_is_not_programmed() -> None:
    """It says what becomes of it, and waiting longer is in vain; others, and its removal, are programmed."""
    left = LeftOut(str(VM), "It is not understood: Invalid.")
    tracker = tracked(structs.replace(calc_status(0, 5, "h1"), left_out=(left,)))
    tracker.fold_host(host_status("h1", 5))
    assert programmed(tracker, key=VM) == ("False", "NotUnderstood")
    found = tracker.progress([Target(VM, 5)])
    assert found.conditions[-1].message.endswith("is not enforced as it says. " + left.reason)
    assert found.settled()
    assert programmed(tracker, key=Key("Node", "", "h1")) == ("True", "Enforced")
    assert tracker.progress([Target(VM, 5, removed=True)]).reached("programmed")


def test_a_new_epoch_covers_everything_and_forgets_the_old() -> None:
    """The first report of an epoch names all hosts, and only reports of that epoch count."""
    tracker = tracked(calc_status(0, 5, "h1"), host_status("h1", 5))
    assert programmed(tracker) == ("True", "Enforced")
    tracker.fold_calc(calc_status(0, 5, "h1", "h2", epoch="e2"), SHOWN)
    progress = tracker.progress([Target(VM, 5)])
    assert stages(progress)["Programmed"] == ("False", "Pending")
    assert [one.host for one in progress.laggards] == ["h1", "h2"]
    tracker.fold_host(host_status("h1", 5, epoch="e2"))
    tracker.fold_host(host_status("h2", 5, epoch="e2"))
    assert programmed(tracker) == ("True", "Enforced")


def test_a_report_that_was_missed_makes_every_host_matter() -> None:
    """In a gap nobody can say whom a revision concerns, so it is not called programmed lightly."""
    tracker = tracked(
        calc_status(0, 4, "h1", "h2"),
        calc_status(8, 9, "h1"),
        host_status("h1", 9),
        host_status("h2", 4),
    )
    assert programmed(tracker, 6) == ("Unknown", "HostsUnknown")
    tracker.fold_host(host_status("h2", 6))
    assert programmed(tracker, 6) == ("Unknown", "HostsUnknown")
    tracker.fold_calc(repeated(calc_status(8, 9, "h1"), "h1", "h2", "h3"), SHOWN)
    assert programmed(tracker, 6) == ("False", "Pending")
    tracker.fold_host(host_status("h3", 7))
    assert programmed(tracker, 6) == ("True", "Enforced")
    assert programmed(tracker, 4) == ("True", "Enforced")


def test_a_host_that_was_never_heard_of_is_not_left_out() -> None:
    """An API that begins to listen late must not take the hosts it has heard for all that there are."""
    tracker = tracked(calc_status(8, 9), host_status("h2", 9))
    assert programmed(tracker, 6) == ("Unknown", "HostsUnknown")
    assert not tracker.progress([Target(VM, 6)]).settled()
    tracker.fold_calc(repeated(calc_status(8, 9), "h1", "h2"), SHOWN)
    assert programmed(tracker, 6) == ("False", "Pending")
    assert programmed(tracker, 9) == ("True", "NoHosts")
    tracker.fold_host(host_status("h1", 6))
    assert programmed(tracker, 6) == ("True", "Enforced")


def test_a_refusal_does_not_speak_for_hosts_that_were_not_heard() -> None:
    """Where one refuses and keeps it closed, another that nobody has heard yet may still do what was before."""
    refused = (Refusal(object="rules of policy gnp/isolate", reason="no tier"),)
    tracker = tracked(calc_status(8, 9), host_status("h2", 9, refused=refused))
    assert programmed(tracker, 6, POLICY) == ("Unknown", "HostsUnknown")
    progress = tracker.progress([Target(POLICY, 6)])
    assert not progress.settled()
    assert [one.host for one in progress.laggards] == ["h2"]
    tracker.fold_calc(repeated(calc_status(8, 9), "h1", "h2"), SHOWN)
    assert programmed(tracker, 6, POLICY) == ("False", "Refused")
    assert not tracker.progress([Target(POLICY, 6)]).settled()
    tracker.fold_host(host_status("h1", 9))
    assert tracker.progress([Target(POLICY, 6)]).settled()


def test_all_hosts_are_known_from_the_first_report_of_an_epoch() -> None:
    """What was stored before it concerns nobody whom it does not name; what comes after it may."""
    tracker = tracked(calc_status(0, 5, "h1"), calc_status(8, 9), host_status("h1", 9))
    assert programmed(tracker, 3) == ("True", "Enforced")
    assert programmed(tracker, 6) == ("Unknown", "HostsUnknown")
    tracker.fold_calc(calc_status(9, 9, epoch="e2"), SHOWN)
    assert programmed(tracker, 3) == ("Unknown", "HostsUnknown")


def test_a_report_of_no_event_speaks_of_none() -> None:
    """What calc computed again without an event says nothing of whom the last event concerns."""
    tracker = tracked(calc_status(0, 4, "h1", "h2"), calc_status(7, 6, "h1"))
    tracker.fold_host(host_status("h1", 6))
    assert programmed(tracker, 6) == ("Unknown", "HostsUnknown")


def test_an_old_report_does_not_turn_time_back() -> None:
    """A repeated or late report of the same epoch changes nothing."""
    tracker = tracked(calc_status(0, 4), calc_status(5, 9, "h1"), calc_status(0, 4))
    assert tracker.calc is not None
    assert tracker.calc.revision == 9
    assert programmed(tracker, 9) == ("False", "Pending")


def test_many_writes_are_programmed_when_all_are() -> None:
    """A bulk apply waits for the hosts of every item."""
    tracker = tracked(
        calc_status(0, 4, "h1", "h2"),
        calc_status(5, 5, "h1"),
        calc_status(6, 6, "h2"),
        host_status("h1", 6),
        host_status("h2", 5),
    )
    progress = tracker.progress([Target(VM, 5), Target(POLICY, 6)])
    assert (progress.hosts.desired, progress.hosts.programmed) == (2, 1)
    assert progress.laggards[0].reason == "Host h2 enforces revision 5 of 6."


def test_a_refused_policy_is_named_and_settles_the_wait() -> None:
    """Once every host has answered and one refuses, more waiting is in vain."""
    refused = (Refusal(object="policy gnp/isolate", reason="too long"),)
    tracker = tracked(
        calc_status(0, 5, "h1", "h2"), host_status("h1", 5), host_status("h2", 5, refused=refused)
    )
    progress = tracker.progress([Target(POLICY, 5)])
    assert progress.settled()
    assert progress.hosts.failed == 1
    assert "too long" in progress.laggards[0].reason
    assert programmed(tracker, 5, VM) == ("True", "Enforced")


def test_a_refused_route_is_the_matter_of_the_endpoint_with_its_address() -> None:
    """A gateway that cannot be reached holds up that endpoint, and no policy or other endpoint."""
    refused = (Refusal(object="route 10.65.0.21/32", reason="unreachable"),)
    tracker = tracked(calc_status(0, 5, "h1"), host_status("h1", 5, refused=refused))
    mine = Target(VM, 5, addresses=("10.65.0.21/32",))
    other = Target(VM, 5, addresses=("10.65.0.22/32",))
    assert not tracker.progress([mine]).reached("programmed")
    assert tracker.progress([other, Target(POLICY, 5)]).reached("programmed")


@pytest.mark.parametrize(
    ("refused", "concerned"),
    [
        ("host endpoint a", {HOST_A}),
        ("way to NATS of host endpoint a", {HOST_A, POLICY, TIER, PEER, OTHER_PEER}),
        ("kernel without xt_bpf", set()),
        ("nat 192.0.2.10/32 of endpoint default/vm1", {VM, TIER, PEER, OTHER_PEER}),
        ("endpoint default/vm1", {VM, TIER, PEER, OTHER_PEER}),
        ("set s:1", {VM, HOST_A, HOST_B, POLICY, TIER, PEER, OTHER_PEER}),
        ("rules of policy gnp/isolate", {POLICY}),
        ("address 10.65.0.9/32 of endpoint default/vm1", {VM}),
        ("profile absent of endpoint default/vm1", {VM}),
        ("profile absent of host endpoint a", {HOST_A}),
        ("bgp", {PEER, OTHER_PEER}),
        ("bgp peer/tor/192.0.2.1", {PEER}),
        ("bgp mesh/h2/192.0.2.2", {PEER, OTHER_PEER}),
    ],
)
def test_a_refusal_holds_up_what_it_bears_on_and_no_other(
    refused: str, concerned: set[Key]
) -> None:
    """One host endpoint with a bad interface does not make the host's other writes look refused."""
    bird = BgpStatus(in_sync=True)
    status = host_status("h1", 5, refused=(Refusal(object=refused, reason="x"),), bgp=bird)
    tracker = tracked(calc_status(0, 5, "h1"), status)
    keys = (VM, HOST_A, HOST_B, POLICY, TIER, PEER, OTHER_PEER)
    late = {key for key in keys if programmed(tracker, 5, key) == ("False", "Refused")}
    assert late == concerned


def test_what_is_bird_s_is_in_force_when_bird_has_it() -> None:
    """The kernel is there before BIRD: a BGPPeer waits for BIRD, an endpoint does not."""
    late = BgpStatus(in_sync=False, reason="BIRD does not answer.")
    tracker = tracked(calc_status(0, 5, "h1"), host_status("h1", 5, bgp=late))
    assert programmed(tracker, 5, VM) == ("True", "Enforced")
    progress = tracker.progress([Target(PEER, 5)])
    assert stages(progress)["Programmed"] == ("False", "Pending")
    assert progress.laggards[0].reason == "Host h1: BIRD does not answer."
    tracker.fold_host(host_status("h1", 5, bgp=BgpStatus(in_sync=True)))
    assert programmed(tracker, 5, PEER) == ("True", "Enforced")


def test_of_who_has_no_bird_nothing_of_bird_s_is_said_to_be_in_force() -> None:
    """A BGPPeer that only hosts without BIRD are to speak is not; where some have one, those count, others are told."""
    tracker = tracked(
        calc_status(0, 4, "h1"),
        calc_status(5, 5, "h1", "h2"),
        host_status("h1", 5),
        host_status("h2", 5, bgp=BgpStatus(in_sync=True)),
    )
    alone = tracker.progress([Target(PEER, 4)])
    assert stages(alone)["Programmed"] == ("False", "NoBird")
    assert "BIRD" in alone.conditions[-1].message
    assert not alone.reached("programmed")
    assert programmed(tracker, 4, VM) == ("True", "Enforced")
    both = tracker.progress([Target(PEER, 4), Target(VM, 4)])
    assert stages(both)["Programmed"] == ("False", "NoBird")
    assert stages(tracker.progress([Target(PEER, 4, removed=True)]))["Programmed"][0] == "True"
    some = tracker.progress([Target(PEER, 5)])
    assert stages(some)["Programmed"] == ("True", "Enforced")
    assert some.hosts.desired == 1
    assert some.conditions[-1].message.endswith("that run BIRD enforce it; 1 run none.")
    late = host_status("h2", 5, bgp=BgpStatus(in_sync=False, reason="BIRD does not answer."))
    tracker.fold_host(late)
    assert stages(tracker.progress([Target(PEER, 5)]))["Programmed"] == ("False", "Pending")


def test_a_host_that_has_not_reported_may_have_a_bird() -> None:
    """It is waited for, as for any other write."""
    tracker = tracked(calc_status(0, 5, "h1"))
    assert programmed(tracker, 5, PEER) == ("False", "Pending")


def test_a_fault_of_the_resource_itself_is_told_whatever_write_brought_it() -> None:
    """A tier that goes, an older claim that comes: the status says so, though its own write was in force."""
    lost = (Refusal(object="address 10.65.0.9/32 of endpoint default/vm1", reason="taken"),)
    tracker = tracked(
        calc_status(0, 4, "h1", "h2"),
        calc_status(5, 5, "h1"),
        host_status("h1", 9),
        host_status("h2", 9, refused=lost),
    )
    progress = tracker.progress([Target(VM, 5)])
    assert [one.host for one in progress.laggards] == ["h2"]
    assert "taken" in progress.laggards[0].reason
    assert progress.settled()
    assert programmed(tracker, 5, POLICY) == ("True", "Enforced")
    assert tracker.progress([Target(VM, 5, removed=True)]).reached("programmed")


def test_all_that_a_host_refuses_of_a_resource_is_named_up_to_a_limit() -> None:
    """Who lost seven addresses hears of five, and of how many more there are."""
    lost = (
        Refusal(object=f"address 10.65.0.{i}/32 of endpoint default/vm1", reason=f"Lost {i}.")
        for i in range(7)
    )
    tracker = tracked(calc_status(0, 5, "h1"), host_status("h1", 5, refused=tuple(lost)))
    reason = tracker.progress([Target(VM, 5)]).laggards[0].reason
    assert [f"Lost {i}." in reason for i in range(7)] == [True] * 5 + [False] * 2
    assert "And 2 more" in reason


def test_a_removed_endpoint_does_not_wait_for_its_interface() -> None:
    """Waiting for an interface delays a value, not an absence."""
    waiting = (Waiting(endpoint="default/vm1", reason="no tap"),)
    tracker = tracked(calc_status(0, 5, "h1"), host_status("h1", 5, waiting=waiting))
    assert tracker.progress([Target(VM, 5, removed=True)]).reached("programmed")


def test_lag_is_counted_within_one_epoch() -> None:
    """Revisions of two epochs are never compared."""
    tracker = tracked(
        calc_status(0, 9, "h1"), host_status("h1", 4), host_status("h2", 4, epoch="x")
    )
    assert tracker.lag_of("h1") == 5
    assert tracker.lag_of("h2") is None
    assert tracker.lag_of("h3") is None


def test_many_laggards_are_counted_and_some_named() -> None:
    """An answer stays small however many hosts there are."""
    hosts = [f"h{i}" for i in range(500)]
    progress = tracked(calc_status(0, 5, *hosts)).progress([Target(VM, 5)])
    assert progress.hosts.desired == 500
    assert len(progress.laggards) == 100


def test_reports_of_a_lost_stream_say_nothing_of_the_one_that_is_there() -> None:
    """When the stream turns out another one, calc has resolved nothing until it says so of this one."""
    tracker = Tracker()
    tracker.fold_calc(calc_status(0, 150, "h1"), 150)
    target = Target(Key("Node", "", "a"), 105)
    assert tracker.progress([target]).reached("computed")
    tracker.forget()
    assert not tracker.progress([target]).reached("computed")
    tracker.fold_calc(calc_status(0, 150, "h1"), 104)  # a repetition that comes late
    assert not tracker.progress([target]).reached("computed")
    tracker.fold_calc(calc_status(0, 105, "h1", epoch="e2"), 104)
    assert tracker.progress([target]).reached("computed")
