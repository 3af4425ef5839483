"""The third judge: a real kernel, written by the real drivers, with real packets through it.

One host of a cloud is one namespace; what is beyond its interfaces (workloads, the fabric) is the other ends
of veth pairs in a second one. Packets are put on a wire and waited for on all wires: whatever arrives passed.
Conntrack remembers flows, so each host is made anew and no two packets of it belong to one flow.
"""

import asyncio
import select
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_dataplane.feed import Feed, Step
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.resources import WorkloadEndpoint
from hopwall_model.updates import HostBatch
from tests.proof.cloud import Address, Cloud, Flow, Verdict, address
from tests.proof.frames import arrived, frame, through
from tests.proof.pipeline import graph_of
from tests.proof.semantics import Semantics
from tests.support import states
from tests.support.netns import Netns, enter

UPLINK = "eth0"
OWN = {4: "172.18.0.1", 6: "fd00:18::1"}
GATEWAY = {4: "172.18.0.254", 6: "fd00:18::fe"}
OTHER = {4: "172.18.0.2", 6: "fd00:18::2"}
NODES = (
    states.host("h1", f"{OWN[4]}/24", f"{OWN[6]}/64"),
    states.host("h2", f"{OTHER[4]}/24", f"{OTHER[6]}/64"),
)
#: How long to wait for one more packet that must not come, and for those that must.
QUIET_S, PATIENCE_S = 0.25, 5.0
#: Types for which connection tracking begins a flow. Source: nf_conntrack_proto_icmp(v6).c.
FIRST_TYPES = {4: (8, 13, 17), 6: (128,)}


@dataclass(frozen=True)
class Sent:
    """A packet of a flow: the interface of the host that it comes to, and what must become of it."""

    flow: Flow
    interface: str
    expected: Verdict
    by: str
    #: Where it must come out, if it does.
    leaves_by: str


@dataclass
class Seen:
    """What came out of the host, and what its kernel held."""

    came_out: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    tables: dict[int, str] = field(default_factory=dict)
    sets: str = ""


def to_be_sent(semantics: Semantics, flows: Iterable[Flow], host: str) -> list[Sent]:
    """Return the packets that this host sees, each the only one of its flow."""
    found: list[Sent] = []
    used: set[object] = set()
    for flow in flows:
        key = _flow_key(flow)
        sent = _sent(semantics, flow, host)
        if sent is not None and key not in used and _travels(flow):
            used.add(key)
            found.append(sent)
    return found


def _sent(semantics: Semantics, flow: Flow, host: str) -> Sent | None:
    sender, receiver = semantics.sender(flow), semantics.owners.get(flow.destination)
    owner = semantics.owners.get(flow.source)
    comes_from_here = sender is not None and sender.spec.node == host
    goes_here = receiver is not None and receiver.spec.node == host
    if not (comes_from_here or goes_here):
        return None
    if not comes_from_here and owner is not None and owner.spec.node == host:
        return None  # its own workload's address, from the fabric: nobody routes that
    judged = semantics.judge(flow)
    ends = [judged.egress if comes_from_here else None, judged.ingress if goes_here else None]
    decisions = [decision for decision in ends if decision is not None]
    return Sent(
        flow=flow,
        interface=sender.spec.interface_name if sender and comes_from_here else UPLINK,
        expected="allow" if all(d.verdict == "allow" for d in decisions) else "deny",
        by=" and ".join(d.by for d in decisions),
        leaves_by=receiver.spec.interface_name if receiver and goes_here else UPLINK,
    )


def _flow_key(flow: Flow) -> object:
    """Return what connection tracking tells flows apart by, the same for both directions."""
    ends = frozenset(((flow.source, flow.source_port), (flow.destination, flow.destination_port)))
    return flow.protocol, ends, flow.icmp_type, flow.icmp_code


def _travels(flow: Flow) -> bool:
    """Tell whether the kernel forwards such a packet at all, and tracks it as new."""
    if flow.state != "NEW":
        return False
    own, others = {4: (1, 58), 6: (58, 1)}[flow.version]
    if flow.protocol == own and flow.icmp_type not in FIRST_TYPES[flow.version]:
        return False
    if flow.protocol == others or (flow.version, flow.protocol) == (6, 0):
        return False  # the other family's ICMP is never new; 0 is a header of IPv6 itself
    ends = (address(flow.source), address(flow.destination))
    hosts = (*OWN.values(), *GATEWAY.values(), *OTHER.values())
    return all(_is_plain(end) and str(end) not in hosts for end in ends)


def _is_plain(end: Address) -> bool:
    special = end.is_multicast or end.is_loopback or end.is_unspecified or end.is_link_local
    if end.version == 4:
        return not special and 0 < int(end) >> 24 < 224
    return not special and int(end) >> 96 not in (0, 0x64FF9B)


# ---------------------------------------------------------------- a host


def run(cloud: Cloud, sent: list[Sent], backend: str, host: str = "h1") -> Seen:
    """Make the host, let its drivers write it, send the packets and say what came out.

    The cloud has `NODES`, so that there is a way to the other host.
    """
    graph = graph_of(cloud)
    endpoints = [r for r in cloud if isinstance(r, WorkloadEndpoint) and r.spec.node == host]
    with Netns("proof") as inside, Netns("proofout") as outside:
        _wire_up(inside, outside, endpoints)
        return inside.python(_in_host, outside.name, graph.snapshot(host), sent, backend)


def _macs(index: int) -> tuple[str, str]:
    return f"02:00:00:00:01:{index:02x}", f"02:00:00:00:02:{index:02x}"


def _interfaces(endpoints: Iterable[WorkloadEndpoint]) -> list[str]:
    return [UPLINK, *sorted(e.spec.interface_name for e in endpoints)]


def _wire_up(inside: Netns, outside: Netns, endpoints: list[WorkloadEndpoint]) -> None:
    """Make the interfaces, their other ends, and the neighbours that would answer there."""
    for where in (inside, outside):
        for name in ("ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"):
            where.sysctl(f"net/{name}", "0")
        where.sysctl("net/ipv6/conf/default/accept_dad", "0")
    # Tracking looks at no checksum: for UDPLite it computes another than RFC 3828 says (Linux 6.18).
    inside.sysctl("net/netfilter/nf_conntrack_checksum", "0")
    lines, beyond = [], []
    for index, name in enumerate(_interfaces(endpoints)):
        mine, its = _macs(index)
        lines.append(f"link add {name} address {mine} type veth peer name x{index} address {its}")
        lines.append(f"link set x{index} netns {outside.name}")
        lines.append(f"link set {name} up")
        beyond.append(f"link set x{index} arp off up")
    peer = _macs(0)[1]
    lines.append(f"addr add {OWN[4]}/24 dev {UPLINK}")
    lines.append(f"addr add {OWN[6]}/64 dev {UPLINK} nodad")
    for version in (4, 6):
        lines.append(f"route add default via {GATEWAY[version]} dev {UPLINK}")
        lines += [
            f"neigh replace {ip} lladdr {peer} dev {UPLINK} nud permanent"
            for ip in (GATEWAY[version], OTHER[version])
        ]
    for endpoint in endpoints:
        index = _interfaces(endpoints).index(endpoint.spec.interface_name)
        for net in endpoint.spec.ip_networks:
            ip = net.partition("/")[0]
            lladdr = f"lladdr {_macs(index)[1]} dev {endpoint.spec.interface_name}"
            lines.append(f"neigh replace {ip} {lladdr} nud permanent")
    inside.run(["ip", "-batch", "-"], text="\n".join((*lines, "")))
    outside.run(["ip", "-batch", "-"], text="\n".join((*beyond, "")))


def _in_host(outside: str, batch: HostBatch, sent: list[Sent], backend: str) -> Seen:
    seen = Seen()
    asyncio.run(_apply(batch, backend, seen))
    for version, tool in ((4, "iptables"), (6, "ip6tables")):
        seen.tables[version] = _output(f"{tool}-{backend}-save")
    seen.sets = _output("ipset", "save")
    names = [UPLINK, *sorted({e.interface for e in batch.updates if hasattr(e, "interface")})]
    enter(outside)
    _send(sent, names, seen)
    return seen


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


async def _apply(batch: HostBatch, backend: str, seen: Seen) -> None:
    """Let the product's own kernel half write what the snapshot says, as the agent does."""
    settings = DataplaneSettings(
        host=batch.host, backend=backend, workload_to_host="accept", udplite=True
    )
    kernel = await open_kernel(settings)
    try:
        indices = {name: index for index, name in socket.if_nameindex()}
        await kernel.resync()
        kernel.desired.set_links({n: LinkState(index=i, up=True) for n, i in indices.items()})
        for step in Feed().on_batch(batch):
            assert isinstance(step, Step), step
            kernel.desired.apply(step)
        turn = await kernel.apply()
        assert not turn.held_by, turn.held_by
        seen.refused = kernel.refused
    finally:
        await kernel.close()


def _send(sent: list[Sent], names: list[str], seen: Seen) -> None:
    """Put every packet on its wire and note on which wire it comes out."""
    wires: dict[str, socket.socket] = {}
    for index, name in enumerate(names):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind((f"x{index}", 3))
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        wires[name] = wire
    marks: dict[bytes, int] = {}
    for index, one in enumerate(sent):
        mine, its = _macs(names.index(one.interface))
        whole = frame(one.flow, index, mine, its)
        marks[through(whole[14:])] = index
        wires[one.interface].send(whole)
        if index % 32 == 31:
            _collect(wires, marks, seen, 0.0)
    awaited = {index for index, one in enumerate(sent) if one.expected == "allow"}
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        _collect(wires, marks, seen, QUIET_S)
        if awaited <= seen.came_out.keys() or time.monotonic() > deadline_at:
            break
    for wire in wires.values():
        wire.close()


def _collect(
    wires: dict[str, socket.socket], marks: dict[bytes, int], seen: Seen, quiet_s: float
) -> None:
    """Read the wires until nothing has come for a while."""
    names = {wire: name for name, wire in wires.items()}
    while ready := select.select(list(names), [], [], quiet_s)[0]:
        for wire in ready:
            data, where = wire.recvfrom(2048)
            index = arrived(data, marks)
            if index is not None and where[2] != socket.PACKET_OUTGOING:
                seen.came_out[index] = names[wire]
