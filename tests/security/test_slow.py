"""Who is slow to shake hands with nats-server, as on a busy machine, is let in all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki.folder import PkiFolder
from hopwall_runtime.link import Link
from tests.security.conftest import CALC, settings_of
from tests.support.ports import free_port

pytestmark = pytest.mark.nats


@dataclass
class Relay:
    """Lies between a client and a server, and holds back what the client says first.

    Shape: `holds_s` has one for each connection; later ones are not held.
    """

    server: str
    holds_s: list[float]
    n_connections: int = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Listen; yield the address as a URL."""
        port = free_port()
        async with asyncio.TaskGroup() as tasks:

            def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.n_connections += 1
                hold_s = self.holds_s.pop(0) if self.holds_s else 0.0
                tasks.create_task(self._carry(reader, writer, hold_s))

            async with await asyncio.start_server(take, "127.0.0.1", port):
                yield f"nats://127.0.0.1:{port}"

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hold_s: float
    ) -> None:
        host, _, port = self.server.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pump(reader, far_writer, hold_s))
            tasks.create_task(_pump(far_reader, writer, 0.0))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, hold_s: float) -> None:
    await asyncio.sleep(hold_s)
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # one end has gone
    finally:
        target.close()


async def _connected_through(relay: Relay, pki: PkiFolder, server: NatsServer) -> bool:
    async with relay.run() as url:
        link = Link("calc")
        async with asyncio.timeout(30):
            await link.connect(replace(settings_of(pki, server, CALC), nats_url=(url,)))
        connected = link.connected
        await link.close()
    return connected


async def test_who_is_held_up_for_a_moment_shakes_hands_at_once(
    pki: PkiFolder, secured: NatsServer
) -> None:
    """Far longer than a server greets who does not begin with TLS by default (50 ms)."""
    relay = Relay(secured.listen, [0.4])
    assert await _connected_through(relay, pki, secured)
    assert relay.n_connections == 1


async def test_who_took_the_greeting_for_tls_begins_again(
    pki: PkiFolder, secured: NatsServer
) -> None:
    """A handshake that failed ends the try, and not the process's hope."""
    relay = Relay(secured.listen, [2.5])
    assert await _connected_through(relay, pki, secured)
    assert relay.n_connections > 1
