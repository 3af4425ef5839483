"""A real API on a real nats-server, and a caller of it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_runtime.appender import Appender
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
    return _refusing(monkeypatch, _nothing)


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Return what lets the next `n` writes be stored, written over by another, and then said to conflict."""
    return _refusing(monkeypatch, _write_over)


Over = Callable[[Link, Sequence[Append], Sequence[int]], Awaitable[None]]


def _refusing(monkeypatch: pytest.MonkeyPatch, over: Over) -> Refusing:
    right = Appender.append

    def refuse(n: int) -> None:
        left = [n]

        async def both(self: Link, writes: Sequence[Append]) -> list[int]:
            revisions = await right(self._appender, writes)
            if not left[0]:
                return revisions
            left[0] -= 1
            await over(self, writes, revisions)
            raise Conflict(LATE)

        monkeypatch.setattr(Link, "append", both)

    return refuse


async def _nothing(link: Link, writes: Sequence[Append], revisions: Sequence[int]) -> None:
    """Leave what was stored."""


async def _write_over(link: Link, writes: Sequence[Append], revisions: Sequence[int]) -> None:
    """Store the same again as another would."""
    for write, revision in zip(writes, revisions, strict=True):
        headers = {**write.headers, "ce-id": "another's", topics.HDR_MSG_ID: "another's"}
        again = replace(write, expected=revision, of="", headers=headers)
        await Appender.append(link._appender, [again])
