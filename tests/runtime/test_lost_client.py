"""A client of NATS that would never come back by itself does not leave its service standing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_runtime import link as link_module
from hopwall_runtime.client import Client
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link, LinkError

pytestmark = pytest.mark.nats


@asynccontextmanager
async def hasty(server: NatsServer, n_hasty: int) -> AsyncIterator[str]:
    """Stand before a server; the first `n_hasty` clients are asked for a PONG before they get theirs."""
    left = n_hasty
    host, _, port = server.listen.rpartition(":")

    async def relay(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, insert: bytes
    ) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                if insert and line == b"PONG\r\n":
                    line, insert = insert + line, b""
                writer.write(line)
        writer.close()

    async def serve(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        nonlocal left
        insert = b"PING\r\n" if left else b""
        left -= 1 if left else 0
        far_in, far_out = await asyncio.open_connection(host, int(port), limit=2**20)
        await asyncio.gather(relay(near_in, far_out, b""), relay(far_in, near_out, insert))

    relaying = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    try:
        yield f"nats://127.0.0.1:{relaying.sockets[0].getsockname()[1]}"
    finally:
        relaying.close()


async def test_a_server_that_asks_first_is_connected_to(nats_server: NatsServer) -> None:
    """A PING before the PONG, as a server sends to a client that took over two seconds, ends in a connection."""
    link = Link("test")
    async with hasty(nats_server, 2) as url, asyncio.timeout(60):
        await link.connect(CommonSettings(nats_url=(url,)))
        assert link.connected
        await link.ensure_streams()
        await link.close()


async def test_a_client_that_has_given_up_ends_its_service(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that the client's own tasks do not expect leaves it without a server: the watch ends and says so."""
    monkeypatch.setattr(link_module, "_LOOK_S", 0.1)
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))

    async def unexpected() -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(link._nc, "_process_connect_init", unexpected)
    await nats_server.stop()
    await nats_server.start()
    with pytest.raises(LinkError, match="has given up: starting anew"):
        await asyncio.wait_for(link.watch(), 60)
    await link.close()


async def test_a_client_that_waits_for_its_server_is_not_given_up(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the server is away, who tries to reach it goes on, and is connected again."""
    monkeypatch.setattr(link_module, "_LOOK_S", 0.05)
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(link.watch())
        await nats_server.stop()
        await asyncio.sleep(2)
        await nats_server.start()
        async with asyncio.timeout(60):
            while not link.connected:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert not watch.done()
        watch.cancel()
    await link.close()


async def test_who_is_to_end_while_it_looks_for_a_server_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the end comes in the very moment of a failure, which then is all that the client tells of."""

    n = 0

    async def fails(*_: object, **__: object) -> None:
        nonlocal n
        n += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if n > 1:
                raise
            # So does asyncio.wait_for of Python 3.11 where what it waits for has just failed.
            raise OSError("the handshake failed") from None

    monkeypatch.setattr(Client, "connect", fails)
    async with asyncio.TaskGroup() as tasks:
        connecting = tasks.create_task(Link("test").connect(CommonSettings()))
        await asyncio.sleep(0)
        connecting.cancel()
        done, _ = await asyncio.wait([connecting], timeout=20)
        connecting.cancel()
    assert done
