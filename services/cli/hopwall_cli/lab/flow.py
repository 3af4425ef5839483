"""Long-lived flows that show whether anything was disturbed: sequence numbers sent, and echoed."""

import asyncio
import contextlib
import socket
from typing import Any

_INTERVAL_S = 0.01
#: After the end of a flow: so long without an answer, and the rest is lost. Its other end may have to wait for a busy
#: machine; what is lost is no sooner there for it.
_LOST_S, _LOOK_S = 3.0, 0.02
#: Seconds of a flow, should a busy machine not let a process run: what finds no room is lost without having been.
_ROOM_BYTES = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def make_room(sock: socket.socket) -> None:
    """Let a socket keep what comes while its process waits for the machine."""
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)


class _Flow(asyncio.DatagramProtocol):
    """Numbered datagrams at a steady pace, and what came back of them."""

    def __init__(self) -> None:
        self.sent = 0
        self.received: set[bytes] = set()
        self.longest_gap = 0.0
        self.last_at = 0.0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Note the number and how long it was quiet before."""
        now = asyncio.get_running_loop().time()
        if self.last_at:
            self.longest_gap = max(self.longest_gap, now - self.last_at)
        self.last_at = now
        self.received.add(data)

    def shown(self) -> dict[str, Any]:
        """Return how far it has come.

        Units:  longest_gap_ms is milliseconds between two answers; last_at is when the last came, by the monotonic
                clock, 0 for never.
        """
        return {
            "ok": True,
            "sent": self.sent,
            "received": len(self.received),
            "longest_gap_ms": round(self.longest_gap * 1000, 1),
            "last_at": self.last_at,
        }

    async def drained(self) -> None:
        """Wait until all that was sent has come back, or nothing comes any more.

        Time is counted in looks, so that none passes while this process itself waits for the machine.
        """
        n_before, n_looks = -1, 0
        while len(self.received) < self.sent and n_looks < _LOST_S / _LOOK_S:
            n_looks = n_looks + 1 if n_before == len(self.received) else 0
            n_before = len(self.received)
            await asyncio.sleep(_LOOK_S)

    async def run(self, transport: asyncio.DatagramTransport) -> None:
        """Send until cancelled."""
        while True:
            self.sent += 1
            transport.sendto(str(self.sent).encode())
            await asyncio.sleep(_INTERVAL_S)


class Flows:
    """The running flows of one namespace, by name."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[_Flow, asyncio.DatagramTransport, asyncio.Task[None]]] = {}

    async def start(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin a flow to `dst`:`port` under a name."""
        loop = asyncio.get_running_loop()
        transport, flow = await loop.create_datagram_endpoint(
            _Flow,
            remote_addr=(order["dst"], int(order["port"])),
            family=socket.AF_INET6 if ":" in order["dst"] else socket.AF_INET,
        )
        make_room(transport.get_extra_info("socket"))
        # A loop method, not a TaskGroup: the flow outlives this order and ends by `stop`.
        task = loop.create_task(flow.run(transport), name=f"flow {order['name']}")
        self._running[order["name"]] = (flow, transport, task)
        return {"ok": True}

    async def look(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return what a flow has sent so far, what came back, and the longest silence."""
        return self._running[order["name"]][0].shown()

    async def stop(self, order: dict[str, Any]) -> dict[str, Any]:
        """End a flow; return what was sent, what came back, and the longest silence."""
        flow, transport, task = self._running.pop(order["name"])
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await flow.drained()
        transport.close()
        return flow.shown()
