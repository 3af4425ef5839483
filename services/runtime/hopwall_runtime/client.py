"""The client of NATS, with connections that end.

With TLS a connection is closed by a farewell that the other end answers. A server that is frozen, or whose machine lost
its power, answers nothing: the client of nats-py waits for it half a minute before it tries another server, and for
ever where the handshake itself was not answered. And of what it tried in vain it keeps the sockets.
"""

import asyncio
from typing import Any, cast
from urllib.parse import ParseResult

import nats
from nats.aio.transport import TcpTransport

#: For a farewell to be answered; what was written before is with the kernel by then.
_FAREWELL_S = 1.0


class Client(nats.aio.client.Client):  # type: ignore[misc]  # nats has no types
    """A client whose connections are of our kind."""

    _transport: Any

    async def _connect_to_server(self, s: Any) -> None:
        if self._transport is None:
            self._transport = _Transport()
        await super()._connect_to_server(s)


class _Transport(TcpTransport):  # type: ignore[misc]
    """A connection that is over soon after it was closed, and before the next begins."""

    def __bool__(self) -> bool:
        """It is there, connected or not: the client makes one of its own where there is none."""
        return True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self._abort()
        await super().connect(uri, buffer_size, connect_timeout)

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await super().wait_closed()
        except TimeoutError:
            pass
        finally:
            self._abort()

    def _abort(self) -> None:
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                cast("asyncio.StreamWriter", writer).transport.abort()
