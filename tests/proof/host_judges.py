"""Both judges asked about packets at a host with host endpoints: into it, out of it, through it."""

from collections.abc import Iterable
from random import Random
from typing import Any

from msgspec.structs import replace

from tests.proof.cloud import Cloud, Flow
from tests.proof.host_semantics import HostSemantics, Passage
from tests.proof.judges import ARRIVAL, INTO, OUT_OF, THROUGH, Answer, Disagreement, Tally, walk
from tests.proof.pipeline import HOST_ADDRESSES, NO_TAMPER, Host, Tamper, hosts_of
from tests.proof.semantics import Judgement, Semantics

HOST = "h1"
_NEAR_SAFE: tuple[dict[str, Any], ...] = tuple(
    {"protocol": protocol, end: port, other: 40000}
    for protocol in (6, 17)
    for port in (22, 53)
    for end, other in (("source_port", "destination_port"), ("destination_port", "source_port"))
)


def passages_of(judge: HostSemantics, flows: Iterable[Flow], chance: Random) -> list[Passage]:
    """Send each flow past the host by ways that a packet with such addresses could take."""
    semantics = judge.semantics
    names = [*HOST_ADDRESSES, *judge.by_interface, *judge.by_interface]
    found = []
    for flow in flows:
        if flow.state == "INVALID":
            continue  # what is done with it is the kernel's, and of workloads
        flow = replace(flow, sender="")
        if chance.random() < 0.08:  # ports that failsafe, and little else, is about
            flow = replace(flow, icmp_type=0, icmp_code=0, **chance.choice(_NEAR_SAFE))
        sender, receiver = semantics.owners.get(flow.source), semantics.owners.get(flow.destination)
        one, other = chance.choice(names), chance.choice(names)
        came_in = sender.spec.interface_name if sender and sender.spec.node == HOST else one
        goes_out = (
            receiver.spec.interface_name if receiver and receiver.spec.node == HOST else other
        )
        found += [Passage(flow, came_in, goes_out), Passage(flow, came_in, "")]
        found.append(Passage(flow, "", goes_out))
    return found


class HostRig:
    """One host of a cloud before both judges."""

    def __init__(self, resources: Cloud, tamper: Tamper = NO_TAMPER) -> None:
        self.judge = HostSemantics(Semantics(resources), HOST, HOST_ADDRESSES)
        self.host = hosts_of(resources, tamper)[HOST]

    def disagreements(
        self, passages: Iterable[Passage], tally: Tally | None = None
    ) -> list[Disagreement]:
        """Ask both about every packet; return where they differ."""
        found = []
        for passage in passages:
            decision = self.judge.judge(passage)
            if tally is not None:
                tally.note(
                    Judgement(None, decision) if passage.came_in else Judgement(decision, None)
                )
            answer = way(self.host, passage)
            if answer.verdict != decision.verdict:
                where = f"from {passage.came_in or 'the host'} to {passage.goes_out or 'the host'}"
                said = f"{decision.verdict} ({decision.by})"
                lines = f"the lines {answer.verdict}"
                found.append(Disagreement(passage.flow, where, said, lines, answer.trace))
        return found


def way(host: Host, passage: Passage) -> Answer:
    """Walk a packet past the host."""
    came_in, goes_out = passage.came_in, passage.goes_out
    if not came_in:
        return walk(host, passage.flow, (OUT_OF, "", goes_out))
    onward = (THROUGH, came_in, goes_out) if goes_out else (INTO, came_in, "")
    return walk(host, passage.flow, (ARRIVAL, came_in, ""), onward)
