"""Backup and restore by the real command against a real API."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hopwall_api import writer
from hopwall_api.ipam import desk
from hopwall_cli import backup_file
from hopwall_cli.client import Client
from hopwall_cli.commands import restore as restore_command
from hopwall_cli.errors import Failure
from hopwall_cli.main import parse
from hopwall_cli.nats_server import NatsServer
from hopwall_model.events import RestoreBegun
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Link
from tests.api.caller import EXAMPLES, PATIENCE_S, Caller, endpoint, node, running_api
from tests.support.ports import free_port

pytestmark = pytest.mark.nats

ASSIGN = {"handle": "vm1", "node": "one", "v4": 1}


async def hopwall(caller: Caller, *argv: str) -> int:
    """Run the command against this API."""
    args = parse(argv)
    client = Client(f"unix://{caller.socket}")
    try:
        return int(await args.run(args, client))
    finally:
        await client.close()


async def content(caller: Caller) -> list[dict[str, Any]]:
    """Return what a backup holds."""
    answer = await caller.get("/v1/backup")
    assert answer.status == 200
    return [json.loads(line) for line in answer.body.splitlines()[1:]]


async def fill(caller: Caller) -> None:
    """Store one of each kind, and assign an address."""
    for path, document in EXAMPLES.values():
        assert (await caller.post(path, document)).status == 201
    assert (await caller.post("/v1/ipam/assign", ASSIGN)).status == 201


async def test_a_backup_restores_into_an_empty_store(
    caller: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All kinds come back as they were, with who is older and which address is whose; status does not."""
    await fill(caller)
    before = await content(caller)
    assert {one["kind"] for one in before} == {*EXAMPLES, "IPAMBlock"}
    file = tmp_path / "b.jsonl"
    assert await hopwall(caller, "backup", str(file)) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    other = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=tmp_path / "other")
    await other.start()
    try:
        async with running_api(other.url) as second:
            assert await hopwall(second, "restore", str(file)) == 0
            assert await content(second) == before
            handle = await second.get("/v1/ipam/handles/vm1")
            assert handle.json["addresses"]
            capsys.readouterr()
            assert await hopwall(second, "restore", str(file), "--replace") == 0
            assert "nothing: the store says" in capsys.readouterr().out
            assert (await second.put("/v1/nodes/two", node("two"))).status == 201
    finally:
        await other.stop()


async def test_a_store_that_holds_something_is_replaced_only_when_told(
    caller: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without leave nothing is written; a dry run says what would be; with leave only the difference is."""
    await caller.put("/v1/nodes/kept", node("kept"))
    await caller.put("/v1/nodes/changed", node("changed"))
    await caller.put("/v1/nodes/lost", node("lost"))
    file = tmp_path / "b.jsonl"
    await hopwall(caller, "backup", str(file))
    before = await content(caller)
    await caller.delete("/v1/nodes/lost")
    await caller.put("/v1/nodes/changed", node("changed", a="b"))
    await caller.put("/v1/nodes/new", node("new"))
    kept = (await caller.get("/v1/nodes/kept")).json["metadata"]["resourceVersion"]
    revision = (await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"]
    with pytest.raises(Exception, match="--replace"):
        await hopwall(caller, "restore", str(file))
    await hopwall(caller, "restore", str(file), "--replace", "--dry-run")
    said = capsys.readouterr().out
    assert "add 1: 1 Node" in said
    assert "remove Node new" in said
    assert (await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"] == revision
    assert await hopwall(caller, "restore", str(file), "--replace") == 0
    assert await content(caller) == before
    assert (await caller.get("/v1/nodes/kept")).json["metadata"]["resourceVersion"] == kept


async def test_a_restore_that_broke_off_holds_writes_until_it_is_gone_on_with(
    caller: Caller, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Half a restore takes no other writes on any way, and the same file ends it, through another replica too."""
    await fill(caller)
    file = tmp_path / "b.jsonl"
    await hopwall(caller, "backup", str(file))
    for i in range(3):
        await caller.put(f"/v1/nodes/more{i}", node(f"more{i}"))
    client = Client(f"unix://{caller.socket}")
    wanted = restore_command._read(str(file), edited=False)
    await restore_command._post(client, "", {"file": wanted.sha256, "replace": True})
    await restore_command._post(
        client,
        "/items",
        {"file": wanted.sha256, "items": [], "remove": [_key("more0")]},
    )
    await client.close()
    refused = [
        await caller.put("/v1/nodes/x", node("x")),
        await caller.post("/v1/apply", {"items": [node("x")]}),
        await caller.delete("/v1/nodes/more1"),
        await caller.post("/v1/ipam/assign", ASSIGN | {"handle": "vm9"}),
        await caller.post("/v1/ipam/release", {"handle": "vm1"}),
    ]
    for answer in refused:
        assert "restore" in answer.problem(503)["detail"]
        assert int(answer.headers["Retry-After"]) > 0
    assert (await caller.get("/v1/nodes/more1")).status == 200
    with pytest.raises(Exception, match="mixture"):
        await hopwall(caller, "backup", str(tmp_path / "no.jsonl"))
    async with running_api(nats_server.url) as second:
        assert (await second.put("/v1/nodes/x", node("x"))).status == 503
        assert await hopwall(second, "restore", str(file), "--replace") == 0
        assert (await second.put("/v1/nodes/x", node("x"))).status == 201
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.put("/v1/nodes/y", node("y"))).status != 201:
            await asyncio.sleep(0.05)
    assert (await caller.get("/v1/nodes/more1")).status == 404


def _key(name: str) -> dict[str, str]:
    return {"kind": "Node", "namespace": "", "name": name}


async def test_two_restores_exclude_each_other(caller: Caller, link: Link) -> None:
    """Of two files one is restored; the other has to be told that it takes its place."""
    first = {"file": "a" * 64}
    assert (await caller.post("/v1/restore", first)).status == 200
    assert (await caller.post("/v1/restore", first)).status == 200
    other = {"file": "b" * 64, "replace": True}
    (await caller.post("/v1/restore", other)).problem(409)
    (await caller.post("/v1/restore/end", {"file": "b" * 64})).problem(409)
    (await caller.post("/v1/restore/items", {"file": "b" * 64, "items": []})).problem(409)
    assert (await caller.post("/v1/restore", other | {"instead": True})).status == 200
    last = await link.last("hopwall.event.restore._.current")
    assert isinstance(last, Record)
    assert isinstance(last.event, RestoreBegun)
    assert last.event.file == "b" * 64
    assert (await caller.post("/v1/restore/end", {"file": "b" * 64})).status == 200


async def test_a_file_with_a_bad_resource_is_refused_before_it_is_begun(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is kept from writing by a file that cannot be stored; where only the API finds it out, that is said."""
    await fill(caller)
    file = tmp_path / "b.jsonl"
    await hopwall(caller, "backup", str(file))
    file.write_text(file.read_text().replace('"10.65.0.21/32"', '"no address"'))
    for more in (["--dry-run"], ["--replace"]):
        with pytest.raises(
            Failure, match=r"nothing is begun:\nWorkloadEndpoint .*/spec/ipNetworks/0"
        ):
            await hopwall(caller, "restore", str(file), "--edited", *more)
        assert (await caller.put("/v1/nodes/x", node("x"))).status in (200, 201)
    monkeypatch.setattr(backup_file, "faults", lambda _: [])
    with pytest.raises(
        Failure, match=r"ipNetworks.*\nThe restore has begun and is not ended.*--instead"
    ):
        await hopwall(caller, "restore", str(file), "--edited", "--replace")
    (await caller.put("/v1/nodes/y", node("y"))).problem(503)


async def test_a_bad_part_stores_nothing(caller: Caller) -> None:
    """A part with one resource that is refused is refused whole, and says where."""
    await caller.post("/v1/restore", {"file": "a"})
    bad = endpoint("bad", address="no address")
    answer = await caller.post("/v1/restore/items", {"file": "a", "items": [node("x"), bad]})
    assert answer.problem(422)["errors"][0]["pointer"].startswith("/items/1/")
    assert await content(caller) == []
    (await caller.post("/v1/restore", {"no": 1})).problem(422)


async def test_marks_do_not_disturb_reads_and_addresses(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that are no resources count as revisions: nothing waits for them in vain."""
    monkeypatch.setattr(desk, "_SEE_S", 2 * PATIENCE_S)
    monkeypatch.setattr(writer, "_READ_OWN_WRITE_S", 2 * PATIENCE_S)
    await fill(caller)
    await caller.post("/v1/restore", {"file": "a", "replace": True})
    await caller.post("/v1/restore/end", {"file": "a"})
    async with asyncio.timeout(PATIENCE_S):
        answer = await caller.post("/v1/ipam/assign", ASSIGN)
        assert answer.status == 200


async def test_the_document_says_what_a_backup_is(caller: Caller) -> None:
    """JSON lines, by the media type it has."""
    answers = (await caller.get("/openapi.json")).json["paths"]["/v1/backup"]["get"]["responses"]
    assert list(answers["200"]["content"]) == ["application/jsonl"]
