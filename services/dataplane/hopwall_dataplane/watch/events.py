"""The kernel's events about tables, routes, rules of routing and sysctls, on the agent's own loop.

Level-triggered: what is handed on is what must be read again. Events of our own writes are known by the
socket that asked for them and are left out, so that no repair calls for another. It refuses to read what
events are about.
"""

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hopwall_dataplane.drift import Found
from hopwall_dataplane.netlink.codec import Failure, messages_in
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from hopwall_dataplane.routes.route import TABLE_LOCAL, RouteKey
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_dataplane.watch.codec import (
    NFT_GROUP,
    ROUTE_GROUPS,
    RouteNews,
    Writer,
    generation_message,
    goes_before,
    nft_table,
    nft_writer,
    parse_generation,
    route_news,
    rule_news,
    wrong_setting,
)

log = logging.getLogger(__name__)

_BUFFER_BYTES = 16 * 1024 * 1024
#: A transaction with more lines than this is written without listening: the kernel spells out each line for
#: whoever listens, which would double the time it takes.
_LARGE = 200


@dataclass(slots=True)
class Concerns:
    """What events are held against; each is asked anew, as the answers change.

    Shape: `writers` are the processes that write tables for us, `n_commits` counts what they wrote; `routes`
           are those wanted by key; `workloads` the interfaces whose sysctls are ours; `portid` is the socket
           our routes are written by.
    """

    writers: Callable[[], Collection[int]]
    n_commits: Callable[[], int]
    routes: Callable[[], Mapping[RouteKey, Any]]
    workloads: Callable[[], Collection[int]]
    portid: int


class EventMonitor:
    """Tells what must be read again as others changed something.

    Owner: the loop given to `start`; all calls are made in its thread.
    """

    def __init__(self, concerns: Concerns, *, nft: bool) -> None:
        """Open the sockets in the current network namespace; events wait in them until `start`.

        Errors: `OSError` when the kernel gives no events.
        """
        self._concerns = concerns
        self._writers: deque[int] = deque(maxlen=8)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tell: Callable[[Doubts, list[Found]], None] | None = None
        self._n_hushed = 0
        #: Who made the last foreign transaction of tables, where the kernel tells.
        self.last_writer: Writer | None = None
        self._routes = NetlinkSocket(
            NETLINK_ROUTE, groups=ROUTE_GROUPS, receive_buffer_bytes=_BUFFER_BYTES
        )
        self._nft: NetlinkSocket | None = None
        if nft:
            self._nft = NetlinkSocket(NETLINK_NETFILTER, receive_buffer_bytes=_BUFFER_BYTES)
            self._nft.listen(NFT_GROUP, on=True)
            self._asks = NetlinkSocket(NETLINK_NETFILTER)

    def start(
        self, loop: asyncio.AbstractEventLoop, tell: Callable[[Doubts, list[Found]], None]
    ) -> None:
        """Call back with what is in doubt, and with what others did that is not ours to put right."""
        self._loop, self._tell = loop, tell
        self._listen(self._routes, self._on_routes)
        if self._nft is not None:
            self._listen(self._nft, self._on_tables)

    def close(self) -> None:
        """Stop calling back and close the sockets."""
        sockets = [self._routes] + ([self._nft, self._asks] if self._nft is not None else [])
        for one in sockets:
            if self._loop is not None:
                self._loop.remove_reader(one.fileno())
            one.close()
        self._loop = self._tell = None

    @contextlib.contextmanager
    def hush(self, n_lines: int) -> Iterator[None]:
        """Write a large transaction of ours without listening; what others wrote meanwhile is told by numbers."""
        if self._nft is None or n_lines <= _LARGE:
            yield
            return
        if self._n_hushed == 0:
            self._nft.listen(NFT_GROUP, on=False)
            self._before = self._generation() - self._concerns.n_commits()
        self._n_hushed += 1
        try:
            yield
        finally:
            self._n_hushed -= 1
            if self._n_hushed == 0:
                self._nft.listen(NFT_GROUP, on=True)
                if self._generation() - self._concerns.n_commits() != self._before:
                    self._say(Doubts({Stale.TABLES}))

    # ------------------------------------------------------------ events

    def _on_tables(self) -> None:
        assert self._nft is not None
        self._writers.extend(set(self._concerns.writers()) - set(self._writers))
        doubts = Doubts()
        writer: Writer | None = None
        for data in self._datagrams(self._nft, self._on_tables, doubts, {Stale.TABLES}):
            for found in messages_in(data):
                if found.portid in self._writers:
                    break  # one datagram is about one transaction
                if (table := nft_table(data, found)) is not None:
                    doubts.tables.add(table)
                else:
                    writer = nft_writer(data, found) or writer
        if doubts:
            self.last_writer = writer
            self._say(doubts)

    def _on_routes(self) -> None:
        doubts, notes = Doubts(), list[Found]()
        every = {Stale.ROUTES, Stale.SYSCTLS}
        wanted, workloads = self._concerns.routes(), self._concerns.workloads()
        for data in self._datagrams(self._routes, self._on_routes, doubts, every):
            for found in messages_in(data):
                if found.portid == self._concerns.portid:
                    continue
                if (news := route_news(data, found)) is not None:
                    _on_route(news, wanted, doubts, notes)
                elif (rule := rule_news(data, found)) is not None:
                    detail = "made" if rule.made else "removed"
                    name = f"{rule.family} of priority {rule.priority}"
                    notes.append(
                        Found("routing rule", name, f"{detail}; it is not ours and stays so")
                    )
                elif (link := wrong_setting(data, found, workloads)) is not None:
                    doubts.links.add(link)
        if doubts or notes:
            self._say(doubts, notes)

    def _datagrams(
        self,
        one: NetlinkSocket,
        reader: Callable[[], None],
        doubts: Doubts,
        lost: set[Stale],
    ) -> list[bytes]:
        """Take what has arrived; when some of it was lost, all it could have been about is in doubt."""
        try:
            return one.datagrams()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.info("events were lost; reading all they may have told of")
            doubts.whole |= lost
            self._listen(one, reader)
            return []

    def _listen(self, one: NetlinkSocket, reader: Callable[[], None]) -> None:
        """Register with the loop, also anew: uvloop stops listening for good when a socket reports an error."""
        if self._loop is not None:
            self._loop.remove_reader(one.fileno())
            self._loop.add_reader(one.fileno(), reader)

    def _say(self, doubts: Doubts, notes: list[Found] | None = None) -> None:
        if self._tell is not None:
            self._tell(doubts, notes or [])

    def _generation(self) -> int:
        answer = self._asks.ask(generation_message())
        if isinstance(answer, Failure):
            raise OSError(answer.errno, answer.text or "the kernel does not tell its generation")
        return parse_generation(answer)


def _on_route(
    news: RouteNews, wanted: Mapping[RouteKey, Any], doubts: Doubts, notes: list[Found]
) -> None:
    """Say what a route of others, or one that bears our number and we did not write, puts in doubt."""
    if goes_before(news) and RouteKey(news.key.cidr) in wanted:
        which = f"of type of service {news.tos}" if news.tos else f"of metric {news.key.priority}"
        if news.key.table == TABLE_LOCAL:
            which = "of the host's own addresses"
        detail = f"a foreign one {which} goes before it; remove that"
        notes.append(Found("route", news.key.cidr, detail))
    elif news.ours or news.key in wanted:
        doubts.whole.add(Stale.ROUTES)
        if news.beside and news.key in wanted:
            doubts.routes.add(news.key)
