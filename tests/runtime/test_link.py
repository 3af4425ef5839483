"""The NATS link against a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from nats.js.errors import APIError

from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Metadata, Node
from hopwall_model.status import CalcStatus, Rejected
from hopwall_model.updates import SnapshotRequest
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import CaughtUp, Followed, Record, Reset
from hopwall_runtime.link import Append, Conflict, Link, Unavailable

pytestmark = pytest.mark.nats


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[Link]:
    """Connect a link and make the streams."""
    link = Link("test")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    await link.ensure_streams()
    yield link
    await link.close()


def node_event(name: str, expected: int = 0, msg_id: str = "") -> Append:
    """Return a write of a Node of this name."""
    event = ResourceSet(resource=Node(metadata=Metadata(name=name)))
    headers = {topics.HDR_MSG_ID: msg_id} if msg_id else {}
    return Append(
        subject=topics.event_subject(event.key),
        body=codec.encode(event),
        expected=expected,
        headers=headers,
    )


@pytest.mark.parametrize("code", [10071, 10164])
async def test_a_write_that_another_is_on_its_way_before_is_a_conflict(
    link: Link, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """In a cluster the server says it by another number until the first is stored: planned again, not given up."""

    async def refuse(*_: object, **__: object) -> None:
        raise APIError(code=400, err_code=code, description="wrong last sequence")

    monkeypatch.setattr(link._js, "publish", refuse)
    with pytest.raises(Conflict):
        await link.append([node_event("a")])


async def test_a_condition_on_all_of_a_kind_fails_for_any_of_them(link: Link) -> None:
    """Alone and as the first of a batch; nothing of a batch that fails is stored."""
    every = topics.kind_subjects("Node")

    def after(name: str, expected: int) -> Append:
        return replace(node_event(name), expected=expected, of=every)

    assert await link.append([after("a", 0)]) == [1]
    with pytest.raises(Conflict):
        await link.append([after("b", 0)])
    with pytest.raises(Conflict):
        await link.append([after("b", 0), node_event("c")])
    assert await link.append([after("b", 1), node_event("c")]) == [2, 3]
    assert await link.append([after("d", 3)]) == [4]


async def take(follower: AsyncIterator[list[Followed]], until: type) -> list[Followed]:
    """Collect what the follower yields until an item of the type arrives."""
    seen: list[Followed] = []
    async with asyncio.timeout(60):
        async for items in follower:
            seen.extend(items)
            if any(isinstance(item, until) for item in items):
                return seen
    raise AssertionError


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_append_returns_the_revision_and_refuses_a_stale_expectation(link: Link) -> None:
    """A write names the last sequence it knows; another one having come first refuses it."""
    (first,) = await link.append([node_event("a")])
    (second,) = await link.append([node_event("a", expected=first)])
    assert second == first + 1
    with pytest.raises(Conflict):
        await link.append([node_event("a", expected=first)])


async def test_a_batch_is_stored_whole_with_contiguous_revisions(link: Link) -> None:
    """Many writes are one atomic batch, and each learns its own revision."""
    revisions = await link.append([node_event(f"n{i}") for i in range(100)])
    assert revisions == list(range(1, 101))


async def test_a_conflict_beside_a_first_write_is_a_conflict(link: Link) -> None:
    """That the batch's last subject was never written only says that the batch was not stored."""
    await link.append([node_event("a", msg_id="1")])
    with pytest.raises(Conflict):
        await link.append([node_event("a", msg_id="2"), node_event("new", msg_id="3")])


async def test_a_batch_with_one_conflict_stores_nothing(link: Link) -> None:
    """One failing expectation refuses every write of the batch."""
    await link.append([node_event("a")])
    with pytest.raises(Conflict):
        await link.append([node_event("b"), node_event("a", expected=0), node_event("c")])
    (revision,) = await link.append([node_event("b")])
    assert revision == 2


async def test_the_same_message_id_is_stored_once(link: Link) -> None:
    """A write tried again after a silent server is answered with the first one's revision."""
    (first,) = await link.append([node_event("a", msg_id="x")])
    (again,) = await link.append([node_event("a", msg_id="x")])
    assert again == first


async def test_follow_delivers_a_snapshot_then_live_events(link: Link) -> None:
    """A follower sees Reset, the last value of each subject, CaughtUp, then what comes."""
    (first,) = await link.append([node_event("a")])
    await link.append([node_event("a", expected=first)])
    await link.append([node_event("b")])
    follower = link.follow()
    seen = await take(follower, CaughtUp)
    assert isinstance(seen[0], Reset)
    assert [i.revision for i in seen if isinstance(i, Record)] == [2, 3]
    assert seen[-1] == CaughtUp(3)

    await link.append([node_event("c")])
    live = await take(follower, Record)
    assert [i.revision for i in live if isinstance(i, Record)] == [4]


async def test_follow_of_an_empty_stream_is_in_sync_at_once(link: Link) -> None:
    """With nothing stored, CaughtUp follows Reset."""
    seen = await take(link.follow(), CaughtUp)
    assert [type(i) for i in seen] == [Reset, CaughtUp]


async def test_a_bad_event_is_reported_and_skipped(link: Link) -> None:
    """Bytes that are no event are counted, published as rejected, and others still arrive."""
    noted: list[Rejected] = []
    await link.subscribe(topics.REJECTED, topics.REJECTED.pattern, lambda v, _: noted.append(v))
    await link.append(
        [Append(subject="hopwall.event.node._.bad", body=b"\xff{", expected=0, headers={})]
    )
    await link.append([node_event("good")])
    seen = await take(link.follow(), CaughtUp)
    assert [i.revision for i in seen if isinstance(i, Record)] == [2]
    await eventually(lambda: bool(noted))
    assert link.rejected_messages == 1
    assert noted[0].subject == "hopwall.event.node._.bad"


async def test_a_bad_last_word_does_not_take_away_what_was_acknowledged(link: Link) -> None:
    """A snapshot shows the last value that can be understood, at the revision of the last word."""
    (first,) = await link.append([node_event("a")])
    junk = Append(subject="hopwall.event.node._.a", body=b"junk", expected=first, headers={})
    (last,) = await link.append([junk])
    seen = await take(link.follow(), CaughtUp)
    (record,) = [i for i in seen if isinstance(i, Record)]
    assert (record.revision, record.event.key.name) == (last, "a")


async def test_follow_starts_again_when_the_server_restarts(
    link: Link, nats_server: NatsServer
) -> None:
    """After a server restart the follower begins again with a snapshot and misses nothing."""
    await link.append([node_event("a")])
    follower = link.follow()
    await take(follower, CaughtUp)
    await nats_server.stop()
    await nats_server.start()
    await eventually(lambda: link.connected)
    await link.append([node_event("b")])
    names: set[str] = set()
    async with asyncio.timeout(60):
        async for items in follower:
            names |= {i.event.key.name for i in items if isinstance(i, Record)}
            if "b" in names:
                break


async def test_a_tombstone_is_delivered_as_an_absence(link: Link) -> None:
    """Absence is an event of its own."""
    key = Key("Node", "", "a")
    (first,) = await link.append([node_event("a")])
    await link.append(
        [
            Append(
                subject=topics.event_subject(key),
                body=codec.encode(ResourceRemoved(key=key)),
                expected=first,
                headers={},
            )
        ]
    )
    seen = await take(link.follow(), CaughtUp)
    assert [i.event for i in seen if isinstance(i, Record)] == [ResourceRemoved(key=key)]


async def test_large_answers_travel_in_chunks(link: Link) -> None:
    """An answer larger than a message arrives whole."""
    body = bytes(range(256)) * 8192
    await link.serve_chunked(topics.SNAPSHOT, "hopwall.snapshot.*", lambda *_: body)
    request = SnapshotRequest(host="h1")
    answer = await link.request_chunked(topics.snapshot_subject("h1"), request, timeout_s=60)
    assert answer == body


async def test_a_refused_request_is_reported_and_not_answered(link: Link) -> None:
    """Who asks on one subject for what belongs on another gets nothing."""
    await link.serve_chunked(topics.SNAPSHOT, "hopwall.snapshot.*", lambda *_: None)
    with pytest.raises(Unavailable):
        await link.request_chunked("hopwall.snapshot.h1", SnapshotRequest(host="h2"), timeout_s=0.5)
    assert link.rejected_messages == 1


async def test_a_request_is_left_to_another_who_serves_it(link: Link) -> None:
    """Of two who serve one stands by: it says nothing, and complains of nobody."""
    await link.serve_chunked(topics.SNAPSHOT, "hopwall.snapshot.*", lambda *_: b"")
    with pytest.raises(Unavailable):
        await link.request_chunked("hopwall.snapshot.h1", SnapshotRequest(host="h1"), timeout_s=0.5)
    await link.serve_chunked(topics.SNAPSHOT, "hopwall.snapshot.*", lambda *_: b"state")
    request = SnapshotRequest(host="h1")
    answer = await link.request_chunked("hopwall.snapshot.h1", request, timeout_s=60)
    assert answer == b"state"
    assert link.rejected_messages == 0


async def test_a_request_nobody_serves_is_unavailable(link: Link) -> None:
    """Without a service the asker is told, at once, in a declared exception."""
    with pytest.raises(Unavailable):
        await link.request_chunked("hopwall.snapshot.h9", SnapshotRequest(host="h9"), timeout_s=2)


async def test_last_status_shows_what_was_said_before(link: Link) -> None:
    """A late starter learns the last status of each sender."""
    status = CalcStatus(epoch="e", first=0, revision=3, at="2026-01-01T00:00:00Z")
    await link.publish(topics.CALC_STATUS.pattern, status)
    await link.flush()
    seen: list[CalcStatus] = []
    async with asyncio.timeout(60):
        while not seen:
            seen = [s async for s, _ in link.last_status(topics.CALC_STATUS)]
    assert seen == [status]
