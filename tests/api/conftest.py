"""A real API on a real nats-server, and a caller of it."""

from collections.abc import AsyncIterator, Sequence

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Append, Conflict, Link
from tests.api.caller import LATE, Caller, Refusing, running_api


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


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Return what lets the next `n` writes be stored and said to conflict."""
    right = Link.append

    def refuse(n: int) -> None:
        left = [n]

        async def both(self: Link, writes: Sequence[Append]) -> list[int]:
            revisions = await right(self, writes)
            if not left[0]:
                return revisions
            left[0] -= 1
            raise Conflict(LATE)

        monkeypatch.setattr(Link, "append", both)

    return refuse
