"""Many clouds before the judges: what is asked, what was found, and how it is kept."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.proof.cloud import CASES, Cloud, Flow, case_text
from tests.proof.host_judges import HostRig, passages_of
from tests.proof.judges import Disagreement, Rig, Tally
from tests.proof.kernel_sets import read_sets
from tests.proof.lines import Tables
from tests.proof.minimise import minimal
from tests.proof.nat_judges import NatRig, nat_cloud_of
from tests.proof.pipeline import NO_TAMPER, Host, Tamper
from tests.proof.semantics import Semantics
from tests.proof.strategies import cloud_of, flows_in, host_cloud_of
from tests.proof.wire import NODES, Seen, run, to_be_sent


@dataclass(frozen=True)
class Found:
    """A cloud and a flow of it about which the judges differ."""

    number: int
    cloud: Cloud
    first: Disagreement

    def keep(self) -> str:
        """Make it small, write it to the kept cases, and say what it is."""
        small, differ = minimal(self.cloud, self.first.flow)
        text = case_text(f"found by cloud {self.number}", small, (self.first.flow,))
        path = CASES / f"found-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
        path.write_text(text)
        return "\n".join((f"cloud {self.number}, kept as {path.name}", *map(str, differ), text))


def asked(
    numbers: range, n_flows: int, tally: Tally, tamper: Tamper = NO_TAMPER
) -> Iterator[Found]:
    """Ask both judges about the clouds of these numbers; yield the first difference of each."""
    for number in numbers:
        chance = Random(number)
        cloud = cloud_of(chance)
        rig = Rig(cloud, tamper)
        tally.n_clouds += 1
        differ = rig.disagreements(flows_in(rig.semantics, chance, n_flows), tally)
        if differ:
            yield Found(number, cloud, differ[0])


def asked_of_hosts(
    numbers: range, n_flows: int, tally: Tally, tamper: Tamper = NO_TAMPER
) -> Iterator[tuple[int, Disagreement]]:
    """Ask both judges about packets at hosts with host endpoints; yield the first difference of each."""
    for number in numbers:
        chance = Random(number)
        rig = HostRig(host_cloud_of(chance), tamper)
        tally.n_clouds += 1
        flows = flows_in(rig.judge.semantics, chance, n_flows)
        differ = rig.disagreements(passages_of(rig.judge, flows, chance), tally)
        if differ:
            yield number, differ[0]


def asked_of_nat(
    numbers: range, n_flows: int, tally: Tally, tamper: Tamper = NO_TAMPER
) -> Iterator[tuple[int, Disagreement]]:
    """Ask both judges about translated addresses; yield the first difference of each cloud."""
    for number in numbers:
        chance = Random(number)
        rig = NatRig(nat_cloud_of(chance), tamper)
        tally.n_clouds += 1
        differ = rig.disagreements(flows_in(rig.semantics, chance, n_flows), chance, tally)
        if differ:
            yield number, differ[0]


@dataclass
class WireOutcome:
    """What a real host did with one cloud's packets. `problems` are sentences."""

    problems: list[str] = field(default_factory=list)
    n_sent: int = 0
    n_allowed: int = 0
    n_denied: int = 0


def on_the_wire(number: int, n_flows: int, backend: str, *, opposite: bool = False) -> WireOutcome:
    """Build host h1 of a cloud, send it real packets, and ask the walker about what its kernel holds.

    With `opposite` the contrary of every verdict is expected: to see that it would be noticed.
    """
    chance = Random(number)
    cloud = (*NODES, *cloud_of(chance))
    semantics = Semantics(cloud)
    flows = flows_in(semantics, chance, n_flows)
    sent = to_be_sent(semantics, flows, "h1")
    seen = run(cloud, sent, backend)
    outcome = WireOutcome(n_sent=len(sent))
    for name, reason in seen.refused.items():
        outcome.problems.append(f"cloud {number}: the kernel refuses {name}: {reason}")
    for index, one in enumerate(sent):
        came_out = seen.came_out.get(index)
        outcome.n_allowed += came_out is not None
        outcome.n_denied += came_out is None
        passes = (one.expected == "allow") != opposite
        if came_out != (one.leaves_by if passes else None):
            where = f"came out of {came_out}" if came_out else "did not come out"
            outcome.problems.append(
                f"cloud {number}: {one.flow}: {one.expected} ({one.by}), but it {where}"
            )
    rig = Rig(cloud)
    rig.hosts = {"h1": saved_host(rig.hosts["h1"], seen)} if "h1" in rig.hosts else {}
    here = (flow for flow in flows if _all_on(rig, flow))
    outcome.problems += [f"cloud {number}, as saved: {d}" for d in rig.disagreements(here)]
    return outcome


def saved_host(planned: Host, seen: Seen) -> Host:
    """Return the host as its kernel says it is; only its routes are taken as planned."""
    sets = read_sets(seen.sets)
    tables = {version: Tables(version, sets) for version in seen.tables}
    for version, text in seen.tables.items():
        tables[version].read(text)
    return Host(planned.name, tables, planned.interfaces)


def _all_on(rig: Rig, flow: Flow) -> bool:
    ends = (rig.semantics.sender(flow), rig.semantics.owners.get(flow.destination))
    return all(end is None or end.spec.node in rig.hosts for end in ends)
