"""Reading from the server itself whether acknowledged means stored."""

from pathlib import Path

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from hopwall_runtime.sync_check import judged, syncs
from tests.support.brokers import LateServer
from tests.support.ports import free_port

pytestmark = pytest.mark.nats


@pytest.mark.parametrize("always", [True, False])
async def test_the_server_itself_is_asked(tmp_path: Path, always: bool) -> None:
    """A real server with the default says that it is late, ours that it syncs always."""
    monitor = f"127.0.0.1:{free_port()}"
    kind = NatsServer if always else LateServer
    server = kind(listen=f"127.0.0.1:{free_port()}", folder=tmp_path, http=monitor)
    await server.start()
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(server.url,)))
    try:
        found, why = await syncs(f"http://{monitor}", *link.server)
        assert found == ("always" if always else "late"), why
        assert always or "120 s" in why
        other, _ = await syncs(f"http://{monitor}", "another", "127.0.0.1")
        assert other == "unknown"
    finally:
        await link.close()
        await server.stop()


async def test_a_page_that_is_not_there_is_unknown() -> None:
    """Nobody answers: nothing is claimed."""
    found, why = await syncs(f"http://127.0.0.1:{free_port()}", "id", "127.0.0.1")
    assert found == "unknown"
    assert "nats_monitor_url" in why


@pytest.mark.parametrize(
    "page", [None, [], {}, {"server_id": "id"}, {"server_id": "id", "jetstream": {"config": {}}}]
)
def test_a_page_that_says_nothing_is_unknown(page: object) -> None:
    """What cannot be read is not taken for a good sign."""
    assert judged(page, "id", "x")[0] == "unknown"
