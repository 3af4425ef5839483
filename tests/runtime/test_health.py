"""What asks after a service's health takes nothing from its work."""

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry

from hopwall_runtime.health import MOST_CONNECTIONS, serve_health
from tests.support.ports import free_port

N_SILENT = 300


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_connections_that_say_nothing_take_few_descriptors_and_others_are_answered() -> None:
    """The oldest makes room: of hundreds at once a few dozens stay, and a scrape comes through."""
    port = free_port()
    async with serve_health(f"127.0.0.1:{port}", lambda: None, CollectorRegistry()):
        before = _descriptors()
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        await asyncio.sleep(0.2)
        assert not any(reader.at_eof() for reader, _ in opened)
        opened += [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(N_SILENT - MOST_CONNECTIONS)
        ]
        async with asyncio.timeout(30):
            while _descriptors() - before > N_SILENT + MOST_CONNECTIONS:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 200 " in await reader.readline()
            assert await opened[0][0].read() == b""
        for _, one in (*opened, (reader, writer)):
            one.transport.abort()
