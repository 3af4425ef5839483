"""A stream that is not the one of before: lost tail, recreated, purged, against a real server."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_runtime import follower as follower_module
from hopwall_runtime import streams
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import CaughtUp, Followed, Record, Reset
from hopwall_runtime.link import Link, Unavailable
from tests.runtime.test_link import node_event, take

pytestmark = pytest.mark.nats


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[Link]:
    """Connect a link and make the streams."""
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    await link.ensure_streams()
    yield link
    await link.close()


async def resets(follower: AsyncIterator[list[Followed]]) -> tuple[Reset, list[Record]]:
    """Return the next Reset and the records of its snapshot."""
    seen = await take(follower, CaughtUp)
    begun = [i for i, item in enumerate(seen) if isinstance(item, Reset)][-1]
    reset = seen[begun]
    assert isinstance(reset, Reset)
    return reset, [i for i in seen[begun:] if isinstance(i, Record)]


async def connected(link: Link) -> None:
    """Wait until the link is connected again."""
    async with asyncio.timeout(60):
        while not link.connected:
            await asyncio.sleep(0.02)


async def write(link: Link, *names: str) -> None:
    """Store a Node of each name, trying until the server takes it."""
    for name in names:
        while True:
            try:
                await link.append([node_event(name)])
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                break


async def fill(link: Link) -> int:
    """Store until the server refuses for want of room; return how many events it took."""
    for n in range(1000):
        try:
            await link.append([node_event(f"n{n}", msg_id=f"{n:0500}")])
        except Unavailable:
            return n
    raise AssertionError


async def test_a_restart_is_the_same_history(link: Link, nats_server: NatsServer) -> None:
    """A server that comes back with all it had changes nothing."""
    await write(link, "a", "b")
    follower = link.follow()
    first, _ = await resets(follower)
    await nats_server.stop()
    await nats_server.start()
    again, records = await resets(follower)
    assert again == first
    assert first.store
    assert [r.revision for r in records] == [1, 2]


@pytest.mark.parametrize("n_after", [0, 1, 5])
async def test_a_lost_tail_is_another_history(
    link: Link, nats_server: NatsServer, tmp_path: Path, n_after: int
) -> None:
    """An older copy of the store is noticed, also when it has grown past what was lost."""
    store, copy = tmp_path / "nats" / "store", tmp_path / "copy"
    await write(link, "a")
    await nats_server.stop()
    shutil.copytree(store, copy)
    await nats_server.start()
    await connected(link)
    await write(link, "b", "c")
    follower = link.follow()
    first, records = await resets(follower)
    assert [r.event.key.name for r in records] == ["a", "b", "c"]
    await nats_server.stop()
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    await nats_server.start()
    other = Link("other")
    await other.connect(CommonSettings(nats_url=(nats_server.url,)))
    await write(other, *(f"x{i}" for i in range(n_after)))
    await other.close()
    again, records = await resets(follower)
    while [r.event.key.name for r in records][:2] == ["a", "b"]:
        again, records = await resets(follower)
    assert again.store == first.store
    assert again.stream_id != first.stream_id


async def test_a_purge_by_others_is_noticed_while_following(
    link: Link, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages taken out of the stream are no removals that anybody declared: a new history begins."""
    monkeypatch.setattr(follower_module, "AUDIT_S", 0.2)
    await write(link, "a", "b")
    follower = link.follow()
    first, _ = await resets(follower)
    await link._js.purge_stream(topics.EVENTS_STREAM)
    again, records = await resets(follower)
    assert again.stream_id != first.stream_id
    assert records == []


async def test_a_recreated_stream_is_another_store(link: Link) -> None:
    """A stream that was deleted and made again has another id."""
    await write(link, "a")
    follower = link.follow()
    first, _ = await resets(follower)
    await link._js.delete_stream(topics.EVENTS_STREAM)
    await link.ensure_streams()
    again, _ = await resets(follower)
    assert again.store
    assert again.store != first.store
    assert again.stream_id != first.stream_id


async def test_a_full_store_refuses_and_loses_nothing(nats_server: NatsServer) -> None:
    """When its bytes are used up the stream takes no writes, keeps all, and takes them again when there is room."""
    small = Link("small")
    settings = CommonSettings(nats_url=(nats_server.url,), nats_max_bytes=20_000)
    await small.connect(settings)
    await small.ensure_streams()
    n = await fill(small)
    found = await small._js.stream_info(topics.EVENTS_STREAM)
    assert found.state.messages == n
    assert found.state.first_seq == 1
    await small.close()
    grown = Link("grown")
    await grown.connect(CommonSettings(nats_url=(nats_server.url,), nats_max_bytes=40_000))
    await grown.ensure_streams()
    await grown.append([node_event("more")])
    await grown.close()


async def test_a_stream_of_before_gets_its_id_and_its_limit(nats_server: NatsServer) -> None:
    """An installation that is upgraded keeps its events, and what is missing is added."""
    link = Link("old")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    old = streams.events_config(streams.Wanted(1, -1), "")
    old.discard, old.metadata = DiscardPolicy.OLD, None
    await link._js.add_stream(old)
    await link.append([node_event("a")])
    await link.ensure_streams()
    found = await link._js.stream_info(topics.EVENTS_STREAM)
    assert streams.store_of(found.config)
    assert found.config.discard == DiscardPolicy.NEW
    assert found.config.max_bytes == CommonSettings().nats_max_bytes
    assert found.state.messages == 1
    await link.close()


async def test_the_history_can_be_shortened_and_no_last_value_goes(link: Link) -> None:
    """Room is made of older values only."""
    expected = 0
    for _ in range(10):
        (expected,) = await link.append([node_event("a", expected)])
    await write(link, "b")
    await streams.set_history(link._js, 2)
    found = await link._js.stream_info(topics.EVENTS_STREAM)
    assert found.state.messages == 3
    follower = link.follow()
    _, records = await resets(follower)
    assert [r.revision for r in records] == [10, 11]


async def test_a_message_taken_out_of_a_snapshot_does_not_hold_it_up(link: Link) -> None:
    """A snapshot some of which was purged while it was read is read again, and ends."""
    for start in range(0, 3000, 500):
        await link.append(
            [node_event(f"n{i}", msg_id="x" * 2000) for i in range(start, start + 500)]
        )
    follower = link.follow()
    await take(follower, Reset)
    last = "hopwall.event.node._.n2999"
    await asyncio.gather(
        link._js.purge_stream(topics.EVENTS_STREAM, subject=last), take(follower, CaughtUp)
    )
