"""Both judges asked about the same packet, and what they answer held against each other."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hopwall_model.resources import Resource, WorkloadEndpoint
from tests.proof.cloud import Flow, Verdict, address
from tests.proof.packets import NotUnderstood, Packet
from tests.proof.pipeline import NO_TAMPER, UPLINK, Host, Tamper, hosts_of
from tests.proof.semantics import Judgement, Semantics

#: A packet that a host forwards passes these, and then, if it goes on, the second row.
ARRIVAL = (("raw", "PREROUTING"), ("mangle", "PREROUTING"), ("nat", "PREROUTING"))
THROUGH = (
    ("mangle", "FORWARD"),
    ("filter", "FORWARD"),
    ("mangle", "POSTROUTING"),
    ("nat", "POSTROUTING"),
)
OUT_OF = (
    ("raw", "OUTPUT"),
    ("mangle", "OUTPUT"),
    ("nat", "OUTPUT"),
    ("filter", "OUTPUT"),
    ("mangle", "POSTROUTING"),
    ("nat", "POSTROUTING"),
)
INTO = (("mangle", "INPUT"), ("filter", "INPUT"))


class Answer(NamedTuple):
    """What became of a packet, and the lines it matched."""

    verdict: Verdict
    trace: tuple[str, ...]


@dataclass(frozen=True)
class Disagreement:
    """A flow of which the judges do not say the same."""

    flow: Flow
    where: str
    semantics: str
    lines: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        """Say it for people."""
        path = "".join(f"\n    {line}" for line in self.trace)
        return f"{self.flow}\n  {self.where}: {self.semantics}, but {self.lines}{path}"


@dataclass
class Tally:
    """How much was asked, and of what kind the answers were."""

    n_clouds: int = 0
    n_flows: int = 0
    n_answers: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def note(self, judgement: Judgement) -> None:
        """Count a flow."""
        self.n_flows += 1
        for end, decision in (("egress", judgement.egress), ("ingress", judgement.ingress)):
            if decision is not None:
                self.n_answers += 1
                self.kinds[f"{end} {decision.verdict}"] += 1
                self.kinds[f"{decision.verdict} by {_kind(decision.by)}"] += 1
                self.kinds["after a pass"] += bool(decision.n_passes)

    def __iadd__(self, other: "Tally") -> "Tally":
        """Add another's counts."""
        self.n_clouds += other.n_clouds
        self.n_flows += other.n_flows
        self.n_answers += other.n_answers
        self.kinds += other.kinds
        return self

    def table(self) -> str:
        """Write the counts for people, each kind with its share of all answers."""
        rows = [f"  {n:>9,}  {n / max(1, self.n_answers):6.1%}  {k}" for k, n in self.rows()]
        return "\n".join(rows)

    def rows(self) -> list[tuple[str, int]]:
        """List the kinds, in order of their names."""
        return sorted(self.kinds.items())


def _kind(by: str) -> str:
    if by.startswith("end of tier"):
        return "the end of a tier"
    if by.endswith("is absent"):
        return "something that is absent"
    kind, slash, _ = by.partition("/")
    return f"a rule of a {kind}" if slash else by


class Rig:
    """One cloud before both judges."""

    def __init__(self, resources: tuple[Resource, ...], tamper: Tamper = NO_TAMPER) -> None:
        self.semantics = Semantics(resources)
        self.hosts = hosts_of(resources, tamper)

    def disagreements(
        self, flows: Iterable[Flow], tally: Tally | None = None
    ) -> list[Disagreement]:
        """Ask both about every flow; return where they differ."""
        found = []
        for flow in flows:
            judgement = self.semantics.judge(flow)
            if tally is not None:
                tally.note(judgement)
            found += self.compare(flow, judgement)
        return found

    def compare(self, flow: Flow, judgement: Judgement) -> list[Disagreement]:
        """Compare what the semantics say with each walk the flow stands for."""
        sender = self.semantics.sender(flow)
        receiver = self.semantics.owners.get(flow.destination)
        egress, ingress = judgement.egress, judgement.ingress
        found = []
        if sender is not None and egress is not None:
            host = self.hosts[sender.spec.node]
            answer = self.forward(host, flow, sender.spec.interface_name, UPLINK)
            found += _differ(flow, f"egress on {host.name}", egress.verdict, egress.by, answer)
            answer = self.into_host(host, flow, sender.spec.interface_name)
            found += _differ(flow, f"into {host.name}", egress.verdict, egress.by, answer)
        if receiver is not None and ingress is not None:
            host = self.hosts[receiver.spec.node]
            way = host.way_to(flow.destination)
            answer = self.forward(host, flow, UPLINK, way)
            found += _differ(flow, f"ingress on {host.name}", ingress.verdict, ingress.by, answer)
            if sender is not None and egress is not None and _same_host(sender, receiver):
                answer = self.forward(host, flow, sender.spec.interface_name, way)
                both: Verdict = "allow" if egress.verdict == ingress.verdict == "allow" else "deny"
                by = f"{egress.by} and {ingress.by}"
                found += _differ(flow, f"both ends on {host.name}", both, by, answer)
        return found

    def forward(self, host: Host, flow: Flow, came_in: str, goes_out: str) -> Answer:
        """Walk a packet through a host from one interface to another."""
        return walk(host, flow, (ARRIVAL, came_in, ""), (THROUGH, came_in, goes_out))

    def into_host(self, host: Host, flow: Flow, came_in: str) -> Answer:
        """Walk a packet into the host itself."""
        return walk(host, flow, (ARRIVAL, came_in, ""), (INTO, came_in, ""))


Leg = tuple[tuple[tuple[str, str], ...], str, str]


def walk(host: Host, flow: Flow, *legs: Leg) -> Answer:
    """Walk a packet through the hooks of each leg in turn, with its interfaces."""
    packet = packet_of(flow)
    tables = host.tables[flow.version]
    try:
        for hooks, packet.came_in, packet.goes_out in legs:
            if not tables.pass_hook(packet, *hooks):
                return Answer("deny", tuple(packet.trace))
    except NotUnderstood as error:
        raise NotUnderstood(f"{error}; after {packet.trace}") from error
    return Answer("allow", tuple(packet.trace))


def packet_of(flow: Flow) -> Packet:
    """Return the flow's packet; an ICMP error is about one that went the other way."""
    there = Packet(
        version=flow.version,
        source=int(address(flow.source)),
        destination=int(address(flow.destination)),
        protocol=flow.protocol,
        source_port=flow.source_port,
        destination_port=flow.destination_port,
        icmp_type=flow.icmp_type,
        icmp_code=flow.icmp_code,
        state=flow.state,
    )
    back = replace(there, source=there.destination, destination=there.source)
    return replace(there, quote=back.quoted())


def _same_host(one: WorkloadEndpoint, other: WorkloadEndpoint) -> bool:
    return one.spec.node == other.spec.node


def _differ(
    flow: Flow, where: str, verdict: Verdict, by: str, answer: Answer
) -> list[Disagreement]:
    if verdict == answer.verdict:
        return []
    said = f"{verdict} ({by})"
    return [Disagreement(flow, where, said, f"the lines {answer.verdict}", answer.trace)]
