"""What one packet costs: bursts of raw frames into one end of a veth pair, timed by the sender.

The kernel carries a frame through the whole host before `sendmmsg` goes on to the next: in at one
tap, through the tables, out at the other, where nobody takes it. So the sender's clock holds the cost of all of it,
on one CPU, and no receiver is needed. Bursts last about a millisecond and nothing else may run on their CPU
meanwhile; all that is compared takes turns, in another order each round. Of a case's bursts the first decile
counts: a neighbour on the other half of the core makes any of them a quarter slower.

Shape:  a namespace with two veth pairs made by `wire`, both ends of each in it.
Units:  nanoseconds a packet.
Source: sendmmsg(2), packet(7).
"""

import contextlib
import ctypes
import os
import random
import socket
import statistics
import struct
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from tests.support.netns import Netns, enter

INTO_END, OUT_END = "wl-a", "wl-b"
_MAC = "02:00:00:00:00:0a"
_WARM_UP = 32
_BURST_NS = 1_000_000
_MIN_BURST, _MAX_BURST = 16, 1024


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("head", _Msghdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)


def wire(ns: Netns, into: str, out: str) -> None:
    """Make both pairs; no neighbour is asked for, and what comes out is for nobody."""
    for tap, end in ((into, INTO_END), (out, OUT_END)):
        ns.run(["ip", "link", "add", tap, "address", _MAC, "type", "veth", "peer", "name", end])
        for name in (tap, end):
            ns.run(["ip", "link", "set", name, "arp", "off", "up"])
    ns.sysctl("net/ipv4/ip_forward", "1")
    ns.sysctl("net/ipv6/conf/all/forwarding", "1")


def frame(source: str, destination: str, ports: tuple[int, int] = (4000, 4001)) -> bytes:
    """Return a UDP datagram of 18 bytes as it comes into the host."""
    src, dst = ip_address(source), ip_address(destination)
    udp = struct.pack("!HHHH", *ports, 26, 0) + bytes(18)
    if src.version == 6:
        # A UDP checksum of 0 is wrong here, but no router looks.
        kind, head = 0x86DD, struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
    else:
        kind, head = 0x0800, struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0)
        total = sum(struct.unpack("!10H", head + src.packed + dst.packed))
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    ethernet = bytes.fromhex(_MAC.replace(":", "")) + bytes.fromhex("020000000001")
    return ethernet + struct.pack("!H", kind) + head + src.packed + dst.packed + udp


class Sender:
    """Frames into one namespace, from any thread of this process."""

    def __init__(self, ns: Netns, frames: Sequence[bytes], end: str = INTO_END) -> None:
        """Open the socket inside, and lay out the messages once."""
        self.n_sent = 0
        self.size = _MIN_BURST
        self._sock = _socket_in(ns.name, end)
        self._buffers = [ctypes.create_string_buffer(f, len(f)) for f in frames]
        iovecs = [_Iovec(ctypes.addressof(b), len(b)) for b in self._buffers]
        self._iovecs = (_Iovec * len(iovecs))(*iovecs)
        self._messages = (_Mmsghdr * (_WARM_UP + _MAX_BURST))()
        for n, message in enumerate(self._messages):
            message.head.iov = ctypes.pointer(self._iovecs[n % len(iovecs)])
            message.head.iovlen = 1

    def send(self, first: int, count: int) -> None:
        """Send messages of the layout.

        Errors: OSError when the kernel takes fewer.
        """
        at = ctypes.byref(self._messages, first * ctypes.sizeof(_Mmsghdr))
        sent = _libc.sendmmsg(self._sock.fileno(), at, count, 0)
        if sent != count:
            raise OSError(ctypes.get_errno(), f"{sent} of {count} frames were taken")
        self.n_sent += count

    def burst_ns(self) -> float:
        """Send one burst and return the time a packet took; a few go ahead to warm the caches."""
        with _undisturbed():
            self.send(0, _WARM_UP)
            began_at = time.perf_counter_ns()
            self.send(_WARM_UP, self.size)
            return (time.perf_counter_ns() - began_at) / self.size

    def calibrate(self) -> None:
        """Choose how many packets make a burst."""
        self.burst_ns()
        each = min(self.burst_ns() for _ in range(3))
        self.size = max(_MIN_BURST, min(_MAX_BURST, int(_BURST_NS / each)))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a packet costs: the first decile of the bursts, as all that disturbs them only adds.

    Units: nanoseconds; `spread` is how far the median lies above, as a share.
    """

    ns: float
    spread: float


Key = TypeVar("Key", bound=Hashable)


def race(senders: Mapping[Key, Sender], n_rounds: int) -> dict[Key, Cost]:
    """Let all take turns, shuffled anew each round."""
    order = list(senders)
    times: dict[Key, list[float]] = {key: [] for key in order}
    shuffle = random.Random(1).shuffle
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        for sender in senders.values():
            sender.calibrate()
        for _ in range(n_rounds):
            shuffle(order)
            for key in order:
                times[key].append(senders[key].burst_ns())
    finally:
        os.sched_setaffinity(0, cpus)
    return {key: _cost(found) for key, found in times.items()}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no other process have this CPU meanwhile; for a millisecond at a time. Source: sched(7)."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _cost(times: list[float]) -> Cost:
    low = statistics.quantiles(times, n=10)[0]
    return Cost(low, statistics.median(times) / low - 1)


def _socket_in(namespace: str, interface: str) -> socket.socket:
    """Open a raw socket inside a namespace, bound to an interface, that receives nothing."""
    found: list[socket.socket] = []

    def work() -> None:
        enter(namespace)
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((interface, 0))
        found.append(sock)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]
