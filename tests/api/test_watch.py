"""Watching: what is sent, how it resumes, who is cut."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from nats.js.api import StreamInfo

from hopwall_api import watch
from hopwall_api.agent import STALE_LOOK_S
from hopwall_cli import main
from hopwall_cli.main import parse
from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.events import ResourceSet
from hopwall_model.resources import Key, Metadata, Node
from hopwall_runtime.follower import Follower
from tests.api.caller import PATIENCE_S, Caller, node, running_api

pytestmark = pytest.mark.nats

Event = tuple[str, str, Any]  # (id, event, data)


class Stream:
    """The events of one watch, as an EventSource would read them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Event:
        """Return the next event."""
        fields = {"id": ""}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    raise EOFError
                if line == "\n":
                    return fields["id"], fields["event"], json.loads(fields["data"])
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value

    async def brief(self, n: int) -> list[tuple[str, str, str]]:
        """Return id, event and name of the next events."""
        found = [await self.next() for _ in range(n)]
        return [
            (id_, event, data.get("metadata", {}).get("name", "")) for id_, event, data in found
        ]


@asynccontextmanager
async def watching(caller: Caller, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    """Watch the Nodes."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Accept"] = "text/event-stream"
    async with caller.session.get(f"http://api/v1/nodes{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Stream(response)


async def test_a_watch_begins_with_what_is_there(caller: Caller) -> None:
    """First all resources, then a bookmark with the revision, then each change."""
    await caller.put("/v1/nodes/b", node("b"))
    await caller.put("/v1/nodes/a", node("a"))
    async with watching(caller) as stream:
        assert await stream.brief(3) == [("", "set", "a"), ("", "set", "b"), ("2", "bookmark", "")]
        await caller.put("/v1/nodes/a", node("a", x="1"))
        await caller.delete("/v1/nodes/b")
        await caller.put("/v1/tiers/t", {"spec": {"order": 1}})
        await caller.put("/v1/nodes/c", node("c"))
        assert await stream.brief(3) == [
            ("3", "set", "a"),
            ("4", "removed", "b"),
            ("6", "set", "c"),
        ]


async def test_watch_true_does_the_same_as_the_media_type(caller: Caller) -> None:
    """A client that cannot set headers asks by parameter."""
    response = await caller.session.get("http://api/v1/nodes?watch=true")
    assert (await Stream(response).brief(1)) == [("0", "bookmark", "")]
    response.close()


async def test_a_watch_resumes_after_the_last_event(caller: Caller) -> None:
    """Last-Event-ID: everything after it and nothing before; resourceVersion does the same."""
    for name in "abc":
        await caller.put(f"/v1/nodes/{name}", node(name))
    async with watching(caller, Last_Event_ID="1") as stream:
        assert await stream.brief(3) == [
            ("1", "bookmark", ""),
            ("2", "set", "b"),
            ("3", "set", "c"),
        ]
    async with watching(caller, "?resourceVersion=2") as stream:
        assert await stream.brief(2) == [("2", "bookmark", ""), ("3", "set", "c")]
    (await caller.get("/v1/nodes?watch=true&resourceVersion=x")).problem(400)


async def test_a_watch_resumes_across_a_restart_of_the_api(nats_server: NatsServer) -> None:
    """Another process sends what was missed, removals too."""
    async with running_api(nats_server.url) as caller:
        await caller.put("/v1/nodes/a", node("a"))
        await caller.put("/v1/nodes/b", node("b"))
        async with watching(caller) as stream:
            assert (await stream.brief(3))[-1] == ("2", "bookmark", "")
        await caller.put("/v1/nodes/b", node("b", x="1"))
        await caller.delete("/v1/nodes/a")
    async with (
        running_api(nats_server.url) as caller,
        watching(caller, Last_Event_ID="2") as stream,
    ):
        expected = [("2", "bookmark", ""), ("3", "set", "b"), ("4", "removed", "a")]
        assert await stream.brief(3) == expected


async def test_a_watch_goes_on_across_an_outage_of_nats(
    caller: Caller, nats_server: NatsServer
) -> None:
    """When the server is back the same stream of events continues, without a gap."""
    await caller.put("/v1/nodes/a", node("a"))
    async with watching(caller) as stream:
        await stream.brief(2)
        await nats_server.stop()
        await nats_server.start()
        async with asyncio.timeout(PATIENCE_S):
            while (await caller.put("/v1/nodes/b", node("b"))).status not in (200, 201):
                await asyncio.sleep(0.1)
        while (found := (await stream.brief(1))[0])[1] in ("stale", "fresh"):
            pass
        assert found == ("2", "set", "b")


async def test_a_revision_from_the_future_is_gone(caller: Caller) -> None:
    """A client of another stream, or of one that lost its tail, is told to list again."""
    answer = await caller.get("/v1/nodes?watch=true&resourceVersion=99")
    assert "list again" in answer.problem(410)["detail"]


async def test_what_leaves_the_selector_is_removed(caller: Caller) -> None:
    """An object that stops matching is gone for this watcher, and comes back as set."""
    await caller.put("/v1/nodes/a", node("a", role="db"))
    await caller.put("/v1/nodes/b", node("b", role="web"))
    async with watching(caller, '?labelSelector=role == "db"') as stream:
        assert await stream.brief(2) == [("", "set", "a"), ("2", "bookmark", "")]
        await caller.put("/v1/nodes/a", node("a", role="web"))
        await caller.put("/v1/nodes/b", node("b", role="web", x="1"))
        await caller.delete("/v1/nodes/b")
        await caller.put("/v1/nodes/a", node("a", role="db"))
        assert await stream.brief(2) == [("3", "removed", "a"), ("6", "set", "a")]


async def test_a_quiet_watch_gets_bookmarks(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bookmarks show that the connection lives and move the revision to resume from."""
    monkeypatch.setattr(watch, "BOOKMARK_S", 0.2)
    async with watching(caller) as stream:
        await stream.brief(1)
        await caller.put("/v1/tiers/t", {"spec": {"order": 1}})
        while (seen := await stream.brief(1)) == [("0", "bookmark", "")]:
            pass  # while the write was under way
        assert seen == [("1", "bookmark", "")]


async def test_a_slow_client_is_cut_and_others_are_not_held_up(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not read is disconnected; meanwhile writes and other watches go on."""
    monkeypatch.setattr(watch, "_WRITE_TIME_S", 0.5)
    slow = socket.socket(socket.AF_UNIX)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(caller.socket)
    slow.sendall(b"GET /v1/nodes?watch=true HTTP/1.1\r\nHost: api\r\n\r\n")
    slow.settimeout(PATIENCE_S)
    async with watching(caller) as stream:
        await stream.brief(1)
        big = node("a")
        for i in range(40):
            big["metadata"]["annotations"] = {"x": f"{i}" * 30_000}
            assert (await caller.put("/v1/nodes/a", big)).status in (200, 201)
            assert (await stream.brief(1))[0][1] == "set"
        await asyncio.sleep(1.0)
    received = 0
    while piece := await asyncio.to_thread(slow.recv, 1 << 20):
        received += len(piece)
    slow.close()
    assert received < 40 * 30_000


async def test_a_running_watch_says_that_it_may_be_old_and_when_that_is_over(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While NATS is frozen `stale` says for how long, again where a bookmark would come; then `fresh`, and it goes on."""
    monkeypatch.setattr(watch, "BOOKMARK_S", 1.0)
    async with watching(caller) as stream:
        assert (await stream.next())[1] == "bookmark"
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            first = later = await aged(stream, "stale")
            while later == first:  # the same second
                later = await aged(stream, "stale")
            assert 6 <= first < later
            # Who begins now is told by an event, too.
            async with watching(caller) as late:
                assert await aged(late, "stale") >= later
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)
        assert await aged(stream, "fresh") == 0
        await written(caller)
        async with asyncio.timeout(PATIENCE_S):
            while (found := await stream.next())[1] == "bookmark":
                pass
        assert (found[1], found[2]["metadata"]["name"]) == ("set", "a")


async def test_what_was_missed_is_sent_before_a_watch_is_fresh(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is back within seconds may have taken others' writes: `fresh` waits until they are read."""
    right = Follower._resume
    subject = topics.event_subject(Key("Node", "", "missed"))
    event = ResourceSet(resource=Node(metadata=Metadata(name="missed")))

    async def resume(self: Follower) -> StreamInfo:
        await self._js.publish(subject, codec.encode(event))
        await asyncio.sleep(2 * STALE_LOOK_S)
        return await right(self)

    async with watching(caller) as stream:
        assert (await stream.next())[1] == "bookmark"
        monkeypatch.setattr(Follower, "_resume", resume)
        await nats_server.stop()
        await aged(stream, "stale")
        await nats_server.start()
        found: list[tuple[str, str]] = []
        while ("fresh", "") not in found:
            [(_, word, name)] = await stream.brief(1)
            found += [(word, name)] if word in ("set", "fresh") else []
        assert found[:1] == [("set", "missed")]


async def test_the_command_says_that_what_it_shows_may_be_old(
    caller: Caller, nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hopwall get --watch` has a line on stderr for it, and one when it is over; rows go on."""
    args = parse(["--server", f"unix://{caller.socket}", "get", "nodes", "--watch"])
    out, err = "", ""

    async def until(words: str) -> None:
        nonlocal out, err
        async with asyncio.timeout(PATIENCE_S):
            while words not in out + err:
                more = capsys.readouterr()
                out, err = out + more.out, err + more.err
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        command = tasks.create_task(main._run(args.run, args))
        await until("REVISION")
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            await until("has not heard NATS for")
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)
        await until("hears NATS again")
        await written(caller)
        await until("set  ")
        command.cancel()
    assert "NATS" not in out


async def written(caller: Caller) -> None:
    """Declare a node, as soon as NATS takes it."""
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.put("/v1/nodes/a", node("a"))).status == 503:
            await asyncio.sleep(0.1)


async def aged(stream: Stream, word: str) -> int:
    """Return the age of the next event of this word; only bookmarks may come before."""
    while (found := await stream.next())[1] == "bookmark":
        pass
    assert found[:2] == ("", word), found
    return int(found[2]["seconds"])
