import asyncio
from pathlib import Path

import pytest

from hopwall_cli import nats_config
from hopwall_cli.nats_config import MIB, Cluster, Storage
from hopwall_cli.nats_server import (
    ROOM_BYTES,
    NatsServer,
    NatsServerError,
    StuckStore,
    command,
)
from hopwall_model import topics
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link, Unavailable
from tests.support.brokers import running_cluster
from tests.support.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "nats-cluster"

pytestmark = pytest.mark.nats


async def test_server_starts_again_on_its_folder(tmp_path: Path) -> None:
    """A second start waits for its own readiness, not for the words of the first in the log."""
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=tmp_path)
    for starts in (1, 2):
        await server.start()
        assert server.pid
        await server.stop()
        assert server.pid == 0
        log = (tmp_path / "nats-server.log").read_text()
        assert log.count("Server is ready") == starts


async def test_taken_port_is_said(tmp_path: Path) -> None:
    """A server that cannot listen ends with one sentence that holds its own words."""
    listen = f"127.0.0.1:{free_port()}"
    first = NatsServer(listen=listen, folder=tmp_path / "a")
    await first.start()
    try:
        with pytest.raises(NatsServerError, match=f"does not start on {listen}: .*in use"):
            await NatsServer(listen=listen, folder=tmp_path / "b").start()
    finally:
        await first.stop()


def test_acknowledged_means_stored(tmp_path: Path) -> None:
    """The configuration asks for an fsync before every acknowledgement, and quotes its paths."""
    folder = tmp_path / 'odd " name'
    command(listen="127.0.0.1:1", folder=folder)
    text = (folder / "nats-server.conf").read_text()
    assert "sync_interval: always" in text
    assert r"odd \" name/store" in text


@pytest.mark.parametrize(
    ("free", "used", "wanted"),
    [
        (1000 * MIB, 0, 800 * MIB),
        (500 * MIB, 500 * MIB, 800 * MIB),
        (10**13, 0, nats_config.MOST_BYTES),
        (MIB, 0, nats_config.LEAST_BYTES),
    ],
)
def test_a_store_stays_below_the_disk(free: int, used: int, wanted: int) -> None:
    """The server refuses before the disk is full, and the next start does not make the store smaller."""
    assert nats_config.bytes_for(free, used) == wanted


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_example_of_a_cluster_is_what_is_rendered(n: int) -> None:
    """The files of the example are the renderer's words, so they are as good as it is."""
    text = (EXAMPLE / f"nats-{n}.conf").read_text()
    routes = [f"nats-{i}.example.net:6222" for i in (1, 2, 3)]
    wanted = nats_config.render(
        listen="0.0.0.0:4222",
        storage=Storage(folder="/var/lib/nats"),
        name=f"nats-{n}",
        http="127.0.0.1:8222",
        cluster=Cluster(
            listen="0.0.0.0:6222", routes=routes, security="../hopwall/pki/nats/routes.conf"
        ),
    )
    included = 'include "../hopwall/pki/nats/security.conf"'
    assert text.splitlines()[1:] == [*wanted.splitlines()[1:], included]


async def test_three_servers_keep_three_copies(tmp_path: Path) -> None:
    """In a cluster the streams have three copies without being told, and a write is taken."""
    async with running_cluster(tmp_path) as servers:
        link = Link("test")
        await link.connect(CommonSettings(nats_url=tuple(s.url for s in servers)))
        async with asyncio.timeout(120):
            while True:
                try:
                    await link.ensure_streams()
                    break
                except Unavailable:
                    await asyncio.sleep(0.2)
        found = await link._js.stream_info(topics.EVENTS_STREAM)
        assert found.config.num_replicas == 3
        await link.close()


def test_a_store_that_is_stuck_is_started_again_when_there_is_room() -> None:
    """After a full disk the server refuses for ever; it is started again once, and only when that helps."""
    stuck = StuckStore()
    assert not stuck.may_restart(10**12)
    stuck.hear("[ERR] JetStream failed to store a msg: write …/4.blk: no space left on device")
    assert not stuck.may_restart(ROOM_BYTES - 1)
    assert stuck.may_restart(ROOM_BYTES)
    assert not stuck.may_restart(ROOM_BYTES)
    stuck.hear("no space left on device")
    stuck.hear("[INF] Server is ready")
    assert not stuck.may_restart(ROOM_BYTES)
