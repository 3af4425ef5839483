"""A server that does not know yet that it leads no more, beside one that does: what an answer says must be so."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from hopwall_model import topics
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Append, Conflict, Link
from tests.api.caller import EXAMPLES, PATIENCE_S, Answer, Caller, Doc, Refusing, node, running_api
from tests.support.brokers import running_cluster

pytestmark = pytest.mark.nats


async def test_a_conflict_with_oneself_is_no_refusal(caller: Caller, refusing: Refusing) -> None:
    """What was stored although a server said that it conflicts is acknowledged, with its revision."""
    made = await caller.put("/v1/nodes/a", node("a"))
    refusing(1)
    answer = await caller.put("/v1/nodes/a", node("a", x="1"), If_Match=made.headers["ETag"])
    assert answer.status == 200, answer.body
    assert answer.headers["ETag"] == '"2"'
    assert (await caller.get("/v1/nodes/a")).json["metadata"]["labels"] == {"x": "1"}
    assert (await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"] == "2"


async def test_a_conflict_with_nothing_is_not_said_to_have_stored_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses for another write which it does not hold is in doubt: so is what became of the write."""

    async def never(_: Link, _writes: Sequence[Append]) -> list[int]:
        raise Conflict("wrong last sequence")

    monkeypatch.setattr(Link, "append", never)
    problem = (await caller.put("/v1/nodes/a", node("a"))).problem(503)
    assert "It is unknown whether the write was stored" in problem["detail"]


async def test_reports_of_a_stream_that_may_be_another_say_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broken connection revisions may be given anew: until the stream is read, how far a write is is unknown."""
    assert (await caller.put("/v1/nodes/a", node("a"))).status == 201
    monkeypatch.setattr(Link, "settled", property(lambda _: False))
    conditions = (await caller.get("/v1/nodes/a")).json["status"]["conditions"]
    found = {one["type"]: (one["status"], one["reason"]) for one in conditions}
    assert found["Accepted"] == ("True", "Stored")
    assert found["Computed"] == ("Unknown", "Reconnected")
    assert found["Programmed"][0] == "Unknown"


async def test_the_end_of_a_restore_that_was_stored_is_no_refusal(
    caller: Caller, refusing: Refusing
) -> None:
    """What begins and ends a restore knows its own event again, too."""
    for path in ("/v1/restore", "/v1/restore/end"):
        refusing(1)
        answer = await caller.post(path, {"file": "f"})
        assert answer.status == 200, answer.body
    assert answer.json["resourceVersion"] == "2"


WAYS: dict[str, tuple[int, Callable[[Caller], Awaitable[Answer]]]] = {
    "put": (200, lambda c: c.put("/v1/nodes/a", node("a", x="1"), If_Match='"1"')),
    "versioned": (200, lambda c: c.put("/v1/nodes/a", versioned("1"))),
    "create": (201, lambda c: c.put("/v1/nodes/b", node("b"), If_None_Match="*")),
    "post": (201, lambda c: c.post("/v1/nodes", node("b"))),
    "delete": (200, lambda c: c.delete("/v1/nodes/a", If_Match='"1"')),
    "apply": (200, lambda c: c.post("/v1/apply", {"items": [versioned("1"), node("b")]})),
    "pool": (201, lambda c: c.post("/v1/ippools", EXAMPLES["IPPool"][1])),
}


def versioned(version: str) -> Doc:
    """Return a node that is to be at this version."""
    wanted = node("a", x="1")
    wanted["metadata"]["resourceVersion"] = version
    return wanted


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_stored_and_written_over_is_no_refusal(
    caller: Caller, overtaken: Refusing, way: str
) -> None:
    """A write that is said to conflict is looked for where it must stand, not only at the end of its subject."""
    assert (await caller.put("/v1/nodes/a", node("a"))).headers["ETag"] == '"1"'
    overtaken(1)
    status, ask = WAYS[way]
    answer = await ask(caller)
    assert answer.status == status, answer.body
    if way not in ("apply", "delete"):
        assert answer.headers["ETag"] == '"2"'


async def test_what_cannot_be_looked_for_is_in_doubt(
    caller: Caller, link: Link, overtaken: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server keeps no word of so long ago, nobody says that nothing was stored."""
    await caller.put("/v1/nodes/a", node("a"))
    await link.upkeep.set_history(1)
    overtaken(1)
    problem = (await caller.put("/v1/nodes/a", node("a", x="1"), If_Match='"1"')).problem(503)
    assert "It is unknown whether the write was stored" in problem["detail"]


async def test_a_leader_that_is_cut_off_is_not_believed(tmp_path: Path) -> None:
    """The others may have elected another: what needs no write, and what is refused, is not answered from what it holds.

    They do so after 4 s at the earliest, so who is asked after that gets 503, though the server answers for longer.
    """
    async with running_cluster(tmp_path) as servers:
        link = Link("test")
        async with running_api(servers[0].url) as first:
            assert (await first.put("/v1/nodes/a", node("a"))).status == 201
        await link.connect(CommonSettings(nats_url=(servers[0].url,)))
        info = await link._js._api_request(f"$JS.API.STREAM.INFO.{topics.EVENTS_STREAM}", timeout=5)
        leader = servers[int(info["cluster"]["leader"].removeprefix("n"))]
        await link.close()
        others = [server for server in servers if server is not leader]
        async with running_api(leader.url) as caller, asyncio.timeout(PATIENCE_S):
            ways: tuple[tuple[int, Callable[[], Awaitable[Answer]]], ...] = (
                (200, lambda: caller.put("/v1/nodes/a", node("a"))),
                (409, lambda: caller.post("/v1/nodes", node("a"))),
            )
            for status, ask in ways:
                while (await ask()).status != status:
                    await asyncio.sleep(0.1)
            for server in others:
                os.kill(server.pid, signal.SIGSTOP)
            try:
                cut = clock.monotonic()
                for status, ask in ways:
                    begun = clock.monotonic()
                    while (answer := await ask()).status == status:
                        assert begun - cut < 4
                        begun = clock.monotonic()
                    assert "may not lead" in answer.problem(503)["detail"]
            finally:
                for server in others:
                    os.kill(server.pid, signal.SIGCONT)
            for status, ask in ways:
                while (await ask()).status != status:
                    await asyncio.sleep(0.1)
