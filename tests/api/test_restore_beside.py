"""A restore that begins beside a write: what was acknowledged is what the restore began with, or came after it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from hopwall_api import intent, writer
from hopwall_api.intent import Plan, Stamp
from hopwall_api.ipam.demands import Assign
from hopwall_api.outcomes import Written
from hopwall_api.problems import ApiProblem
from hopwall_api.store import Held
from hopwall_api.writer import Planner, Source
from hopwall_cli.commands import restore as restore_command
from hopwall_cli.nats_server import NatsServer
from hopwall_model.resources import Key, Metadata, Node
from hopwall_runtime.link import Append, Link
from tests.api.caller import Answer, Caller, node, running_api
from tests.api.ipam.test_calls import ask, declare, pool
from tests.api.lagging import Lagging, lagging_api
from tests.api.test_restore import content, hopwall

pytestmark = pytest.mark.nats

FILE = {"file": "f", "replace": True}
Beside = Callable[[str], None]


@pytest.fixture
async def beside(
    nats_server: NatsServer, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Beside]:
    """Return what lets another replica begin a restore, or carry it out, between a write's plan and its storing."""
    right = Link.append
    todo: list[str] = []
    async with running_api(nats_server.url) as other:

        async def raced(self: Link, writes: Sequence[Append]) -> list[int]:
            what = todo.pop() if todo else ""
            if what == "empty":
                await restored(other, "", "/end")
            elif what:
                await restored(other, "")
            revisions = await right(self, writes)
            if what == "whole":
                await restored(other, "/end")
            return revisions

        monkeypatch.setattr(Link, "append", raced)
        yield todo.append


async def restored(caller: Caller, *steps: str) -> None:
    """Take these steps of a restore that writes nothing."""
    for step in steps:
        answer = await caller.post(f"/v1/restore{step}", {"file": "f"} if step else FILE)
        assert answer.status == 200, answer.body


WAYS: dict[str, Callable[[Caller], Awaitable[Answer]]] = {
    "put": lambda caller: caller.put("/v1/nodes/h1", node("h1", a="b")),
    "create": lambda caller: caller.put("/v1/nodes/x", node("x")),
    "post": lambda caller: caller.post("/v1/nodes", node("x")),
    "patch": lambda caller: caller.patch("/v1/nodes/h1", {"metadata": {"labels": {"a": "b"}}}),
    "delete": lambda caller: caller.delete("/v1/nodes/h1"),
    "apply": lambda caller: caller.post("/v1/apply", {"items": [node("x"), node("y")]}),
    "assign": lambda caller: ask(caller, "vm2"),
    "release": lambda caller: caller.post("/v1/ipam/release", {"handle": "vm1"}),
}


@pytest.mark.parametrize("length", ["begun", "whole"])
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_stored_within_a_restore_is_not_acknowledged(
    caller: Caller, beside: Beside, way: str, length: str
) -> None:
    """On every way 503 says that it is stored and may be undone, also where the restore has ended meanwhile."""
    await declare(caller, node("h1"), pool())
    assert (await ask(caller, "vm1")).status == 201
    beside(length)
    answer = await WAYS[way](caller)
    detail = answer.problem(503)["detail"]
    assert "A restore had begun" in detail
    assert "is stored" in detail
    assert int(answer.headers["Retry-After"]) > 0


async def test_what_is_stored_behind_a_restore_is_acknowledged(
    caller: Caller, beside: Beside
) -> None:
    """A restore that has ended by then undoes nothing of it."""
    beside("empty")
    assert (await caller.put("/v1/nodes/x", node("x"))).status == 201


async def test_what_was_not_acknowledged_is_not_when_asked_again(
    caller: Caller, beside: Beside
) -> None:
    """The same Idempotency-Key is carried out anew: the restore may have undone what its first event did."""
    beside("begun")
    for _ in range(2):
        answer = await caller.put("/v1/nodes/x", node("x"), Idempotency_Key="k")
        assert "restore" in answer.problem(503)["detail"]
    part = {"file": "f", "items": [], "remove": [{"kind": "Node", "namespace": "", "name": "x"}]}
    assert (await caller.post("/v1/restore/items", part)).json["removed"] == 1
    await restored(caller, "/end")
    again = await caller.put("/v1/nodes/x", node("x"), Idempotency_Key="k")
    assert again.status == 201
    assert "Idempotency-Replayed" not in again.headers
    assert (await caller.get("/v1/nodes/x")).status == 200


async def test_a_part_of_a_restore_that_was_given_up_is_not_stored(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file that takes its place, and is restored whole, is not changed by what is late of the first."""
    right = Link.append
    assert (await caller.post("/v1/restore", FILE)).status == 200
    async with running_api(nats_server.url) as other:

        async def late(self: Link, writes: Sequence[Append]) -> list[int]:
            monkeypatch.setattr(Link, "append", right)
            instead = {"file": "g", "replace": True, "instead": True}
            assert (await other.post("/v1/restore", instead)).status == 200
            assert (await other.post("/v1/restore/end", {"file": "g"})).status == 200
            return await self.append(writes)

        monkeypatch.setattr(Link, "append", late)
        part = {"file": "f", "items": [node("x"), node("y")]}
        assert (
            "No restore of this file"
            in ((await caller.post("/v1/restore/items", part)).problem(409)["detail"])
        )
        assert await content(other) == []


# ---------------------------------------------------------------- a replica that lags


async def put(one: Lagging, name: str) -> Written:
    """Declare a node."""
    source = Source(actor="a", request_id="r")
    [written] = await one.api.writer.write([Key("Node", "", name)], setter(name), source)
    return written


def setter(name: str) -> Planner:
    """Return what plans that this node is there."""
    key = Key("Node", "", name)
    wanted = Node(api_version="projectcalico.org/v3", metadata=Metadata(name=name))

    def plan(held: dict[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        return [intent.plan_set(key, wanted, held[key], stamp)]

    return plan  # type: ignore[return-value]


@pytest.fixture
async def lagging(
    nats_server: NatsServer, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lagging]:
    """Run one more replica without HTTP, that waits for nothing for long."""
    monkeypatch.setattr(writer, "_READ_OWN_WRITE_S", 0.2)
    await declare(caller, node("h1"), pool())
    async with lagging_api(nats_server.url, caller) as one:
        yield one


async def test_who_does_not_see_its_write_asks_whether_a_restore_had_begun(
    caller: Caller, lagging: Lagging
) -> None:
    """A replica that hears of nothing acknowledges what is stored before a restore, and not what is stored in one."""
    lagging.hold()
    assert (await put(lagging, "x")).word == "created"
    await restored(caller, "")
    with pytest.raises(ApiProblem, match="A restore had begun"):
        await put(lagging, "y")


async def test_what_needs_no_write_is_not_said_to_stand_within_a_restore(
    caller: Caller, lagging: Lagging
) -> None:
    """ "Unchanged" is an acknowledgement, too: not of what a restore that has begun may change."""
    lagging.hold()
    assert (await put(lagging, "h1")).word == "unchanged"
    await restored(caller, "")
    with pytest.raises(ApiProblem, match="A restore has begun"):
        await put(lagging, "h1")
    wanted = Assign(handle="vm1", node="h1", v4=1)
    with pytest.raises(ApiProblem):
        await lagging.api.ipam.carry_out(wanted, actor="a", request_id="r")


async def test_an_end_that_is_asked_for_again_has_ended(caller: Caller) -> None:
    """Who heard no answer asks again, and is told that it has ended; who never began one is refused."""
    await restored(caller, "", "/end", "/end")
    (await caller.post("/v1/restore/end", {"file": "g"})).problem(409)
    assert (await caller.put("/v1/nodes/x", node("x"))).status == 201


async def test_an_empty_store_is_empty_when_the_restore_has_begun(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another replica stores just before is not removed without leave, and nobody is kept from writing."""
    right = Link.append
    async with running_api(nats_server.url) as other:

        async def late(self: Link, writes: Sequence[Append]) -> list[int]:
            monkeypatch.setattr(Link, "append", right)
            assert (await other.put("/v1/nodes/x", node("x"))).status == 201
            return await self.append(writes)

        monkeypatch.setattr(Link, "append", late)
        problem = (await caller.post("/v1/restore", {"file": "f"})).problem(409)
        assert "--replace" in problem["detail"]
        assert (await caller.put("/v1/nodes/y", node("y"))).status == 201


# ---------------------------------------------------------------- the command


async def test_what_was_written_since_it_was_compared_is_said(
    caller: Caller,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What others wrote between the comparison and the beginning is undone by the restore, and named."""
    await caller.put("/v1/nodes/kept", node("kept"))
    file = tmp_path / "b.jsonl"
    await hopwall(caller, "backup", str(file))
    right = restore_command._post

    async def beside(*args: object) -> int:
        if args[1] == "":
            assert (await caller.put("/v1/nodes/late", node("late"))).status == 201
        return int(await right(*args))  # type: ignore[arg-type]

    monkeypatch.setattr(restore_command, "_post", beside)
    capsys.readouterr()
    assert await hopwall(caller, "restore", str(file), "--replace") == 0
    said = capsys.readouterr().out
    assert "others have written since" in said
    assert "remove Node late" in said
    assert (await caller.get("/v1/nodes/late")).status == 404
