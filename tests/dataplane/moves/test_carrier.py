"""Whom the source's agent tells of flows, and what the target's makes of the answer."""

import asyncio
from collections.abc import Iterator, Set
from typing import cast

from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow, HostAddresses
from hopwall_dataplane.moves.carrier import Carrier
from hopwall_model import codec, topics
from hopwall_model.flows import CarriedFlow, CarriedFlows, FlowsRequest
from hopwall_model.updates import EndpointId
from hopwall_runtime.link import Link, Unavailable
from tests.dataplane.conntrack.test_carry import flow
from tests.dataplane.moves.test_routes import VM, moving
from tests.dataplane.test_desired import fresh, step

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
) -> int:
    """Ask h1 for the flows of an endpoint; return how many it tells, -1 for a refusal."""
    one = carrier(role, Kernel(flow(entry=ENTRY), flow(entry=b"")))
    request = FlowsRequest(host=asking, endpoint=EndpointId(endpoint), migration=move)
    where = subject or topics.flows_subject("h1", asking)
    body = asyncio.run(one._answer(request, where))
    return -1 if body is None else len(codec.decoder(CarriedFlows)(body).flows)


def test_only_the_targets_host_is_told() -> None:
    """Nobody hears of flows but the host to which that endpoint moves, by that migration, on its own subject."""
    assert told("source", "h9") == 1
    assert told("source", "h8") == 0
    assert told("source", "h9", move="d/m/2") == 0
    assert told("source", "h9", endpoint="d/e2") == 0
    assert told("target", "h9") == 0
    assert told("", "h9") == 0
    assert told("source", "h9", subject=topics.flows_subject("h1", "h8")) == -1


def test_what_policy_denies_is_not_made_and_silence_is_no_fault() -> None:
    """An endpoint whose class allows nothing takes nothing; where nobody answers nothing comes."""
    kernel = Kernel()
    bus = Bus(
        CarriedFlows(host="h9", flows=(CarriedFlow(6, "10.65.0.5", "192.0.2.9", 40000, 80),)),
        Unavailable("nobody answers"),
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
