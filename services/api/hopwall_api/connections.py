"""The server around the app: how many connections there may be, and whose turn it is on each.

While it is the client's turn (it has sent no whole request, it does not read our answer) a connection costs us
and gives nothing. When all places are taken, the one that has waited longest for its client is closed for the
newcomer: who opens thousands and says nothing takes them from himself.
"""

import logging
import os
import resource
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from hopwall_api.answers import TRACE_ID
from hopwall_api.problems import ApiProblem
from hopwall_api.refusal import problem_response

log = logging.getLogger(__name__)

#: A client that takes nothing of what is sent to it for so long is cut.
UNREAD_S = 30.0
HANDSHAKE_S = 10.0
_BACKLOG = 1024
#: The kernel's share of that: it would grow to megabytes for each client that does not read.
_KERNEL_BYTES = 128 * 1024
#: Buffered for one client before its answer waits for it.
_UNSENT_BYTES = 16 * 1024
#: Requests of one connection that are read before they are answered.
_AHEAD = 2
#: Descriptors for all that is no client: NATS, files, sockets that listen.
_OWN_DESCRIPTORS = 64


class Connection(RequestHandler):
    """aiohttp's connection, which says whose turn it is and has a problem for what never becomes a request."""

    __slots__ = ("_answering", "_broken", "_cut")

    def __init__(self, manager: "_Server", **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._answering = False
        self._broken = False
        self._cut: Any = None
        # aiohttp reads 32 requests ahead, which costs time and memory before one is answered.
        self._max_msg_queue_size, self._msg_queue_resume_size = _AHEAD, _AHEAD // 2
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=_AHEAD,
        )

    @property
    def _places(self) -> "_Server | None":
        return self._manager if isinstance(self._manager, _Server) else None

    def connection_made(self, transport: Any) -> None:
        """Take a place, from who has waited longest for its client if there is none."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        if self._places is not None:
            self._places.take(self)

    def data_received(self, data: bytes) -> None:
        """Take what arrived; nothing more once it was no HTTP, until the answer to that closes.

        The parser would be asked again for each piece, and its error holds a copy of the piece.
        """
        if self._broken:
            return
        super().data_received(data)
        info, payload = self._messages[-1] if self._messages else (None, None)
        if isinstance(info, _ErrInfo) and payload is not None:
            self._broken = True
            short = (info.message or "").strip().partition("\n")[0][:200]
            shorter = _ErrInfo(status=info.status, exc=BadHttpMessage(short), message=short)
            self._messages[-1] = (shorter, payload)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._stop_cut()
        if self._places is not None:
            self._places.clients_turn.pop(self, None)
        super().connection_lost(exc)

    async def _handle_request(self, request: Any, start_time: Any, request_handler: Any) -> Any:
        self._answering = True
        self._our_turn()
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._answering = False
            self._clients_turn()

    def pause_writing(self) -> None:
        """Note that the client does not read; soon it is cut."""
        super().pause_writing()
        self._clients_turn()
        self._cut = self._loop.call_later(UNREAD_S, self.cut)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        self._stop_cut()
        if self._answering:
            self._our_turn()

    def _clients_turn(self) -> None:
        if self._places is not None:
            self._places.clients_turn[self] = None

    def _our_turn(self) -> None:
        if self._places is not None:
            self._places.clients_turn.pop(self, None)

    def _stop_cut(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Make it the client's turn while its body arrives."""
        self._clients_turn()
        try:
            yield
        finally:
            if not self._paused:
                self._our_turn()

    def cut(self) -> None:
        """Close without ceremony, which frees what is buffered for the client."""
        if self.transport is not None:
            self.transport.abort()
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or one that met a fault of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        trace_id = secrets.token_hex(16)
        if status >= 500:
            trace_id = request.get(TRACE_ID, trace_id)
            log.error("request failed, trace %s", trace_id, exc_info=exc)
            detail = "The API met a fault of its own; its log names the trace id."
            problem = ApiProblem(status, "internal", detail)
        else:
            line = (message or "").strip().splitlines()[:1]
            detail = f"The request is not valid HTTP: {''.join(line)[:200] or 'cannot be read'}"
            problem = ApiProblem(status, "not-http", detail)
        response = problem_response(problem, "", trace_id)
        response.force_close()
        return response


@contextmanager
def receiving(request: web.Request) -> Iterator[None]:
    """Make it the client's turn while its body arrives, where the server is ours."""
    if isinstance(request.protocol, Connection):
        with request.protocol.receiving():
            yield
    else:
        yield


class _Server(web.Server):
    """aiohttp's server, which makes our connections and has so many places."""

    most = 4096

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def take(self, newcomer: Connection) -> None:
        """Give the newcomer a place."""
        if len(self._connections) > self.most:
            waiting = next(iter(self.clients_turn), newcomer)
            self.clients_turn.pop(waiting, None)
            self.n_evicted += 1
            waiting.cut()
            if waiting is newcomer:
                return
        self.clients_turn[newcomer] = None

    #: In the order in which it became their turn.
    clients_turn: dict[Connection, None]
    n_evicted: int


class Runner(web.AppRunner):
    """aiohttp's runner, which makes our server."""

    def __init__(
        self, app: web.Application, *, max_connections: int, idle_timeout_s: float
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=idle_timeout_s,
            lingering_time=2.0,
            auto_decompress=False,
            shutdown_timeout=5.0,
        )
        self._most = places(max_connections)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.most, server.clients_turn, server.n_evicted = self._most, {}, 0
        return server


def places(wanted: int) -> int:
    """Return how many connections this process can hold, having asked the system for as many as wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OWN_DESCRIPTORS
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        log.warning("max_connections is %d, as the system allows %d open files", soft // 2, soft)
        return soft // 2
    return wanted


class Site(web.TCPSite):
    """aiohttp's TCP site, with a time limit on TLS handshakes."""

    async def start(self) -> None:
        """Listen."""
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        loop = self._runner.server._loop
        context: ssl.SSLContext | None = self._ssl_context
        self._server = await loop.create_server(
            self._runner.server,
            self._host,
            self._port,
            ssl=context,
            backlog=_BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_S if context is not None else None,
        )
        for listening in self._server.sockets:
            # What is accepted inherits it. A descriptor of our own: the loop's socket takes no options.
            with socket.socket(fileno=os.dup(listening.fileno())) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
