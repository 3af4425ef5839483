"""Long-lived flows that show whether anything was disturbed: sequence numbers sent, and echoed."""

import asyncio
import contextlib
import socket
from typing import Any

_INTERVAL_S = 0.01


class _Flow(asyncio.DatagramProtocol):
    """Numbered datagrams at a steady pace, and what came back of them."""

    def __init__(self) -> None:
        self.sent = 0
        self.received: set[bytes] = set()
        self.longest_gap = 0.0
        self._last_at = 0.0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Note the number and how long it was quiet before."""
        now = asyncio.get_running_loop().time()
        if self._last_at:
            self.longest_gap = max(self.longest_gap, now - self._last_at)
        self._last_at = now
        self.received.add(data)

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
        # A loop method, not a TaskGroup: the flow outlives this order and ends by `stop`.
        task = loop.create_task(flow.run(transport), name=f"flow {order['name']}")
        self._running[order["name"]] = (flow, transport, task)
        return {"ok": True}

    async def stop(self, order: dict[str, Any]) -> dict[str, Any]:
        """End a flow; return what was sent, what came back, and the longest silence.

        Units:  longest_gap_ms is milliseconds between two answers.
        """
        flow, transport, task = self._running.pop(order["name"])
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.2)  # the last answers are under way
        transport.close()
        return {
            "ok": True,
            "sent": flow.sent,
            "received": len(flow.received),
            "longest_gap_ms": round(flow.longest_gap * 1000, 1),
        }
