"""Streams of packets between namespaces, each packet judged by itself: did it arrive though it must not?

One-way UDP, so no packet is let by for what was let by before: to policy each is a new flow.
"""

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from tests.support.netns import enter

_NUMBER = struct.Struct("!Q")
PERIOD_S = 0.01
#: What is under way longer than this is lost.
_UNDER_WAY_S = 0.2


def socket_in(namespace: str, family: int, address: str = "", port: int = 0) -> socket.socket:
    """Open a UDP socket in a named namespace, bound where an address or port is given."""
    made: list[socket.socket] = []

    def make() -> None:
        enter(namespace)
        one = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        one.setblocking(False)
        if address or port:
            one.bind((address, port))
        made.append(one)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@dataclass
class Stream:
    """One direction of one family.

    Shape: `sent` and `came` are packet number → when, by the monotonic clock.
    """

    name: str
    is_open: bool
    source: socket.socket
    target: socket.socket
    address: tuple[str, int]
    sent: dict[int, float] = field(default_factory=dict)
    came: dict[int, float] = field(default_factory=dict)

    def send(self, number: int) -> None:
        """Send one packet; one that the sender's kernel will not have counts as sent."""
        self.sent[number] = time.monotonic()
        with contextlib.suppress(OSError):
            self.source.sendto(_NUMBER.pack(number), self.address)

    def drain(self) -> None:
        """Note what came."""
        with contextlib.suppress(BlockingIOError):
            while True:
                (number,) = _NUMBER.unpack(self.target.recv(64)[: _NUMBER.size])
                self.came.setdefault(number, time.monotonic())


@dataclass(frozen=True)
class Verdict:
    """What was wrong between two moments, in packets and as the time from the first to the last of them."""

    n_open: int = 0
    open_s: float = 0.0
    n_closed: int = 0
    closed_s: float = 0.0
    n_sent: int = 0


class Prober:
    """Sends on all streams at a steady pace, in a thread of its own."""

    def __init__(self, streams: list[Stream]) -> None:
        """Take note of the streams."""
        self.streams = streams
        self._stop = threading.Event()
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
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            number += 1
            for one in self.streams:
                one.send(number)
            due = max(due + PERIOD_S, time.monotonic() - 1.0)
            while (left := due - time.monotonic()) > 0:
                self._stop.wait(min(left, PERIOD_S / 2))
                for one in self.streams:
                    one.drain()

    def verdict(self, begin: float, end: float, family: int = 0) -> Verdict:
        """Judge what was sent between two moments; the second must lie some time back."""
        wrongly_open: list[float] = []
        wrongly_closed: list[float] = []
        n_sent = 0
        for one in self.streams:
            if family and not one.name.endswith(f"v{family}"):
                continue
            for number, at in list(one.sent.items()):
                if not begin <= at < end:
                    continue
                n_sent += 1
                arrived = number in one.came
                if arrived and not one.is_open:
                    wrongly_open.append(at)
                elif not arrived and one.is_open:
                    wrongly_closed.append(at)
        return Verdict(
            len(wrongly_open),
            _span(wrongly_open),
            len(wrongly_closed),
            _span(wrongly_closed),
            n_sent,
        )

    def settle(self) -> float:
        """Wait until what was sent by now has arrived or is lost; return the moment before that."""
        now = time.monotonic()
        time.sleep(_UNDER_WAY_S)
        return now


def _span(moments: list[float]) -> float:
    return max(moments) - min(moments) + PERIOD_S if moments else 0.0
