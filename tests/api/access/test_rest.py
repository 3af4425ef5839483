"""Roles on a running API: who is let in, what is refused, what is shown, what is recorded."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hopwall_api.access.tokens import write_tokens
from hopwall_api.routes import all_routes
from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki import tokens
from hopwall_model import topics
from hopwall_model.resources import Key
from hopwall_model.status import Refusal
from hopwall_runtime.link import Link
from tests.api.caller import (
    PATIENCE_S,
    Answer,
    Caller,
    Doc,
    calc_status,
    endpoint,
    host_status,
    node,
    running_api,
    say,
)

pytestmark = pytest.mark.nats

WHO = {
    "admin": ("admin", ()),
    "anna": ("editor", ("a",)),
    "ed": ("editor", ()),
    "rita": ("reader", ()),
    "ra": ("reader", ("a",)),
    "otto": ("auditor", ()),
}
SET_A, SET_B = (f"/v1/namespaces/{ns}/networksets/s" for ns in "ab")


class Guarded:
    """A running API with tokens, and callers by name."""

    def __init__(self, caller: Caller, path: Path, secret: dict[str, str]) -> None:
        self.caller = caller
        self.path = path
        self.secret = secret

    def header(self, who: str) -> dict[str, str]:
        """Return the header of a caller."""
        return {"Authorization": f"Bearer {self.secret[who]}"}

    async def ask(self, who: str, method: str, path: str, body: Any = None, **more: str) -> Answer:
        """Send one request as somebody."""
        patch = "application/merge-patch+json"
        type_ = patch if method == "PATCH" else "application/json"
        headers = {**self.header(who), **{k.replace("_", "-"): v for k, v in more.items()}}
        return await self.caller.ask(method, path, body, headers=headers, type_=type_)


@pytest.fixture
async def api(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Guarded]:
    """Run an API with a token for each of WHO, and something in two namespaces."""
    path = tmp_path / "tokens.json"
    path.write_bytes(write_tokens([]))
    secret = {who: tokens.create(path, who, *what) for who, what in WHO.items()}
    async with running_api(nats_server.url, tokens_file=str(path)) as caller:
        guarded = Guarded(caller, path, secret)
        pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.65.0.0/16"}}
        items = [pool, node("h1"), network_set("a"), network_set("b")]
        assert (await guarded.ask("admin", "POST", "/v1/apply", items)).status == 200
        yield guarded


def network_set(namespace: str, name: str = "s") -> Doc:
    """Return a set of a namespace."""
    metadata = {"name": name, "namespace": namespace}
    return {"kind": "NetworkSet", "metadata": metadata, "spec": {"nets": ["192.0.2.0/24"]}}


def in_a(document: Doc) -> Doc:
    """Return the document moved to namespace a."""
    return {**document, "metadata": {**document["metadata"], "namespace": "a"}}


async def test_every_guarded_route_asks_for_a_token(api: Guarded) -> None:
    """Without one, or with a wrong one, it is 401 before anything else is looked at."""
    open_ = set()
    for route in all_routes():
        path = route.path.replace("{", "").replace("}", "")
        bare = await api.caller.ask(route.method, path)
        if route.need is None:
            open_.add(route.path)
            assert bare.status == 200
            continue
        bare.problem(401)
        assert bare.headers["WWW-Authenticate"].startswith("Bearer")
    assert open_ == {"/version", "/readyz"}
    for path in ("/livez", "/openapi.json"):
        assert (await api.caller.get(path)).status == 200
    (await api.caller.get("/metrics")).problem(401)
    assert (await api.ask("otto", "GET", "/metrics")).status == 200


async def test_a_wrong_token_is_refused_and_soon_slowed(api: Guarded) -> None:
    """401, after twenty tries in a minute 429; a right token passes all the same."""
    wrong = {"Authorization": f"Bearer {api.secret['admin'][:-1]}x"}
    statuses = [(await api.caller.get("/v1/nodes", **wrong)).status for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert (await api.ask("admin", "GET", "/v1/nodes")).status == 200


@pytest.mark.parametrize(
    ("who", "method", "path", "body", "status"),
    [
        ("anna", "PUT", SET_A, network_set("a"), 200),
        ("anna", "PUT", SET_B, network_set("b"), 403),
        ("anna", "POST", "/v1/namespaces/b/networksets", network_set("b", "n"), 403),
        ("anna", "PATCH", SET_B, {"metadata": {"labels": {"x": "y"}}}, 403),
        ("anna", "DELETE", SET_B, None, 403),
        ("anna", "GET", SET_B, None, 403),
        ("anna", "GET", "/v1/namespaces/b/networksets/absent", None, 403),
        ("anna", "GET", SET_A, None, 200),
        ("anna", "GET", "/v1/namespaces/b/networksets", None, 403),
        ("anna", "GET", "/v1/ippools/p", None, 200),
        ("anna", "GET", "/v1/nodes/h1", None, 403),
        ("anna", "PUT", "/v1/nodes/h1", node("h1"), 403),
        ("anna", "DELETE", "/v1/ippools/p", None, 403),
        ("anna", "GET", "/v1/hosts", None, 403),
        ("anna", "GET", "/v1/hosts/h1/rules", None, 403),
        ("anna", "GET", "/v1/ipam/blocks", None, 403),
        ("anna", "POST", "/v1/ipam/assign", {"handle": "x", "node": "h1", "v4": 1}, 403),
        ("anna", "GET", "/v1/ipamblocks", None, 403),
        ("ed", "PUT", SET_B, network_set("b"), 200),
        ("ed", "PUT", "/v1/nodes/h1", node("h1"), 403),
        ("ed", "POST", "/v1/ipam/assign", {"handle": "x", "node": "h1", "v4": 1}, 201),
        ("rita", "GET", SET_B, None, 200),
        ("rita", "GET", "/v1/nodes/h1", None, 200),
        ("rita", "PUT", SET_A, network_set("a"), 403),
        ("rita", "DELETE", SET_A, None, 403),
        ("rita", "POST", "/v1/apply", [network_set("a")], 403),
        ("rita", "POST", "/v1/ipam/release", {"handle": "x"}, 403),
        ("ra", "GET", SET_A, None, 200),
        ("ra", "GET", SET_B, None, 403),
        ("otto", "GET", SET_B, None, 200),
        ("otto", "GET", "/v1/hosts", None, 200),
        ("otto", "GET", "/v1/hosts/h1/rules", None, 403),
        ("otto", "PUT", SET_A, network_set("a"), 403),
    ],
)
async def test_who_may_what(
    api: Guarded, who: str, method: str, path: str, body: Any, status: int
) -> None:
    """The table holds for requests too; a refusal is a problem that names what is lacking."""
    answer = await api.ask(who, method, path, body)
    assert answer.status == status, answer.body
    if status == 403:
        assert f"{who} (" in answer.problem(403)["detail"]
        assert (await api.ask("admin", "GET", SET_A)).json["metadata"]["generation"] == 1


async def test_a_bulk_is_refused_for_one_item(api: Guarded) -> None:
    """Each item is checked, each that is not the caller's is named, and nothing is stored."""
    items = [network_set("a", "n1"), network_set("b", "n2"), node("h2"), network_set("a", "n3")]
    problem = (await api.ask("anna", "POST", "/v1/apply", items)).problem(403)
    assert [one["pointer"] for one in problem["errors"]] == ["/1", "/2"]
    (await api.ask("admin", "GET", "/v1/namespaces/a/networksets/n1")).problem(404)
    problem = (
        await api.ask("anna", "POST", "/v1/apply?dryRun=All", {"items": items[1:2]})
    ).problem(403)
    assert problem["errors"][0]["pointer"] == "/items/0"
    good = await api.ask("anna", "POST", "/v1/apply", [items[0], items[3]])
    assert good.status == 200


async def test_an_editor_cannot_take_what_is_not_his_to_give(api: Guarded) -> None:
    """Addresses of no pool, other sources and the admin's tiers, by every verb."""
    place = "/v1/namespaces/a/workloadendpoints/e"
    good = in_a(endpoint("e"))
    bad = in_a(endpoint("e", address="198.51.100.1"))
    (await api.ask("anna", "PUT", place, bad)).problem(403)
    (await api.ask("anna", "PUT", place + "?dryRun=All", bad)).problem(403)
    problem = (await api.ask("anna", "POST", "/v1/apply", [network_set("a"), bad])).problem(403)
    assert problem["errors"][0]["pointer"] == "/1"
    assert (await api.ask("anna", "PUT", place, good)).status == 201
    spoof = {"spec": {"allowSpoofedSourcePrefixes": ["0.0.0.0/0"]}}
    (await api.ask("anna", "PATCH", place, spoof)).problem(403)
    tier = {"kind": "Tier", "metadata": {"name": "ops"}, "spec": {"order": 1}}
    policy = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "ops.p", "namespace": "a"},
        "spec": {"tier": "ops"},
    }
    assert (await api.ask("admin", "POST", "/v1/apply", [tier, policy])).status == 200
    (await api.ask("anna", "DELETE", "/v1/namespaces/a/networkpolicies/ops.p")).problem(403)
    assert (await api.ask("admin", "PUT", place, bad)).status == 200


async def test_lists_show_what_the_caller_reads(api: Guarded) -> None:
    """A list over all namespaces has only the caller's, whole and in pages."""
    for who, names in (("anna", ["a"]), ("ra", ["a"]), ("ed", ["a", "b"]), ("otto", ["a", "b"])):
        for query in ("", "?limit=1", "?limit=5"):
            found: list[str] = []
            path = f"/v1/networksets{query}"
            while path:
                page = (await api.ask(who, "GET", path)).json
                found += [item["metadata"]["namespace"] for item in page["items"]]
                token = page["metadata"].get("continue")
                path = f"/v1/networksets{query}&continue={token}" if token else ""
            assert found == names, (who, query)


async def events(
    api: Guarded, who: str, path: str, n: int, action: Any = None
) -> list[tuple[str, Doc]]:
    """Return the first `n` events of a watch, or all until it ends; `action` runs after the bookmark."""
    found: list[tuple[str, Doc]] = []
    headers = {**api.header(who), "Accept": "text/event-stream"}
    async with (
        asyncio.timeout(PATIENCE_S),
        api.caller.session.get(f"http://api{path}", headers=headers) as response,
    ):
        assert response.status == 200
        word = ""
        async for line in response.content:
            if line.startswith(b"event: "):
                word = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                found.append((word, json.loads(line[6:])))
                if word == "bookmark" and action is not None:
                    await action()
                    action = None
                if len(found) == n:
                    break
    return found


async def test_watches_show_what_the_caller_reads(api: Guarded) -> None:
    """Neither what is there, nor a change, nor a removal of another namespace is sent."""

    async def change() -> None:
        for namespace in "ba":
            await api.ask("admin", "DELETE", f"/v1/namespaces/{namespace}/networksets/s")
            place = f"/v1/namespaces/{namespace}/networksets/t"
            await api.ask("admin", "PUT", place, network_set(namespace, "t"))

    found = await events(api, "anna", "/v1/networksets?watch=true", 4, change)
    assert [word for word, _ in found] == ["set", "bookmark", "removed", "set"]
    assert {doc["metadata"]["namespace"] for word, doc in found if word != "bookmark"} == {"a"}


async def test_a_revoked_token_ends_at_once(api: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second it is 401, and the watches it opened are told and closed."""
    monkeypatch.setattr("hopwall_api.watch.ADMIT_S", 0.2)

    async def revoke() -> None:
        tokens.revoke(api.path, ["otto"])

    found = await events(api, "otto", "/v1/networksets?watch=true", 99, revoke)
    assert [word for word, _ in found] == ["set", "set", "bookmark", "error"]
    assert found[-1][1]["status"] == 401
    (await api.ask("otto", "GET", "/v1/networksets")).problem(401)


@pytest.mark.parametrize("how", ["broken", "gone"])
async def test_a_list_that_cannot_be_read_admits_nobody(api: Guarded, how: str) -> None:
    """A broken or missing list closes the API, and one that is right again opens it."""
    good = api.path.read_bytes()
    if how == "broken":
        api.path.write_bytes(good[: len(good) // 2])
    else:
        api.path.unlink()
    await asyncio.sleep(1.1)
    (await api.ask("admin", "GET", "/v1/networksets")).problem(401)
    api.path.write_bytes(good)
    await asyncio.sleep(1.1)
    assert (await api.ask("admin", "GET", "/v1/networksets")).status == 200


async def test_who_wrote_is_recorded(api: Guarded, link: Link) -> None:
    """The event bears the name of the token."""
    await api.ask("anna", "PUT", SET_A, network_set("a"))
    await api.ask("anna", "PATCH", SET_A, {"metadata": {"labels": {"x": "y"}}})
    record = await link.last(topics.event_subject(Key("NetworkSet", "a", "s")))
    assert record is not None
    assert record.headers["ce-actor"] == "anna@local"  # type: ignore[union-attr]


async def test_an_idempotency_key_is_its_callers_own(api: Guarded) -> None:
    """Another caller's request with the same key neither meets it nor sees its answer."""
    first = await api.ask("anna", "PUT", SET_A, network_set("a"), Idempotency_Key="k")
    assert first.status == 200
    again = await api.ask("anna", "PUT", SET_A, network_set("a"), Idempotency_Key="k")
    assert again.headers.get("Idempotency-Replayed") == "true"
    other = await api.ask("ed", "PUT", SET_B, network_set("b"), Idempotency_Key="k")
    assert other.status == 200
    assert "Idempotency-Replayed" not in other.headers


async def test_a_refused_caller_is_refused_before_his_body(api: Guarded) -> None:
    """A large body of who may not write is not waited for."""
    _, writer = reader_writer = await asyncio.open_unix_connection(api.caller.socket)
    reader = reader_writer[0]
    head = (
        f"PUT /v1/nodes/h1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {api.secret['rita']}\r\nContent-Length: 1000000\r\n\r\n"
    )
    writer.write(head.encode())
    # A body that does not come is waited for half a minute, where it is waited for.
    async with asyncio.timeout(20):
        received = await reader.readuntil(b"\r\n")
    assert b" 403 " in received
    writer.close()


async def test_the_document_says_what_is_guarded(api: Guarded) -> None:
    """Each operation but the open ones names the token and its refusals."""
    document = (await api.caller.get("/openapi.json")).json
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            guarded = path not in ("/livez", "/readyz", "/version", "/openapi.json")
            assert ("security" in operation) == guarded
            assert ({"401", "403"} <= set(operation["responses"])) == guarded


async def test_sessions_of_two_callers_do_not_mix(api: Guarded) -> None:
    """Who calls is decided for each request, not for a connection."""
    connector = aiohttp.UnixConnector(api.caller.socket, limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        for who, status in (("admin", 200), ("anna", 403), ("", 401), ("admin", 200)):
            headers = api.header(who) if who else {}
            async with session.get("http://api/v1/nodes/h1", headers=headers) as response:
                assert response.status == status


async def test_the_status_of_ones_own_names_nobody_else(api: Guarded, link: Link) -> None:
    """Who takes an address that another namespace has is told so when it waits and when it looks, not by whom."""
    path = "/v1/namespaces/a/workloadendpoints/mine"
    mine = in_a(endpoint("mine"))
    made = await api.ask("anna", "PUT", path, mine)
    assert made.status == 201, made.body
    revision = int(made.json["metadata"]["resourceVersion"])
    reason = "It is that of endpoint b/secret, which is older; remove it from one of them."
    refused = (Refusal(object="address 10.65.0.21/32 of endpoint a/mine", reason=reason),)
    host = host_status("h1", revision, refused=refused)
    await say(link, calc_status(0, revision, "h1"), host)
    async with asyncio.timeout(PATIENCE_S):
        while not (admins := (await api.ask("admin", "GET", path)).json["status"])["laggards"]:
            await asyncio.sleep(0.01)
    assert "b/secret" in admins["laggards"][0]["reason"]
    same = await api.ask("anna", "PUT", f"{path}?wait=programmed&timeout=1s", mine)
    for answer in (same, await api.ask("anna", "GET", path)):
        (late,) = answer.json["status"]["laggards"]
        assert "that of an endpoint of another namespace, which is older" in late["reason"]
        assert b"secret" not in answer.body
