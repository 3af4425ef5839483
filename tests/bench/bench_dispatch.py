"""From an address to its chain: what a packet costs by way, backend and number of endpoints.

Run as root: `python -m tests.bench.bench_dispatch`. Every host is a namespace of its own; all stand at once
and take turns. The bound: filtering a new packet costs at 5,000 endpoints what it costs at 100, by 10 %.
docs/design/dispatch.md says what the figures mean.
"""

import contextlib
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from hopwall_runtime.main import tune_collector
from tests.bench.bursts import OUT_END, Cost, Sender, frame, race, wire
from tests.bench.dispatch_hosts import (
    N_LINES,
    OURS_INTO,
    OURS_OUT,
    address6,
    stand_bare,
    stand_known,
    stand_lines,
    stand_ours,
    stand_way,
)
from tests.bench.dispatch_ways import WAYS, address, endpoints
from tests.bench.result import Result, table
from tests.support.netns import Netns

KINDS = ("nft", "legacy")
SIZES = (100, 1000, 5000)
N_CLASSES = (16, 64, 1024)
N_ROUNDS = 120
BOUND = 1.10
JOIN_BOUND = 1.5
LOADS = ("new", "new v6", "spread", "spread v6", "all", "established")
BOUND_LOADS = ("new", "new v6", "spread", "spread v6")
#: What is emptied, to see what it costs an established packet.
PARTS = {
    "ours without the source check": ("raw", "hw-PREROUTING"),
    "ours without the marks": ("mangle", "hw-FORWARD"),
}
LINES = {
    "matches no interface": "-i tapz",
    "matches, does nothing": "",
    "the same with a comment": '-m comment --comment "hw:0123456789abcdef"',
    "NFLOG that nobody hears": "-j NFLOG --nflog-group 100 --nflog-prefix D",
}
#: Flows, and between how many workloads on each side.
_N_FLOWS, _N_ACTIVE = 512, 50
_OURS, _BARE, _KNOWN = "ours", "no rules", "established only"
_KNOWN_PORTS = (5000, 5001)


class Host(NamedTuple):
    """What stands in one namespace: `kind` of iptables, way, endpoints, classes of ours."""

    kind: str
    way: str
    n: int
    n_classes: int = 0


class Case(NamedTuple):
    """One load on one host.

    Shape: `new` is one flow between the last two workloads that nobody answers, so that each packet is new
           to the rules; `spread` 512 such flows between 100 workloads, `all` between any;
           `established` one flow that was answered.
    """

    host: Host
    load: str


class Bench:
    """All hosts, who sends into them, and the ms that a further workload took."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Begin with none; what is made goes with the stack."""
        self.stack = stack
        self.senders: dict[Case, Sender] = {}
        self.joins_ms: dict[Host, float | None] = {}
        #: What is emptied when the flows stand, as no new one could come through.
        self.emptied: list[tuple[Netns, list[str]]] = []
        self._flows: list[tuple[Sender, Sender]] = []
        self._outs: list[tuple[Netns, str, list[Sender]]] = []

    def host_by_address(
        self, host: Host, stand: Callable[[], float | None], loads: Sequence[str] = LOADS
    ) -> Netns:
        """Make a host whose workloads share two interfaces, of both families."""
        ns = self._namespace(OURS_INTO, OURS_OUT)
        self.joins_ms[host] = ns.python(stand)
        last = [(host.n - 1, host.n - 2)]
        spread, everybody = _pairs(host.n, _N_ACTIVE), _pairs(host.n, host.n // 2)
        _resolve(ns, sorted({b for _, b in (*last, *spread, *everybody)}))
        found: dict[str, Sender] = {}
        for load in loads:
            name = address6 if load.endswith("v6") else address
            if load == "established":
                found[load] = self._flow(ns, name(last[0][0]), name(last[0][1]))
                continue
            pairs = {"new": last, "spread": spread, "all": everybody}[load.removesuffix(" v6")]
            found[load] = Sender(ns, [frame(name(a), name(b)) for a, b in pairs])
        self._add(host, ns, OURS_OUT, found)
        return ns

    def host_by_interface(self, host: Host, stand: Callable[[], float | None]) -> None:
        """Make a host of which only the last two workloads are on the wire."""
        out, into = endpoints(host.n)[-2:]
        ns = self._namespace(into.interface, out.interface)
        for one in (into, out):
            ns.run(["ip", "route", "add", one.address, "dev", one.interface])
        self.joins_ms[host] = ns.python(stand)
        loads = {
            "established": self._flow(ns, into.address, out.address),
            "new": Sender(ns, [frame(into.address, out.address)]),
        }
        self._add(host, ns, out.interface, loads)

    def _namespace(self, into: str, out: str) -> Netns:
        ns = self.stack.enter_context(Netns("dispatch"))
        wire(ns, into, out)
        return ns

    def _flow(self, ns: Netns, source: str, destination: str) -> Sender:
        """Return who sends in a flow that `establish` opens."""
        sender = Sender(ns, [frame(source, destination, _KNOWN_PORTS)])
        answer = Sender(ns, [frame(destination, source, _KNOWN_PORTS[::-1])], OUT_END)
        self._flows.append((sender, answer))
        self.stack.callback(answer.close)
        return sender

    def _add(self, host: Host, ns: Netns, out: str, loads: Mapping[str, Sender]) -> None:
        self.senders |= {Case(host, load): sender for load, sender in loads.items()}
        self._outs.append((ns, out, list(loads.values())))
        for sender in loads.values():
            self.stack.callback(sender.close)

    def establish(self) -> None:
        """Open each flow and answer it, shortly before it is measured: connection tracking forgets."""
        for sender, answer in self._flows:
            for one in (sender, answer, sender):
                one.send(0, 1)
        for ns, argv in self.emptied:
            ns.run(argv)

    def check(self) -> None:
        """Hold that every packet sent came through: else what was measured is a drop."""
        for ns, out, senders in self._outs:
            link = json.loads(ns.run(["ip", "-json", "-stats", "link", "show", out]))[0]
            n_sent = sum(sender.n_sent for sender in senders)
            assert link["stats64"]["tx"]["packets"] >= n_sent, (ns.name, n_sent, link)


def _pairs(n: int, n_active: int) -> list[tuple[int, int]]:
    """Return random pairs of a workload on the first interface and one on the second.

    Shape: as many of either side take part as `n_active` says, evenly over the `n` endpoints.
    """
    step = n // 2 // n_active
    pick = random.Random(n).randrange
    return [(2 * step * pick(n_active) + 1, 2 * step * pick(n_active)) for _ in range(_N_FLOWS)]


def _resolve(ns: Netns, numbers: Sequence[int]) -> None:
    """Give the namespace the neighbours, for good: the kernel holds few others, over all namespaces."""
    text = "".join(
        f"neigh add {name(n)} lladdr 02:00:00:00:00:01 dev {OURS_OUT} nud permanent\n"
        for n in numbers
        for name in (address, address6)
    )
    ns.run(["ip", "-batch", "-"], text=text)


def stand_all(bench: Bench) -> None:
    """Make every host."""
    small, large = SIZES[0], SIZES[-1]
    for n in SIZES:
        bench.host_by_address(Host("", _BARE, n), partial(stand_bare, n))
    for kind in KINDS:
        bench.host_by_address(Host(kind, _KNOWN, small), partial(stand_known, kind, small))
        for n in SIZES:
            for c in (c for c in N_CLASSES if c < n):
                bench.host_by_address(Host(kind, _OURS, n, c), partial(stand_ours, kind, n, c))
            for way in WAYS:
                bench.host_by_interface(Host(kind, way, n), partial(stand_way, kind, n, way))
        for part, chain in PARTS.items():
            host = Host(kind, part, large, N_CLASSES[0])
            stand = partial(stand_ours, kind, large, N_CLASSES[0])
            ns = bench.host_by_address(host, stand, ("established",))
            bench.emptied.append((ns, [f"iptables-{kind}", "-t", chain[0], "-F", chain[1]]))
        for name, line in LINES.items():
            lines = partial(stand_lines, kind, small, line)
            bench.host_by_address(Host(kind, name, small), lines, ("new",))


# ---------------------------------------------------------------- what is said of it


def report(costs: Mapping[Case, Cost], joins_ms: Mapping[Host, float | None]) -> str:
    """Write every figure: nanoseconds a packet, and milliseconds a further workload."""
    head = "".join(f"{load:>16}" for load in LOADS)
    lines = [f"{'ns a packet (and how far the median is above)':54}{head}{'join ms':>10}"]
    for host, join in joins_ms.items():
        if host.way in LINES:
            continue
        classes = f", {host.n_classes} classes" if host.n_classes else ""
        name = f"{host.kind:7}{host.n:>5}  {host.way}{classes}"
        cells = [costs.get(Case(host, load)) for load in LOADS]
        texts = (f"{c.ns:8.0f} +{c.spread:5.1%}" if c else "" for c in cells)
        took = f"{join:10.2f}" if join is not None else ""
        lines.append(f"{name:54}" + "".join(f"{text:>16}" for text in texts) + took)
    for kind in KINDS:
        floor = costs[Case(Host(kind, _KNOWN, SIZES[0]), "new")].ns
        for name in LINES:
            each = (costs[Case(Host(kind, name, SIZES[0]), "new")].ns - floor) / N_LINES
            lines.append(f"{kind:7}one line more: {name:32}{each:8.1f} ns")
    return "\n".join(lines) + "\n"


def judge(costs: Mapping[Case, Cost], joins_ms: Mapping[Host, float | None]) -> list[Result]:
    """Hold what ours costs at the largest size to what it costs at the smallest.

    Units: packets by the thousand, less what they cost with no rules at all; a join is one.
    """
    results = []
    sizes = (SIZES[-1], SIZES[0])
    against = f"{sizes[0]:,} against {sizes[1]} endpoints"
    for kind in KINDS:
        for c in (c for c in N_CLASSES if c < SIZES[0]):
            hosts = [Host(kind, _OURS, n, c) for n in sizes]
            for load in BOUND_LOADS:
                ours, floor = (
                    (costs[Case(host, load)].ns - costs[Case(Host("", _BARE, host.n), load)].ns)
                    / 1000
                    for host in hosts
                )
                name = f"1,000 packets, {kind} {load}, {c} classes: {against}"
                results.append(Result(name, ours, floor, ours / floor, BOUND))
            ours, floor = (joins_ms[host] or 0.0 for host in hosts)
            name = f"a workload joins, {kind}, {c} classes: {against}"
            results.append(Result(name, ours, floor, ours / floor, JOIN_BOUND))
    return results


def main() -> list[Result]:
    """Measure, print every figure, and return what is bound."""
    tune_collector()
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        stand_all(bench)
        bench.establish()
        costs = race(bench.senders, N_ROUNDS)
        bench.check()
    sys.stdout.write(report(costs, bench.joins_ms))
    return judge(costs, bench.joins_ms)


if __name__ == "__main__":
    sys.stdout.write(table(main()))
