"""A real API on a real nats-server, and a caller of it."""

from collections.abc import AsyncIterator

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.api.caller import Caller, running_api


@pytest.fixture
async def caller(nats_server: NatsServer) -> AsyncIterator[Caller]:
    """Run the API for one test and give a caller of it."""
    async with running_api(nats_server.url) as caller:
        yield caller


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[Link]:
    """Connect to the same server as another service would."""
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    await link.ensure_streams()
    yield link
    await link.close()
