"""What BIRD and the agent do to a namespace's main table, from the kernel's own events: nothing is too short to see.

with RouteWatch(namespace) as watch:
    at_s = await watch.until({"10.65.0.21/32"})

Owner:  one rtnetlink socket in the namespace, read by the running loop.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from types import TracebackType
from typing import Self

from hopwall_cli.lab.tap_relay import enter
from hopwall_dataplane.netlink.codec import NLM_F_DUMP, attribute_table, message
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket
from hopwall_runtime import clock

#: linux/rtnetlink.h: route protocols, messages, groups (RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE), the main table.
BIRD, AGENT = 12, 80
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_GROUPS = 0x40 | 0x400
_MAIN = 254
_UNICAST = 1
_RTA_DST = 1
_RTMSG = struct.Struct("=BBBBBBBBI")


def change(kind: int, body: bytes, protocol: int) -> tuple[str, bool] | None:
    """Read an event: (network, whether it stands now); None when it is no way somewhere of this protocol.

    Black holes are no ways: BIRD writes those for IPv6 anew at each start (docs/design/bgp.md 7).
    """
    if kind not in (_NEWROUTE, _DELROUTE):
        return None
    family, length, _, _, table, by, _, route, _ = _RTMSG.unpack_from(body)
    if by != protocol or table != _MAIN or route != _UNICAST:
        return None
    empty = bytes(16 if family == socket.AF_INET6 else 4)
    address = attribute_table(body, _RTMSG.size, len(body)).get(_RTA_DST, empty)
    return str(ip_network((address, length))), kind == _NEWROUTE


def _open(namespace: str) -> NetlinkSocket:
    """Open a socket that hears of routes; a thread of its own enters the namespace, and ends.

    Errors: OSError, also when there is no such namespace.
    """

    def there() -> NetlinkSocket:
        enter(namespace)
        return NetlinkSocket(NETLINK_ROUTE, groups=_GROUPS, receive_buffer_bytes=16 * 1024 * 1024)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(there).result()


class RouteWatch:
    """The routes of one protocol in a namespace: which stand, and when each came and went last.

    Shape: `came_s` and `went_s` are by `clock.monotonic`, when the event was read.
    Errors: OSError from every method, when the kernel dropped events: a loss may have been among them.
    """

    def __init__(self, namespace: str, protocol: int = BIRD) -> None:
        """Begin to listen; what stands already counts as there from now on."""
        self._protocol = protocol
        self._socket = _open(namespace)
        self._pulse = asyncio.Event()
        self.standing: set[str] = set()
        self.came_s: dict[str, float] = {}
        self.went_s: dict[str, float] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            question = message(
                _GETROUTE, NLM_F_DUMP, _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
            )
            for kind, body in self._socket.dump(question):
                self._note(kind, body)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.read)

    def __enter__(self) -> Self:
        """Return the watch."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the watch."""
        self.close()

    def close(self) -> None:
        """Stop listening; twice is harmless."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def read(self) -> None:
        """Take the events that have arrived."""
        events = self._socket.events()
        for kind, body in events:
            self._note(kind, body)
        if events:
            self._pulse.set()

    def _note(self, kind: int, body: bytes) -> None:
        found = change(kind, body, self._protocol)
        if found is None:
            return
        network, stands = found
        if stands:
            self.standing.add(network)
            self.came_s[network] = clock.monotonic()
        else:
            self.standing.discard(network)
            self.went_s[network] = clock.monotonic()

    def gone_since(self, began_s: float) -> set[str]:
        """Return the routes that went after a moment, however soon they came back."""
        self.read()
        return {network for network, at_s in self.went_s.items() if at_s >= began_s}

    def away_since(self, began_s: float) -> dict[str, float]:
        """Return how long each route that went after a moment was away at last; to now where it still is."""
        return {
            network: self.came_s[network] - self.went_s[network]
            if network in self.standing
            else clock.monotonic() - self.went_s[network]
            for network in self.gone_since(began_s)
        }

    async def until(self, networks: Collection[str], *, timeout_s: float = 60.0) -> float:
        """Wait until all of these stand; return when the last of them came.

        Errors: TimeoutError.
        """
        wanted = set(networks)
        await self._until(lambda: wanted <= self.standing, timeout_s)
        return max(self.came_s[network] for network in wanted)

    async def until_gone(self, networks: Collection[str], *, timeout_s: float = 60.0) -> float:
        """Wait until none of these stands; return when the last of them went.

        Errors: TimeoutError.
        """
        unwanted = set(networks)
        await self._until(lambda: not unwanted & self.standing, timeout_s)
        return max(self.went_s[network] for network in unwanted)

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._pulse.clear()
                await self._pulse.wait()
