"""The kernels of a simulated cloud, walked by packets: only what a packet touches is read.

The walk is that of the proof (`tests/proof/lines.py`); what would cost most there, reading all text of a table for
one packet, is put off until a chain or set is looked at.
"""

import ipaddress
from collections.abc import Mapping
from functools import cache
from typing import cast

from hopwall_dataplane.ipsets.elements import Element
from hopwall_dataplane.outcome import Family
from tests.proof.cloud import Verdict
from tests.proof.judges import ARRIVAL, THROUGH, walk
from tests.proof.kernel_sets import HeldSet, Mark
from tests.proof.line_text import Line, compiled
from tests.proof.lines import Tables
from tests.proof.pipeline import UPLINK, VERSIONS, Host
from tests.simulator.judge import Probe
from tests.support.fake_iptables import FakeChain
from tests.support.fake_kernel import FakeHost

_TABLES = ("raw", "mangle", "filter", "nat")


class Reader:
    """One host's kernel; what was read of a table is good until the table is another."""

    def __init__(self, fake: FakeHost) -> None:
        self._fake = fake
        self._chains: dict[tuple[int, str], _Chains] = {}

    def now(self) -> "Moment":
        """Return the kernel as it is now."""
        sets = cast(dict[str, HeldSet], _Sets(self._fake))
        tables = {version: self._tables(version, sets) for version in VERSIONS}
        return Moment(self._fake, Host(self._fake.name, tables))

    def _tables(self, version: int, sets: dict[str, HeldSet]) -> Tables:
        for table in _TABLES:
            held = self._fake.tables[VERSIONS[version]].tables[table]
            known = self._chains.get((version, table))
            if known is None or known.held is not held:
                self._chains[version, table] = _Chains(version, held)
        chains = {table: self._chains[version, table] for table in _TABLES}
        return Tables(version, sets, cast(dict[str, dict[str, list[Line]]], chains))


class Moment:
    """One host's kernel as it is now; void after the next write."""

    def __init__(self, fake: FakeHost, host: Host) -> None:
        self._fake = fake
        self._host = host

    def verdict(self, probe: Probe) -> tuple[Verdict, tuple[str, ...]] | None:
        """Return what becomes of the packet, and its way; None where no route leads to the endpoint."""
        interface = f"tap-{probe.endpoint.partition('/')[2]}"
        came_in, goes_out = (interface, UPLINK) if probe.egress else (UPLINK, interface)
        if not probe.egress and not self._leads_to(probe.flow.destination, interface):
            return None
        legs = (ARRIVAL, came_in, ""), (THROUGH, came_in, goes_out)
        answer = walk(self._host, probe.flow, *legs)
        return answer.verdict, answer.trace

    def _leads_to(self, address: str, interface: str) -> bool:
        cidr = f"{address}/{128 if ':' in address else 32}"
        routes = self._fake.routes.held.values()
        return any(route.cidr == cidr and route.interface == interface for route in routes)


class _Chains(dict[str, list[Line]]):
    """A table's chains, each read when a packet comes to it. A table that changes is another dict."""

    def __init__(self, version: int, held: Mapping[str, FakeChain]) -> None:
        super().__init__()
        self._version = version
        self.held = held

    def __missing__(self, name: str) -> list[Line]:
        read = self[name] = [compiled(body, self._version) for body in self.held[name].lines]
        return read

    def __contains__(self, name: object) -> bool:
        return name in self.held


class _Sets(dict[str, HeldSet]):
    """The sets, each read when a packet is looked for in it."""

    def __init__(self, fake: FakeHost) -> None:
        super().__init__()
        self._fake = fake

    def __missing__(self, name: str) -> HeldSet:
        spec, content = self._fake.sets.held[name]
        version = 4 if spec.family is Family.V4 else 6
        read = self[name] = HeldSet(spec.type, version, spec.skbinfo)
        for element, mark in content.items():
            length, key = _place(element)
            told = None if mark is None else Mark(mark.value, mark.mask)
            read.by_length.setdefault(length, {})[key] = told
        read.lengths = tuple(sorted(read.by_length, reverse=True))
        return read


@cache
def _place(element: Element) -> tuple[int, tuple[int, object]]:
    """Return where the kernel keeps an element: its prefix length, and its key among those."""
    net = ipaddress.ip_network(element.cidr)
    rest: object = element.interface or None
    if element.protocol:
        rest = element.protocol, element.port
    number = int(net.network_address) >> (net.max_prefixlen - net.prefixlen)
    return net.prefixlen, (number, rest)
