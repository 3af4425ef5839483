"""Old tombstones go, and nothing is lost or comes back by it; history gives way before the store is full."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from hopwall_api.agent import Api
from hopwall_api.upkeep import Upkeep
from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from hopwall_runtime.streams import LEAST_HISTORY, Usage, fitting_history
from tests.api.caller import PATIENCE_S, Caller, node, running_api

pytestmark = pytest.mark.nats


@pytest.fixture
async def api(nats_server: NatsServer) -> AsyncIterator[Api]:
    """Run an API without its HTTP side, as a second replica."""
    link = Link("second")
    api = Api(link)
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    await api.make_streams()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(api.follow_events())
        while not api.store.in_sync:
            await asyncio.sleep(0.01)
        yield api
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await link.close()


def upkeep(api: Api, hours: float = 0.0) -> Upkeep:
    """Return what purges tombstones older than this."""
    return Upkeep(api, tombstone_hours=hours, monitor_url="")


async def n_messages(api: Api, name: str) -> int:
    """Return how many messages a Node's subject has."""
    info = await api.link._js.stream_info(
        topics.EVENTS_STREAM, subjects_filter=f"hopwall.event.node._.{name}"
    )
    return int((info.state.subjects or {}).get(f"hopwall.event.node._.{name}", 0))


async def in_step(api: Api, caller: Caller) -> None:
    """Wait until the second replica shows what the first has written."""
    revision = int((await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"])
    async with asyncio.timeout(PATIENCE_S):
        while api.store.revision < revision:
            await asyncio.sleep(0.01)


async def test_a_purge_takes_tombstones_and_nothing_else(api: Api, caller: Caller) -> None:
    """What was removed leaves no message; what is there keeps all; what was made again keeps what is new."""
    for name in ("kept", "gone", "again"):
        await caller.put(f"/v1/nodes/{name}", node(name))
    await caller.put("/v1/nodes/kept", node("kept", a="b"))
    for name in ("gone", "again"):
        await caller.delete(f"/v1/nodes/{name}")
    await in_step(api, caller)
    due = api.store.tombstones(10)
    assert [key.name for key, _ in due] == ["gone", "again"]
    await caller.put("/v1/nodes/again", node("again", new="yes"))
    for key, last in due:  # also by one that does not know yet that it is there again
        await api.link.upkeep.purge_removed(topics.event_subject(key), last)
    await in_step(api, caller)
    await upkeep(api).purge_tombstones()
    assert [await n_messages(api, name) for name in ("kept", "gone", "again")] == [2, 0, 1]
    assert (await caller.get("/v1/nodes/again")).json["metadata"]["labels"] == {"new": "yes"}
    assert (await caller.get("/v1/nodes/gone")).status == 404


async def test_young_tombstones_stay(api: Api, caller: Caller) -> None:
    """What was removed within the time is remembered."""
    await caller.put("/v1/nodes/a", node("a"))
    await caller.delete("/v1/nodes/a")
    await in_step(api, caller)
    assert await upkeep(api, 25).purge_tombstones() == 0
    assert await n_messages(api, "a") == 2


async def test_after_a_purge_every_replica_writes_as_before(
    api: Api, caller: Caller, nats_server: NatsServer
) -> None:
    """The one that purged, one that only heard of it, and one that starts later: each can make it again."""
    for name in ("a", "b", "c"):
        await caller.put(f"/v1/nodes/{name}", node(name))
        await caller.delete(f"/v1/nodes/{name}")
    revision = int((await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"])
    await in_step(api, caller)
    assert await upkeep(api).purge_tombstones() == 3
    assert api.store.tombstones(10) == []
    assert await upkeep(api).purge_tombstones() == 0
    made = await caller.post("/v1/nodes", node("a"))
    assert made.status == 201
    assert int(made.json["metadata"]["resourceVersion"]) > revision
    async with running_api(nats_server.url) as later:
        assert (await later.post("/v1/nodes", node("b"))).status == 201
        assert (await later.delete("/v1/nodes/a")).status == 200
    assert (await caller.post("/v1/nodes", node("c"))).status == 201
    assert (await caller.post("/v1/nodes", node("b"))).status == 409


async def test_a_watcher_that_knows_less_lists_again(
    api: Api, caller: Caller, nats_server: NatsServer
) -> None:
    """A removal whose tombstone is purged is never kept from a watcher: he is told that he missed something."""
    made = await caller.put("/v1/nodes/a", node("a"))
    seen = made.json["metadata"]["resourceVersion"]
    await caller.delete("/v1/nodes/a")
    await in_step(api, caller)
    await upkeep(api).purge_tombstones()
    async with running_api(nats_server.url) as later:
        path = f"/v1/nodes?watch=true&resourceVersion={seen}"
        (await later.get(path)).problem(410)


async def test_a_stale_expectation_meets_no_purged_tombstone(api: Api, caller: Caller) -> None:
    """A writer whose copy still has the tombstone is planned again, and stores once."""
    await caller.put("/v1/nodes/a", node("a"))
    await caller.delete("/v1/nodes/a")
    await in_step(api, caller)
    (entry,) = api.store.tombstones(1)
    await api.link.upkeep.purge_removed(topics.event_subject(entry[0]), entry[1])
    assert api.store.held(entry[0]).last == entry[1]
    assert (await caller.post("/v1/nodes", node("a"))).status == 201
    assert await n_messages(api, "a") == 1


@pytest.mark.parametrize(
    ("used", "history", "wanted"),
    [
        (0, 65, 65),
        (76, 65, 32),
        (76, 3, LEAST_HISTORY),
        (99, LEAST_HISTORY, LEAST_HISTORY),
        (50, 8, 8),
        (10, 8, 65),
    ],
)
def test_history_gives_way_before_the_store_is_full(used: int, history: int, wanted: int) -> None:
    """From three quarters on each resource keeps half as many values; with plenty of room all again."""
    assert fitting_history(Usage(used=used, limit=100, history=history)) == wanted


async def test_history_is_fitted(api: Api, caller: Caller) -> None:
    """A store that is nearly full drops old values, and takes writes again; no last value goes."""
    for i in range(40):
        await caller.put("/v1/nodes/a", node("a", text="x" * 60, n=str(i)))
    await caller.put("/v1/nodes/b", node("b"))
    usage = await api.link.upkeep.usage()
    config = (await api.link._js.stream_info(topics.EVENTS_STREAM)).config
    config.max_bytes = usage.used + 100
    await api.link._js.update_stream(config)
    assert "maximum bytes" in (await caller.put("/v1/nodes/c", node("c"))).problem(503)["detail"]
    await upkeep(api).fit_history()
    assert (await caller.put("/v1/nodes/c", node("c"))).status == 201
    assert (await api.link.upkeep.usage()).history == 32
    assert (await caller.get("/v1/nodes/b")).status == 200
