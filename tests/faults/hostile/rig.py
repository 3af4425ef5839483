"""A host with a hostile workload in it, ears everywhere, and the verdict on each shape it sends."""

import contextlib
import json
import re
import select
import socket
import threading
import time
from dataclasses import dataclass, field

from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    TierPolicies,
    Update,
)
from tests.faults.hostile.maker import BAD_PREFIX, FLOW, OPEN, Places, Shape, marker_of
from tests.faults.hostile.shapes import shapes
from tests.support.netns import Netns, enter
from tests.support.site import HOST, REMOTE, WORKLOAD, Site

_ETH_ALL = 3
_OUTGOING = 4
#: Long enough for a packet to pass two namespaces; and how long one is waited for that must, on a busy machine.
_WAIT_S, _PATIENCE_S = 0.04, 5.0
#: The same for what comes if nobody stops it, of which it is not known beforehand whether anything would.
_BARE_S = 0.2
#: Where the host listens besides its TCP servers.
_PORTS = (OPEN, 67, 68, 546, 547, 4789, 5353)


def state() -> tuple[Update, ...]:
    """Let both workloads send and get UDP to one port and TCP to another, whoever with."""
    rules = tuple(
        ResolvedRule(
            id=f"r{p}", action="allow", protocol=n, destination=Entity(ports=(PortRange(p, p),))
        )
        for n, p in ((17, OPEN), (6, 80))
    )
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, ingress=rules, egress=rules)
    ids = (policy.id,)
    endpoints = (
        EndpointSet(
            id=EndpointId(f"d/{name}"),
            interface=f"tap{name}",
            addresses=(f"{ips[4]}/32", f"{ips[6]}/128"),
            tiers=(TierPolicies(name="t", ingress=ids, egress=ids),),
        )
        for name, ips in WORKLOAD.items()
    )
    return (policy, *endpoints)


@dataclass
class Ears:
    """Everything that arrives at one place."""

    where: str
    sockets: list[socket.socket] = field(default_factory=list)

    def heard(self) -> list[bytes]:
        """Return what has arrived since the last time."""
        found = []
        while ready := select.select(self.sockets, [], [], 0)[0]:
            for one in ready:
                with contextlib.suppress(OSError):
                    data, sender = one.recvfrom(65536)
                    if one.family != socket.AF_PACKET or sender[2] != _OUTGOING:
                        found.append(data)
        return found


def _inside(ns: Netns, make: object) -> None:
    """Run something in a namespace, in a thread that ends there."""
    faults: list[BaseException] = []

    def whole() -> None:
        try:
            enter(ns.name)
            make()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - raised again where it is seen
            faults.append(error)

    thread = threading.Thread(target=whole)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


def open_raw(ns: Netns, interface: str) -> socket.socket:
    """Open what sends and gets frames on an interface."""
    made: list[socket.socket] = []

    def make() -> None:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        one.bind((interface, _ETH_ALL))
        made.append(one)

    _inside(ns, make)
    return made[0]


def _listeners(ns: Netns) -> list[socket.socket]:
    """Open the host's own sockets: UDP on any address of both families, and in the group of mDNS."""
    made: list[socket.socket] = []

    def make() -> None:
        index = socket.if_nametoindex("tapa")
        for port in _PORTS:
            for family, any_address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
                one = socket.socket(family, socket.SOCK_DGRAM)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    group = socket.inet_pton(family, "ff02::fb") + index.to_bytes(4, "little")
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
                else:
                    group = socket.inet_aton("224.0.0.251") + bytes(4) + index.to_bytes(4, "little")
                    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                one.bind((any_address, port))
                made.append(one)

    _inside(ns, make)
    return made


def mac(ns: Netns, interface: str) -> str:
    """Return an interface's link-layer address."""
    address: str = json.loads(ns.run(["ip", "-j", "link", "show", interface]))[0]["address"]
    return address


def heard(ear: socket.socket, what: bytes) -> bool:
    """Wait until a frame with this in it comes."""
    ear.settimeout(2.0)
    end = time.monotonic() + 2.0
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < end:
            frame, sender = ear.recvfrom(65536)
            if what in frame and sender[2] != socket.PACKET_OUTGOING:
                return True
    return False


@dataclass(frozen=True)
class Result:
    """One shape's verdict: where it came though it must not, or did not though it must."""

    shape: Shape
    backend: str
    fault: str = ""


class Rig:
    """The site, wired with ears."""

    def __init__(self, site: Site, *, bare: bool = False) -> None:
        """Apply the policy and open all sockets; a bare host loses all its rules after that."""
        self.site = site
        self._is_bare = bare
        refused = site.apply(*state())
        assert not [one for one in refused if not one.startswith("kernel without ")], refused
        a, b = site.workloads["a"], site.workloads["b"]
        self.places = Places(
            WORKLOAD["a"],
            WORKLOAD["b"],
            HOST,
            REMOTE,
            mac(a, "v0"),
            mac(site.host, "tapa"),
            mac(b, "v0"),
        )
        self.mouth = open_raw(a, "v0")
        self.ears = [
            Ears("b", [open_raw(b, "v0")]),
            Ears("remote", [open_raw(site.remote, "r0")]),
            Ears("host", _listeners(site.host)),
        ]
        if bare:
            for tool in (f"iptables-{site.backend}", f"ip6tables-{site.backend}"):
                for table in ("raw", "mangle", "filter"):
                    site.host.run([tool, "-t", table, "-F"])
        self.before = self.known()

    def close(self) -> None:
        """Close all sockets."""
        for one in (self.mouth, *(one for ears in self.ears for one in ears.sockets)):
            one.close()

    def known(self) -> str:
        """Return what the host and the victims believe of addresses and ways."""
        found = [
            f"{name} {what}: " + ns.run(["ip", *what.split(), "show"])
            for name, ns in self._victims()
            for what in ("-4 route", "-6 route", "-o -4 addr", "-o -6 addr")
        ]
        # What expires counts down.
        return re.sub(r"(valid_lft|preferred_lft|expires) \S+", "", "\n".join(found))

    def _victims(self) -> list[tuple[str, Netns]]:
        site = self.site
        return [("host", site.host), ("b", site.workloads["b"]), ("remote", site.remote)]

    def _talk(self) -> None:
        """Let b have a flow with the remote machine and one with a, in both families."""

        def make() -> None:
            for family, kind in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                with socket.socket(kind, socket.SOCK_DGRAM) as one:
                    one.bind((WORKLOAD["b"][family], FLOW))
                    for other in (REMOTE, WORKLOAD["a"]):
                        one.sendto(b"hello", (other[family], OPEN))

        _inside(self.site.workloads["b"], make)

    def misled(self) -> str:
        """Say which neighbour of others has the hostile workload's link-layer address."""
        for name, ns in self._victims():
            for line in ns.run(["ip", "neigh"]).splitlines():
                if self.places.own_mac in line and "dev tapa" not in line:
                    return f"{name} believes {line}"
        return ""

    def send(self, shape: Shape) -> str:
        """Send one shape; return what is wrong with where it came, "" for nothing."""
        if "error" in shape.name:
            self._talk()
            time.sleep(_WAIT_S)
        for ears in self.ears:
            ears.heard()
        while select.select([self.mouth], [], [], 0)[0]:
            self.mouth.recv(65536)
        for frame in shape.frames:
            self.mouth.send(frame)
        deadline_at = time.monotonic() + (_BARE_S if self._is_bare else _PATIENCE_S)
        came: set[str] = set()
        while True:
            time.sleep(_WAIT_S)
            came |= self._came(shape)
            enough = bool(came) if self._is_bare else shape.passes <= came
            if enough or time.monotonic() > deadline_at:
                break
        return (
            ""
            if came == shape.passes
            else f"came to {sorted(came)}, and must to {sorted(shape.passes)}"
        )

    def _came(self, shape: Shape) -> set[str]:
        """Return where something of a shape has come since the last time."""
        marker = marker_of(shape)
        prefix = socket.inet_pton(socket.AF_INET6, BAD_PREFIX)[:8]
        came = set()
        for ears in self.ears:
            frames = ears.heard()
            is_here = any(
                marker in data or (shape.name.startswith("RA") and prefix in data)
                for data in frames
            )
            is_claim = shape.name.startswith(("ARP", "NA")) and any(
                bytes.fromhex(self.places.own_mac.replace(":", "")) in data for data in frames
            )
            if is_here or is_claim:
                came.add(ears.where)
        if self._answered(shape, marker):
            came.add("the host's answer")
        return came

    def _answered(self, shape: Shape, marker: bytes) -> bool:
        """Tell whether the host's own stack answered: an echo, or a step of TCP."""
        while select.select([self.mouth], [], [], 0)[0]:
            data, sender = self.mouth.recvfrom(65536)
            if sender[2] == _OUTGOING:
                continue
            kind, body = data[12:14], data[14:]
            if kind == b"\x08\0":
                protocol, rest = body[9], body[(body[0] & 15) * 4 :]
                echo = protocol == 1 and rest[:1] == b"\0" and marker in data
            elif kind == b"\x86\xdd":
                protocol, rest = body[6], body[40:]
                echo = protocol == 58 and rest[:1] == b"\x81" and marker in data
            else:
                continue
            if echo or (protocol == 6 and shape.name.startswith("SYN")):
                return True
        return False

    def run(self, only: str = "") -> list[Result]:
        """Send all shapes, and look at what everybody believes after each that claims something."""
        found = []
        # What nobody stops is waited for in vain where the kernel itself does: of the usual shapes, seldom.
        for shape in shapes(self.places, only_usual=self._is_bare):
            if only not in shape.name:
                continue
            fault = self.send(shape)
            if shape.name.startswith(("ARP", "NA", "RA", "redirect", "ICMP redirect", "DHCP")):
                fault = fault or self.misled()
                if self.known() != self.before:
                    fault = fault or "addresses or routes are others now"
            found.append(Result(shape, self.site.backend, fault))
        return found
