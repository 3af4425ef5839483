"""Whom the source's agent tells of flows, and what the target's makes of the answer."""

import asyncio
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow, HostAddresses
from hopwall_dataplane.moves import carrier as carrying
from hopwall_dataplane.moves.carrier import Carrier
from hopwall_dataplane.moves.departures import KEEP_S
from hopwall_model import codec, topics
from hopwall_model.flows import CarriedFlow, CarriedFlows, FlowsRequest
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    PolicyId,
    TierPolicies,
    Update,
)
from hopwall_runtime.link import Link, Unavailable
from tests.dataplane.conntrack.test_carry import flow
from tests.dataplane.moves.test_routes import VM, moving
from tests.dataplane.test_desired import fresh, policy, step

#: An entry of an answered TCP connection: its status, and its state in the protocol's part.
ENTRY = bytes.fromhex("0800 0300 0000000e1000 04800c00 01800500 0100 03 000000")


class Kernel:
    """A table of flows in memory."""

    def __init__(self, *flows: Flow) -> None:
        self.flows = list(flows)
        self.made: list[Flow] = []

    def read(self, watched: Set[bytes]) -> Iterator[tuple[list[Flow], int]]:
        """Give the flows one by one."""
        for one in self.flows:
            yield ([one] if set(one.ends) & watched else []), 1

    def create(self, flows: list[Flow]) -> int:
        """Note what is made."""
        self.made += flows
        return len(flows)

    def host_addresses(self) -> HostAddresses:
        """The host has none."""
        return HostAddresses()

    def ways(self, _: object) -> object:
        """Nobody asks."""
        return lambda _: None


class Bus:
    """Answers with what it was given, or not at all."""

    def __init__(self, *answers: CarriedFlows | Unavailable) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, FlowsRequest]] = []

    async def request_chunked(
        self, subject: str, value: FlowsRequest, *, timeout_s: float
    ) -> bytes:
        """Answer the next one."""
        del timeout_s
        self.asked.append((subject, value))
        if not self.answers:
            raise Unavailable("nobody answers")
        answer = self.answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return codec.encode(answer)


def carrier(role: str, kernel: Kernel, bus: Bus | None = None) -> Carrier:
    """Return the carrier of h1, which has the endpoint in this role."""
    desired = fresh()
    desired.apply(step(moving(role)))
    return Carrier("h1", desired, cast(Link, bus or Bus()), driver=cast(ConntrackDriver, kernel))


def told(
    role: str, asking: str, *, subject: str = "", endpoint: str = VM, move: str = "d/m/1"
) -> int | None:
    """Ask h1 for the flows of an endpoint; return how many it tells, None for no knowledge, -1 for a refusal."""
    one = carrier(role, Kernel(flow(entry=ENTRY), flow(entry=b"")))
    return asked(one, asking, subject=subject, endpoint=endpoint, move=move)


def asked(
    one: Carrier, asking: str, *, subject: str = "", endpoint: str = VM, move: str = "d/m/1"
) -> int | None:
    """Ask this carrier."""
    request = FlowsRequest(host=asking, endpoint=EndpointId(endpoint), migration=move)
    where = subject or topics.flows_subject("h1", asking)
    body = asyncio.run(one._answer(request, where))
    if body is None:
        return -1
    answer = codec.decoder(CarriedFlows)(body)
    return len(answer.flows) if answer.known else None


def test_only_the_targets_host_is_told() -> None:
    """Nobody hears of flows but the host to which that endpoint moves, by that migration, on its own subject."""
    assert told("source", "h9") == 1
    assert told("source", "h8") is None
    assert told("source", "h9", move="d/m/2") is None
    assert told("source", "h9", endpoint="d/e2") is None
    assert told("target", "h9") is None
    assert told("", "h9") is None
    assert told("source", "h9", subject=topics.flows_subject("h1", "h8")) == -1


def outgoing(role: str) -> list[Update]:
    """Return the endpoint with a policy that lets it begin whatever it wants."""
    tier = TierPolicies(name="default", egress=(PolicyId("p"),))
    return [policy("p"), structs.replace(moving(role), tiers=(tier,))]


def target(bus: Bus, kernel: Kernel) -> Carrier:
    """Return the carrier of the target's host, whose workload may begin anything, when it has learnt."""
    one = carrier("", kernel, bus)
    one.desired.apply(step(*outgoing("target")))

    async def run() -> None:
        one.expect(one.desired.moves.targets())
        await asyncio.gather(*one._fetching)

    asyncio.run(run())
    return one


def arrive(one: Carrier) -> None:
    """Let the workload arrive, and its flows come."""
    assert one.desired.moves.announce(VM)

    async def run() -> None:
        fresh_ones = one.desired.moves.take_fresh()
        one.fetch({endpoint_id: each.move for endpoint_id, each in fresh_ones.items()})
        await asyncio.gather(*one._fetching)

    asyncio.run(run())


@pytest.mark.parametrize("gone", ["the endpoint", "the migration"])
def test_who_has_just_gone_is_told_of_still(gone: str) -> None:
    """A removal that is quicker than the question takes nothing away: ended flows are kept for a while."""
    one = carrier("source", Kernel())
    one.desired.apply(step(EndpointRemoved(id=VM) if gone == "the endpoint" else moving()))
    one.on_ended(flow(entry=ENTRY))
    one.on_ended(flow(source_port=1, entry=b""))
    assert asked(one, "h9") == 1
    assert asked(one, "h8") is None
    one.desired.moves.tick(100.0)
    one.desired.moves.tick(100.0 + KEEP_S)
    assert asked(one, "h9") is None


FLOW = CarriedFlow(6, "10.65.0.5", "192.0.2.9", 40000, 80)
KNOWN, UNKNOWN = CarriedFlows(host="h9", known=True, flows=(FLOW,)), CarriedFlows(host="h9")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody pause long, and nobody give up because this machine is busy."""
    for name, seconds in (("_PAUSE_S", 0.001), ("_SOON_S", 60.0), ("_ANSWER_TIME_S", 60.0)):
        monkeypatch.setattr(carrying, name, seconds)


@pytest.mark.usefixtures("hasty")
def test_a_source_that_does_not_know_yet_is_asked_again() -> None:
    """What makes it the source may reach its host later than what makes us the target reaches us."""
    bus = Bus(UNKNOWN, Unavailable("nobody answers"), KNOWN)
    one = target(bus, Kernel())
    assert bus.answers == []
    assert [flows for _, flows in one._known.values()] == [(FLOW,)]


@pytest.mark.usefixtures("hasty")
def test_what_a_silent_source_said_before_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source that dies with the switch the flows come that it had when the move was declared."""
    kernel = Kernel()
    one = target(Bus(KNOWN), kernel)
    for name in ("_SOON_S", "_ANSWER_TIME_S"):
        monkeypatch.setattr(carrying, name, 0.05)
    arrive(one)
    assert [made.source_port for made in kernel.made] == [40000]


@pytest.mark.usefixtures("hasty")
def test_what_the_source_tracks_no_longer_does_not_come() -> None:
    """A flow that has ended between declaration and switch is not made known again."""
    kernel = Kernel()
    bus = Bus(KNOWN, CarriedFlows(host="h9", known=True))
    arrive(target(bus, kernel))
    assert (kernel.made, bus.answers) == ([], [])


@pytest.mark.usefixtures("hasty")
def test_flows_of_who_has_left_again_are_not_made() -> None:
    """The answer may come when the workload is elsewhere."""
    kernel = Kernel()
    one = target(Bus(KNOWN, KNOWN), kernel)
    one.desired.apply(step(EndpointRemoved(id=VM)))
    move = next(iter(outgoing("target")[1:]))
    assert isinstance(move, EndpointSet)
    assert move.move is not None
    asyncio.run(one._fetch(VM, move.move))
    assert kernel.made == []


def died_between(folder: Path, bus: Bus, kernel: Kernel) -> Carrier:
    """Let an agent die when its workload has arrived, and before its flows have; return the next one's carrier."""
    first = target(Bus(KNOWN), Kernel())
    first.notes.folder = folder
    assert first.desired.moves.announce(VM)
    first.notes.add(first.desired.moves.fresh())
    second = carrier("", kernel, bus)
    second.notes.folder = folder
    second.desired.apply(step(*outgoing("target")))
    assert second.desired.moves.announce(VM)
    return second


def resumed(one: Carrier) -> None:
    """Let an agent begin."""

    async def run() -> None:
        one.resume()
        await asyncio.gather(*one._fetching)

    asyncio.run(run())


@pytest.mark.usefixtures("hasty")
def test_the_next_agent_fetches_what_the_last_one_did_not(tmp_path: Path) -> None:
    """Flows are fetched though the agent died behind the route, once; the note is gone then."""
    kernel = Kernel()
    one = died_between(tmp_path, Bus(KNOWN), kernel)
    resumed(one)
    assert [made.source_port for made in kernel.made] == [40000]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("why", ["old", "torn", "left"])
def test_a_note_that_helps_nobody_is_dropped(tmp_path: Path, why: str) -> None:
    """One that is older than a source remembers, cannot be read, or is of who is not here leads to no question."""
    bus = Bus(KNOWN)
    one = died_between(tmp_path, bus, Kernel())
    (file,) = tmp_path.iterdir()
    if why == "old":
        os.utime(file, (0, 0))
    elif why == "torn":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        one.desired.apply(step(EndpointRemoved(id=VM)))
    resumed(one)
    assert bus.answers == [KNOWN]
    assert list(tmp_path.iterdir()) == []


def test_what_policy_denies_is_not_made() -> None:
    """An endpoint whose class allows nothing takes nothing."""
    kernel = Kernel()
    bus = Bus(
        KNOWN,
        KNOWN,
    )
    one = carrier("target", kernel, bus)
    move = one.desired.moves.move_of(VM)
    assert move is not None

    async def run() -> None:
        for _ in range(2):
            one.fetch({VM: move})
            await asyncio.gather(*one._fetching)

    asyncio.run(run())
    assert kernel.made == []
    assert [subject for subject, _ in bus.asked] == ["hopwall.flows.h9.h1"] * 2
    assert bus.asked[0][1] == FlowsRequest(host="h1", endpoint=move.peer, migration="d/m/1")
