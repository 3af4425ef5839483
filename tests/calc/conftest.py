"""A listener beside the calc of each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.support.calc_listener import Listener


@pytest.fixture
async def listener(nats_server: NatsServer) -> AsyncIterator[Listener]:
    """Connect a listener and make the streams."""
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    await link.ensure_streams()
    listener = Listener(link)
    await listener.start()
    yield listener
    await link.close()
