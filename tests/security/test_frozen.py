"""A server that is there and does not answer: whose farewells are not answered either, as TLS has them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki.folder import PkiFolder
from hopwall_runtime.link import Link
from tests.security.conftest import CALC, server_of, settings_of

pytestmark = pytest.mark.nats


@pytest.fixture
async def other(tmp_path: Path, pki: PkiFolder) -> AsyncIterator[NatsServer]:
    """Run a second server with the same users."""
    server = server_of(pki, tmp_path / "other")
    await server.start()
    yield server
    await server.stop()


async def until_connected(link: Link, timeout_s: float) -> None:
    """Wait until the link is connected."""
    async with asyncio.timeout(timeout_s):
        while not link.connected:
            await asyncio.sleep(0.05)


def n_files() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def test_who_begins_while_the_server_is_frozen_is_there_when_it_thaws(
    pki: PkiFolder, secured: NatsServer
) -> None:
    """No handshake is waited for again that was given up, and no socket of it is kept."""
    link = Link("calc")
    os.kill(secured.pid, signal.SIGSTOP)
    try:
        # A try that has begun when the server thaws may have to end first.
        async with asyncio.timeout(23), asyncio.TaskGroup() as tasks:
            tasks.create_task(link.connect(settings_of(pki, secured, CALC)))
            await asyncio.sleep(7)  # longer than one try takes: 5 s
            before = n_files()
            await asyncio.sleep(6)
            assert n_files() <= before + 1
            os.kill(secured.pid, signal.SIGCONT)
    finally:
        os.kill(secured.pid, signal.SIGCONT)
    assert link.connected
    await link.close()


async def test_who_loses_a_frozen_server_goes_to_another_at_once(
    pki: PkiFolder, secured: NatsServer, other: NatsServer
) -> None:
    """Noticed after two pings without an answer (15 s), another server has it a second later, not half a minute."""
    both = replace(settings_of(pki, secured, CALC), nats_url=(secured.url, other.url))
    link = Link("calc")
    await link.connect(both)
    mine = secured if link._nc.connected_url.netloc == secured.listen else other
    os.kill(mine.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            while link.connected:
                await asyncio.sleep(0.05)
        # A second for the farewell; it may be the frozen one's turn first, for 5 s.
        await until_connected(link, 10)
        assert link._nc.connected_url.netloc != mine.listen
    finally:
        os.kill(mine.pid, signal.SIGCONT)
    await link.close()
