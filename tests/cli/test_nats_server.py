from pathlib import Path

import pytest

from hopwall_cli.nats_server import NatsServer, NatsServerError, command
from tests.conftest import free_port

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
