"""What is seen of a workload that moves: by a caller a thousand times a second, and in the routes of a host.

Run in a namespace: `python -m tests.support.moving_probe call ADDRESS PORT` sends a numbered datagram each
millisecond and writes `number sent_at` for each that is answered; `… watch ADDRESS` asks the kernel each
millisecond which way it would send, and writes `at way` whenever that is another one; `… changes ADDRESS` writes
`at + or - way by … metric …` for each change of the routes to that very address; `… pace ADDRESS` writes a
route to that address 200 times a second and writes `at late_s` whenever it came late to it, or the kernel was late:
what the machine makes anybody wait. Times are of the system-wide monotonic clock.
"""

import itertools
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hopwall_cli.lab.flow import make_room
from hopwall_dataplane.netlink.codec import Failure, attribute, attribute_table, message
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket

INTERVAL_S = 0.001
_NUMBER = struct.Struct("!Id")
_ROUTE_GROUPS, _RTA_PRIORITY, _BY = 0x40 | 0x400, 6, {12: "bird", 80: "us"}
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTM_GETROUTE, _RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 26, 1, 4, 5, 9
_UNICAST = 1
_RTM_NEWROUTE, _BLACKHOLE, _CREATE_OR_REPLACE = 24, 6, 0x500
_SIGNS = {24: "+", 25: "-"}
_PACE_S, _LATE_S = 0.005, 0.005


class Probe:
    """One of them, running in a namespace; what it has seen can be asked at any time."""

    def __init__(self, namespace: str, *argv: str) -> None:
        """Start it."""
        handle, name = tempfile.mkstemp(prefix="hwt-probe-")
        self._seen = Path(name)
        self._process = subprocess.Popen(
            [
                *("ip", "netns", "exec", namespace, sys.executable, "-m"),
                *("tests.support.moving_probe", *argv),
            ],
            stdout=handle,
            env=dict(os.environ),
        )
        os.close(handle)

    def lines(self) -> list[list[str]]:
        """Return the whole lines so far."""
        text = self._seen.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._seen.unlink()


def blackout_s(probe: Probe, since: float) -> float:
    """Return the longest time since then in which nothing that was sent was answered; a pause of the sender is none.

    Shape: it is counted from the last datagram that was answered, or that moment, to the next one that was.
    """
    answered = [(int(n), float(at)) for n, at in probe.lines()]
    return max(
        (
            after_at - max(before_at, since)
            for (before, before_at), (after, after_at) in itertools.pairwise(answered)
            if after - before > 1 and after_at > since
        ),
        default=0.0,
    )


def last_answered_at(probe: Probe) -> float:
    """Return when the last datagram that was answered was sent, 0 for never."""
    lines = probe.lines()
    return float(lines[-1][1]) if lines else 0.0


def ways(probe: Probe, since: float) -> list[str]:
    """Return the ways a host took, in order: the one at the beginning first."""
    seen = [(float(at), way) for at, way in probe.lines()]
    before = [way for at, way in seen if at <= since]
    return [*before[-1:], *(way for at, way in seen if at > since)]


def latest_s(probe: Probe, since: float) -> float:
    """Return by how much somebody was late at most since then."""
    return max((float(late) for at, late in probe.lines() if float(at) >= since), default=0.0)


def _call(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    end = socket.socket(family, socket.SOCK_DGRAM)
    make_room(end)
    end.setblocking(False)
    end.connect((address, port))
    waiting = selectors.DefaultSelector()
    waiting.register(end, selectors.EVENT_READ)
    number, due_at = 0, time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due_at:
            number += 1
            due_at = max(due_at + INTERVAL_S, now)
            try:
                end.send(_NUMBER.pack(number, now))
            except OSError:
                continue
        waiting.select(max(0.0, due_at - time.monotonic()))
        while True:
            try:
                data = end.recv(64)
            except OSError:
                break
            found, sent_at = _NUMBER.unpack(data)
            sys.stdout.write(f"{found} {sent_at:.4f}\n")
        sys.stdout.flush()


def _watch(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    head = _RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    question = message(_RTM_GETROUTE, 0, head + attribute(_RTA_DST, packed))
    kernel = NetlinkSocket(NETLINK_ROUTE)
    last = ""
    while True:
        at = time.monotonic()
        way = _way(kernel.ask(question))
        if way != last:
            last = way
            sys.stdout.write(f"{at:.4f} {way}\n")
            sys.stdout.flush()
        time.sleep(INTERVAL_S)


def _changes(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    kernel = NetlinkSocket(NETLINK_ROUTE, groups=_ROUTE_GROUPS)
    sys.stdout.write(f"{time.monotonic():.4f} listening\n")
    while True:
        sys.stdout.flush()
        select.select([kernel], [], [])
        for kind, body in kernel.events():
            at = time.monotonic()
            parts = attribute_table(body, _RTMSG.size, len(body))
            if kind not in _SIGNS or parts.get(_RTA_DST) != packed or body[1] != 8 * len(packed):
                continue
            metric = int.from_bytes(parts.get(_RTA_PRIORITY, b""), sys.byteorder)
            by = _BY.get(body[5], body[5])
            sys.stdout.write(f"{at:.4f} {_SIGNS[kind]} {_way(body)} by {by} metric {metric}\n")


def _pace(address: str) -> None:
    head = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 254, 250, 0, _BLACKHOLE, 0)
    to = attribute(_RTA_DST, socket.inet_aton(address))
    write = message(_RTM_NEWROUTE, _CREATE_OR_REPLACE, head + to)
    kernel = NetlinkSocket(NETLINK_ROUTE)
    before = time.monotonic()
    while True:
        time.sleep(_PACE_S)
        kernel.send([write])
        now = time.monotonic()
        late_s = now - before - _PACE_S
        if late_s > _LATE_S:
            sys.stdout.write(f"{now:.4f} {late_s:.4f}\n")
            sys.stdout.flush()
        before = now


def _way(answer: bytes | Failure) -> str:
    if isinstance(answer, Failure) or answer[7] != _UNICAST:
        return "none"
    parts = attribute_table(answer, _RTMSG.size, len(answer))
    if _RTA_MULTIPATH in parts:
        return "several"
    if gateway := parts.get(_RTA_GATEWAY):
        return socket.inet_ntop(socket.AF_INET6 if len(gateway) == 16 else socket.AF_INET, gateway)
    index = int.from_bytes(parts[_RTA_OIF], sys.byteorder)
    try:
        return socket.if_indextoname(index)
    except OSError:  # it went with the route
        return str(index)


if __name__ == "__main__":
    if sys.argv[1] == "call":
        _call(sys.argv[2], int(sys.argv[3]))
    else:
        {"pace": _pace, "changes": _changes, "watch": _watch}[sys.argv[1]](sys.argv[2])
