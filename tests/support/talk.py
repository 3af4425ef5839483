"""Two ends of a flow that each send a numbered tick every 20 ms, and say what they receive.

Run as a process inside a namespace: `python -m tests.support.talk ROLE PROTOCOL ADDRESS PORT`, where ROLE is
"serve" or "call" and PROTOCOL is "tcp", "udp" or "icmp" (called only). Each tick received is a line on
standard output: when it was received and when sent, on the system-wide monotonic clock, and the number.
Whether a flow is open at a moment is told by what was sent then: an end that waits for a processor says late
what came in time.
"""

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_TICK_S = 0.02
_TICK = struct.Struct("!Id")
_ICMP_HEAD_BYTES = 8


class Tick(NamedTuple):
    """One tick that came through."""

    heard_at: float
    sent_at: float
    number: int


class Talk:
    """One end, running in a namespace; what it received so far can be asked at any time."""

    def __init__(self, netns: str, role: str, protocol: str, address: str, port: int = 0) -> None:
        """Start it."""
        handle, name = tempfile.mkstemp(prefix="hwt-talk-")
        self._heard = Path(name)
        argv = [sys.executable, "-m", "tests.support.talk", role, protocol, address, str(port)]
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", netns, *argv], stdout=handle, env=dict(os.environ)
        )
        os.close(handle)

    def heard(self) -> list[Tick]:
        """Return every tick received."""
        lines = self._heard.read_text().splitlines(keepends=True)
        whole = [line.split() for line in lines if line.endswith("\n")]
        return [Tick(float(at), float(sent), int(number)) for at, sent, number in whole]

    def last_at(self) -> float:
        """Return when the last tick that came through was sent, 0 for never."""
        heard = self.heard()
        return heard[-1].sent_at if heard else 0.0

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._heard.unlink()


def _say(number: int, sent_at: float) -> None:
    sys.stdout.write(f"{time.monotonic():.4f} {sent_at:.4f} {number}\n")
    sys.stdout.flush()


def _tick(number: int) -> bytes:
    return _TICK.pack(number, time.monotonic())


def _tcp(role: str, family: int, address: str, port: int) -> None:
    if role == "serve":
        with socket.create_server((address, port), family=family) as listening:
            stream = listening.accept()[0]
    else:
        stream = _connected(family, address, port)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setblocking(False)
    sent, pending, unread = 0, b"", b""
    while True:
        if not pending:
            pending = _tick(sent)
            sent += 1
        with contextlib.suppress(BlockingIOError):
            pending = pending[stream.send(pending) :]
        if select.select([stream], [], [], _TICK_S)[0]:
            unread += stream.recv(65536)
            while len(unread) >= _TICK.size:
                _say(*_TICK.unpack_from(unread))
                unread = unread[_TICK.size :]
            time.sleep(_TICK_S / 2)


def _connected(family: int, address: str, port: int) -> socket.socket:
    for _ in range(100):
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.settimeout(1.0)
        try:
            stream.connect((address, port))
        except OSError:
            stream.close()
            time.sleep(0.1)
            continue
        return stream
    raise TimeoutError(address)


def _udp(role: str, family: int, address: str, port: int) -> None:
    end = socket.socket(family, socket.SOCK_DGRAM)
    peer = None
    if role == "serve":
        end.bind((address, port))
    else:
        peer = (address, port)
    sent = 0
    while True:
        if peer is not None:
            # EPERM: dropped on the way out of this very host.
            with contextlib.suppress(ConnectionRefusedError, PermissionError):
                end.sendto(_tick(sent), peer)
            sent += 1
        until = time.monotonic() + _TICK_S
        while (left := until - time.monotonic()) > 0:
            if select.select([end], [], [], left)[0]:
                data, who = end.recvfrom(64)
                peer = who[:2]
                _say(*_TICK.unpack(data))


def _icmp(family: int, address: str) -> None:
    v4 = family == socket.AF_INET
    end = socket.socket(family, socket.SOCK_RAW, 1 if v4 else 58)
    own = os.getpid() & 0xFFFF
    number = 0
    while True:
        head = struct.pack("!BBHHH", 8 if v4 else 128, 0, 0, own, number & 0xFFFF)
        echo = head + _tick(number)
        if v4:  # the kernel sums only v6
            total = sum(struct.unpack("!10H", echo))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            echo = echo[:2] + struct.pack("!H", ~total & 0xFFFF) + echo[4:]
        with contextlib.suppress(PermissionError):
            end.sendto(echo, (address, 0))
        number += 1
        until = time.monotonic() + _TICK_S
        while (left := until - time.monotonic()) > 0:
            if select.select([end], [], [], left)[0]:
                data = end.recv(256)[20 if v4 else 0 :]
                kind, _, _, ident, _ = struct.unpack_from("!BBHHH", data)
                if kind == (0 if v4 else 129) and ident == own:
                    _say(*_TICK.unpack_from(data, _ICMP_HEAD_BYTES))


def main() -> None:
    """Talk until killed."""
    role, protocol, address, port = sys.argv[1:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "tcp":
        _tcp(role, family, address, int(port))
    elif protocol == "udp":
        _udp(role, family, address, int(port))
    else:
        _icmp(family, address)


if __name__ == "__main__":
    main()
