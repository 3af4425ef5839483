"""Streams of packets between namespaces: every packet is a probe, held against what is legal at its moment.

One-way UDP, so no packet is let by for what was let by before: to policy each is a new flow. A stream of which the
verdict changes sends each packet from another port: a flow that was denied stays marked for some time after it is
allowed again (docs/design/dataplane.md 13), and new ones are asked for here. What may become of a packet is asked of
its stream (`May`): of `legal.Legal` where the state changes, or always the same.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hopwall_cli.lab.flow import make_room
from tests.support.netns import enter

#: Of which stream a packet is, and its number there: one of an earlier stream may still be under way.
_NUMBER = struct.Struct("!8sQ")
_UDP = struct.Struct("!HHHH")
_AT_CHECKSUM = 6
_DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
#: From which ports fresh flows come: below those that the kernel gives.
_FIRST_PORT, _N_PORTS = 2000, 30000
PERIOD_S = 0.01
#: What is under way longer than this is lost.
UNDER_WAY_S = 0.2
#: What is later than this is worth a note.
_LATE_S = 0.005

#: What may become of a packet that is under way between two moments: True is that it comes through.
May = Callable[[float, float], frozenset[bool]]


def always(is_open: bool) -> May:
    """Return what may become of packets where nothing changes."""
    only = frozenset({is_open})
    return lambda _since, _until: only


def socket_in(namespace: str, family: int, address: str = "", port: int = 0) -> socket.socket:
    """Open a UDP socket in a named namespace, bound where an address or port is given."""
    one = _opened(namespace, _DOMAIN[family], socket.SOCK_DGRAM)
    make_room(one)
    if address or port:
        one.bind((address, port))
    return one


def raw_in(namespace: str, family: int) -> socket.socket:
    """Open a socket in a named namespace on which the UDP header is given, too: with any port to come from."""
    one = _opened(namespace, _DOMAIN[family], socket.SOCK_RAW, socket.IPPROTO_UDP)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # it hears what others are sent
    if family == 6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _AT_CHECKSUM)
    return one


def _opened(namespace: str, *kind: int) -> socket.socket:
    with ThreadPoolExecutor(1) as other_thread:

        def make() -> socket.socket:
            enter(namespace)
            return socket.socket(*kind)

        one = other_thread.submit(make).result()
    one.setblocking(False)
    return one


@dataclass
class Stream:
    """One direction of one family.

    Shape: `sent` is packet number → when, by the monotonic clock, before it was handed to the kernel; `left` the same
           after that: between them the sender may have had to wait for the machine. `wrong` is the number of each
           packet of which something else became than is legal → whether it came.
    """

    name: str
    may: May
    source: socket.socket
    target: socket.socket
    address: tuple[str, int]
    sent: "array[float]" = field(default_factory=lambda: array("d"))
    left: "array[float]" = field(default_factory=lambda: array("d"))
    wrong: dict[int, bool] = field(default_factory=dict)
    _came: bytearray = field(default_factory=bytearray)
    n_judged: int = 0
    #: The source is a raw socket, and each packet is a flow of its own.
    fresh: bool = False
    _own: bytes = field(default_factory=lambda: os.urandom(8))

    def send(self) -> None:
        """Send one packet; one that the sender's kernel will not have counts as sent."""
        number = len(self.sent)
        self._came.append(0)
        self.sent.append(time.monotonic())
        data, address = _NUMBER.pack(self._own, number), self.address
        if self.fresh:
            port = _FIRST_PORT + number % _N_PORTS
            # No checksum, as IPv4 allows; of IPv6 the kernel makes it.
            data = _UDP.pack(port, address[1], _UDP.size + len(data), 0) + data
            address = (address[0], 0)
        with contextlib.suppress(OSError):
            self.source.sendto(data, address)
        self.left.append(time.monotonic())

    def drain(self) -> None:
        """Note what came. What comes after it was given up is judged again."""
        with contextlib.suppress(BlockingIOError):
            while True:
                own, number = _NUMBER.unpack(self.target.recv(64)[: _NUMBER.size])
                if own != self._own:
                    continue
                self._came[number] = 1
                if number < self.n_judged:
                    self._judge(number, time.monotonic())

    def judge(self, until: float) -> None:
        """Judge what was sent before a moment that lies so far back that it came or never will."""
        while self.n_judged < len(self.left) and self.left[self.n_judged] < until:
            self._judge(self.n_judged, self.left[self.n_judged] + UNDER_WAY_S)
            self.n_judged += 1

    def _judge(self, number: int, until: float) -> None:
        came = bool(self._came[number])
        if came in self.may(self.sent[number], until):
            self.wrong.pop(number, None)
        else:
            self.wrong[number] = came


@dataclass(frozen=True)
class Verdict:
    """What was wrong between two moments, in packets and as the time from the first to the last of them."""

    n_open: int = 0
    open_s: float = 0.0
    n_closed: int = 0
    closed_s: float = 0.0
    n_sent: int = 0


class Prober:
    """Sends on all streams at a steady pace, in a thread of its own, and judges each packet."""

    def __init__(self, streams: list[Stream], period_s: float = PERIOD_S) -> None:
        """Take note of the streams, and of how far apart the packets of each are."""
        self.streams = streams
        self._period_s = period_s
        #: When it came late to sending, and by how much: for so long the machine lets somebody wait.
        self._late: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Prober":
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and close the sockets."""
        self._stop.set()
        self._thread.join()
        for one in self.streams:
            one.source.close()
            one.target.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            with self._lock:
                late_s = time.monotonic() - due
                if late_s > _LATE_S:
                    self._late.append((time.monotonic(), late_s))
                for one in self.streams:
                    one.send()
            due = max(due + self._period_s, time.monotonic() - 1.0)
            while (left := due - time.monotonic()) > 0:
                self._stop.wait(min(left, self._period_s / 2))
                self._look()

    def _look(self) -> None:
        """Judge what has been given up by now. The moment is taken first: what came before it is in the sockets."""
        until = time.monotonic() - UNDER_WAY_S
        with self._lock:
            for one in self.streams:
                one.drain()
                one.judge(until)

    def verdict(self, begin: float, end: float, family: int = 0) -> Verdict:
        """Say what was wrong of what was sent between two moments; the second must lie some time back."""
        self._look()
        found: dict[bool, list[float]] = {True: [], False: []}
        n_sent = 0
        for one in self.streams:
            if family and not one.name.endswith(f"v{family}"):
                continue
            n_sent += bisect_left(one.sent, end) - bisect_left(one.sent, begin)
            for number, came in list(one.wrong.items()):
                if begin <= one.sent[number] < end:
                    found[came].append(one.sent[number])
        return Verdict(
            len(found[True]), _span(found[True]), len(found[False]), _span(found[False]), n_sent
        )

    def wrong(self) -> dict[tuple[str, bool], list[float]]:
        """Return when packets of each stream were sent that did otherwise than is legal, by whether they came."""
        self._look()
        found: dict[tuple[str, bool], list[float]] = {}
        for one in self.streams:
            for number, came in sorted(one.wrong.items()):
                found.setdefault((one.name, came), []).append(one.sent[number])
        return found

    def latest_s(self, since: float) -> float:
        """Return by how much it came late at most since a moment."""
        with self._lock:
            return max((late_s for at, late_s in self._late if at >= since), default=0.0)

    @property
    def n_judged(self) -> int:
        """How many probes have been judged so far."""
        return sum(one.n_judged for one in self.streams)

    def settle(self) -> float:
        """Wait until what was sent by now has arrived or is lost; return the moment before that."""
        now = time.monotonic()
        time.sleep(UNDER_WAY_S)
        return now


def _span(moments: list[float]) -> float:
    return max(moments) - min(moments) + PERIOD_S if moments else 0.0
