"""Which links there are, with their addresses, now and after each change.

Level-triggered: a change only says "look again", and what is delivered is always all links. It refuses
to say what changed.

It reads events itself, on the agent's own loop, rather than through pyroute2 in a thread: in a burst of
1,000 link events pyroute2 0.9.7 lost some with its own buffer size, and took 290 ms of the interpreter
with a larger one (docs/decisions/0004-own-netlink-codec.md).
"""

import asyncio
import logging
from collections.abc import Callable

from hopwall_dataplane.links.codec import (
    GROUPS,
    Link,
    LinkTable,
    dump_addresses_message,
    dump_message,
)
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket

_log = logging.getLogger(__name__)

#: After a table that would not stand still, look again.
_RETRY_S = 0.2

LinksCallback = Callable[[dict[str, Link]], None]


class LinkMonitor:
    """Tells the current links, and again whenever one of them is different.

    Owner: the loop given to `start`; all calls are made in its thread.
    """

    def __init__(self, *, receive_buffer_bytes: int = 16 * 1024 * 1024) -> None:
        """Open the sockets in the current network namespace and read the links once.

        Errors: `OSError` when the kernel does not give its links.
        """
        # Two sockets, so that events which arrive during a dump are kept apart from its rows. Joining comes
        # first: an event older than the dump is followed by all that came after it.
        self._events = NetlinkSocket(
            NETLINK_ROUTE, groups=GROUPS, receive_buffer_bytes=receive_buffer_bytes
        )
        self._table = LinkTable()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._callback: LinksCallback | None = None
        self._retry: asyncio.TimerHandle | None = None
        try:
            self._dumps = NetlinkSocket(NETLINK_ROUTE)
            self._table.replace(self._dump())
        except BaseException:
            self._events.close()
            raise

    @property
    def links(self) -> dict[str, Link]:
        """The links by name, as last seen."""
        return self._table.by_name()

    def start(self, loop: asyncio.AbstractEventLoop, callback: LinksCallback) -> None:
        """Call back soon with all links, and again after each change.

        What changes between two turns of the loop makes one call.
        """
        self._loop, self._callback = loop, callback
        loop.add_reader(self._events.fileno(), self._on_readable)
        loop.call_soon(self._deliver)

    def _listen_anew(self) -> None:
        """Register with the loop again: uvloop stops listening for good when a socket reports an error.

        Source: uv__poll_io() in libuv: POLLERR ends the watch.
        """
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
            self._loop.add_reader(self._events.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop calling back and close the sockets; twice is harmless."""
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
        if self._retry is not None:
            self._retry.cancel()
        self._loop = self._callback = self._retry = None
        self._events.close()
        self._dumps.close()

    def _on_readable(self) -> None:
        """Fold what has arrived; when some of it was lost, read everything."""
        try:
            changed = False
            for kind, body in self._events.events():
                changed = self._table.fold(kind, body) or changed
        except OSError as error:
            _log.info("link events were lost (%s); reading all links", error)
            self._listen_anew()
            self._resync()
            return
        if changed:
            self._deliver()

    def _resync(self) -> None:
        """Read all links; try again in a moment when that fails."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            changed = self._table.replace(self._dump())
        except OSError as error:
            _log.warning("links could not be read (%s); trying again", error)
            if self._loop is not None:
                self._retry = self._loop.call_later(_RETRY_S, self._resync)
            return
        if changed:
            self._deliver()

    def _dump(self) -> list[tuple[int, bytes]]:
        """Read all links, then all addresses."""
        return [
            *self._dumps.dump(dump_message()),
            *self._dumps.dump(dump_addresses_message()),
        ]

    def _deliver(self) -> None:
        """Hand over all links."""
        if self._callback is not None:
            self._callback(self._table.by_name())
