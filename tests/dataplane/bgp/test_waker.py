"""BIRD does not sleep on what it has to send."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from hopwall_dataplane.bgp.waker import WAKE_S, keep_awake
from hopwall_model.bgp import PrefixRange
from tests.support.bird_hosts import BirdHosts, mesh, speaker

pytestmark = pytest.mark.kernel

ADDRESS = "10.65.9.4"
CLOSED = speaker(2, mesh(2, 1))
OPEN = speaker(2, mesh(2, 1, PrefixRange(f"{ADDRESS}/32", 32, 32)))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[BirdHosts]:
    """Run two hosts; the second does not take the first one's workload, though it is told."""
    with BirdHosts("waker", tmp_path, 2) as found:
        found[1].workload(ADDRESS)
        for number, bgp in ((1, speaker(1, mesh(1, 2))), (2, CLOSED)):
            found[number].start()
            found[number].configure(bgp)
        yield found


def test_a_peer_whose_filter_opens_hears_at_once(hosts: BirdHosts) -> None:
    """A filter that lets in more asks for the routes again, and gets them though their host has nothing to do.

    Without being woken, BIRD answers after two and a half seconds or more (seen: 2.45 to 3.5 s).
    """

    async def until(learnt: bool) -> float:
        began_at = time.monotonic()
        async with asyncio.timeout(60):
            while (ADDRESS in hosts[2].learnt()) is not learnt:
                await asyncio.sleep(0.02)
        return time.monotonic() - began_at

    async def rounds() -> list[float]:
        took = []
        async with asyncio.TaskGroup() as tasks:
            waking = tasks.create_task(keep_awake(hosts[1].socket, lambda: True))
            for _ in range(6):
                await hosts[2].driver.apply(hosts[2].render(OPEN))
                took.append(await until(True))
                await hosts[2].driver.apply(hosts[2].render(CLOSED))
                await until(False)
                await asyncio.sleep(2 * WAKE_S)
            waking.cancel()
        return took

    # The first may have to wait for the session; half of the others may meet a busy machine.
    assert median(asyncio.run(rounds())[1:]) < 1.5


def test_a_bird_of_which_nothing_is_wanted_is_left_alone(tmp_path: Path) -> None:
    """It is not asked anything; where there is none, it is waited for."""
    asked: list[bytes] = []

    async def bird(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        while line := await reader.readline():
            asked.append(line)
            writer.write(b"0023 1\n")
        writer.close()
        await writer.wait_closed()

    async def whole(*, wanted: bool, at_least: int) -> int:
        asked.clear()
        async with asyncio.TaskGroup() as tasks:
            waking = tasks.create_task(keep_awake(tmp_path / "ctl", lambda: wanted))
            await asyncio.sleep(0.1)
            server = await asyncio.start_unix_server(bird, tmp_path / "ctl")
            await asyncio.sleep(2.0)
            async with asyncio.timeout(60):
                while len(asked) < at_least:
                    await asyncio.sleep(0.1)
            waking.cancel()
        await asyncio.sleep(0.1)
        server.close()
        return len(asked)

    assert asyncio.run(whole(wanted=False, at_least=0)) == 0
    assert asyncio.run(whole(wanted=True, at_least=3)) >= 3
