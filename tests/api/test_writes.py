"""Writing through HTTP: each kind, each header, races, all-or-none, refusals."""

import asyncio
import json
from typing import Any

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_model.resource_names import MAX_RESOURCE_BYTES
from hopwall_model.resources import Key
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Append, Link
from tests.api.caller import (
    ENDPOINTS,
    EXAMPLES,
    PATIENCE_S,
    Caller,
    Doc,
    endpoint,
    node,
    running_api,
)

pytestmark = pytest.mark.nats


async def revision(caller: Caller) -> int:
    """Return the revision that reads show: it grows with every stored event."""
    return int((await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"])


# ---------------------------------------------------------------- one resource


@pytest.mark.parametrize("kind", EXAMPLES)
async def test_each_kind_is_created_read_changed_listed_and_removed(
    caller: Caller, kind: str
) -> None:
    """Every kind goes through the same life, and each step is seen at once."""
    collection, document = EXAMPLES[kind]
    path = f"{collection}/{document['metadata']['name']}"
    made = await caller.post(collection, document)
    assert made.status == 201, made.body
    assert made.headers["Location"] == path
    assert made.json["metadata"]["generation"] == 1
    read = await caller.get(path)
    assert read.status == 200
    assert read.headers["ETag"] == made.headers["ETag"] == '"1"'
    assert read.json["metadata"]["uid"] == made.json["metadata"]["uid"]
    assert read.json["apiVersion"] == "projectcalico.org/v3"
    changed = await caller.patch(path, {"metadata": {"labels": {"a": "b"}}})
    assert changed.status == 200, changed.body
    assert changed.json["metadata"]["generation"] == 2
    assert changed.json["metadata"]["uid"] == made.json["metadata"]["uid"]
    assert changed.json["metadata"]["creationTimestamp"]
    listed = (await caller.get(collection)).json
    assert listed["kind"] == f"{kind}List"
    assert [one["metadata"]["labels"] for one in listed["items"]] == [{"a": "b"}]
    gone = await caller.delete(path)
    assert gone.status == 200
    assert gone.json["revision"] == "3"
    (await caller.get(path)).problem(404)
    (await caller.delete(path)).problem(404)
    again = await caller.put(path, document)
    assert again.status == 201
    assert again.json["metadata"]["uid"] != made.json["metadata"]["uid"]


async def test_put_creates_replaces_and_leaves_alone_what_is_equal(caller: Caller) -> None:
    """PUT answers 201, 200, and 200 without a new event when nothing changes."""
    assert (await caller.put("/v1/nodes/a", node("a"))).status == 201
    changed = await caller.put("/v1/nodes/a", node("a", x="1"))
    assert (changed.status, changed.json["metadata"]["resourceVersion"]) == (200, "2")
    same = await caller.put("/v1/nodes/a", node("a", x="1"))
    assert (same.status, same.headers["ETag"]) == (200, '"2"')
    assert await revision(caller) == 2


async def test_what_was_read_can_be_put_back(caller: Caller) -> None:
    """A document as it was read, status and all, is accepted and changes nothing."""
    await caller.put("/v1/nodes/a", node("a"))
    read = (await caller.get("/v1/nodes/a")).json
    assert (await caller.put("/v1/nodes/a", read)).status == 200
    assert await revision(caller) == 1


async def test_post_refuses_what_exists(caller: Caller) -> None:
    """POST creates, and nothing else."""
    await caller.post("/v1/nodes", node("a"))
    (await caller.post("/v1/nodes", node("a", x="1"))).problem(409)
    assert await revision(caller) == 1


async def test_put_without_a_name_takes_it_from_the_url(caller: Caller) -> None:
    """Name and namespace may be left out of the body, and may not differ."""
    document = endpoint("vm1")
    document["metadata"] = {}
    assert (await caller.put(f"{ENDPOINTS}/vm1", document)).status == 201
    other = (await caller.put(f"{ENDPOINTS}/vm2", endpoint("vm1"))).problem(422)
    assert other["errors"][0]["pointer"] == "/metadata/name"


async def test_if_match_decides(caller: Caller) -> None:
    """If-Match with the current ETag writes; with another, or where nothing is, 412."""
    path = "/v1/nodes/a"
    (await caller.put(path, node("a"), If_Match="*")).problem(412)
    await caller.put(path, node("a"))
    assert (await caller.put(path, node("a", x="1"), If_Match='"1"')).status == 200
    (await caller.put(path, node("a", x="2"), If_Match='"1"')).problem(412)
    (await caller.patch(path, {"metadata": {"labels": {}}}, If_Match='"1"')).problem(412)
    (await caller.delete(path, If_Match='"1"')).problem(412)
    (await caller.delete(path, If_Match="2")).problem(400)
    assert (await caller.delete(path, If_Match='"1", "2"')).status == 200


async def test_if_none_match_star_creates_only(caller: Caller) -> None:
    """If-None-Match: * refuses what exists with 412."""
    assert (await caller.put("/v1/nodes/a", node("a"), If_None_Match="*")).status == 201
    (await caller.put("/v1/nodes/a", node("a", x="1"), If_None_Match="*")).problem(412)
    (await caller.put("/v1/nodes/a", node("a"), If_None_Match='"1"')).problem(400)


async def test_resource_version_in_the_body_acts_like_if_match(caller: Caller) -> None:
    """A stale resourceVersion is 409."""
    await caller.put("/v1/nodes/a", node("a"))
    document = node("a", x="1")
    document["metadata"]["resourceVersion"] = "1"
    assert (await caller.put("/v1/nodes/a", document)).status == 200
    document["metadata"]["labels"]["x"] = "2"
    (await caller.put("/v1/nodes/a", document)).problem(409)
    stale: Doc = {"metadata": {"resourceVersion": "1", "labels": {"x": "3"}}}
    (await caller.patch("/v1/nodes/a", stale)).problem(409)


async def test_a_merge_patch_removes_by_null_and_replaces_lists(caller: Caller) -> None:
    """RFC 7396 on a resource; what results is validated."""
    await caller.put(f"{ENDPOINTS}/vm1", endpoint("vm1", a="1", b="2"))
    change: Doc = {
        "metadata": {"labels": {"a": None, "c": "3"}},
        "spec": {"ipNetworks": ["10.65.0.9"]},
    }
    changed = (await caller.patch(f"{ENDPOINTS}/vm1", change)).json
    assert changed["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert changed["spec"]["ipNetworks"] == ["10.65.0.9/32"]
    bad = (await caller.patch(f"{ENDPOINTS}/vm1", {"spec": {"node": None}})).problem(422)
    assert bad["errors"][0]["pointer"] == "/spec/node"
    (await caller.patch("/v1/nodes/absent", {"metadata": {}})).problem(404)
    renamed = {"metadata": {"name": "vm2"}}
    (await caller.patch(f"{ENDPOINTS}/vm1", renamed)).problem(422)


async def test_dry_run_answers_as_if_and_stores_nothing(caller: Caller) -> None:
    """dryRun=All validates and shows the result; the stream does not grow."""
    made = await caller.put("/v1/nodes/a?dryRun=All", node("a"))
    assert (made.status, made.headers["Hopwall-Dry-Run"]) == (201, "All")
    assert "ETag" not in made.headers
    (await caller.get("/v1/nodes/a")).problem(404)
    (await caller.put("/v1/nodes/a?dryRun=All", {"bad": 1})).problem(422)
    (await caller.delete("/v1/nodes/a?dryRun=All")).problem(404)
    bulk = await caller.post("/v1/apply?dryRun=All", [node("a")])
    assert bulk.json["dryRun"] is True
    assert bulk.json["items"][0]["result"] == "created"
    (await caller.put("/v1/nodes/a?dryrun=All", node("a"))).problem(400)
    (await caller.put("/v1/nodes/a?dryRun=yes", node("a"))).problem(400)
    assert await revision(caller) == 0


async def test_every_event_is_a_cloud_event(caller: Caller, link: Link) -> None:
    """The headers say who, when, what, and in which request."""
    await caller.put("/v1/nodes/a", node("a"), X_Request_Id="req-7")
    record = await link.last(topics.event_subject(Key("Node", "", "a")))
    assert isinstance(record, Record)
    headers = record.headers
    assert headers["ce-specversion"] == "1.0"
    assert len(headers["ce-id"]) == 36
    assert headers["ce-source"] == "/hopwall/api"
    assert headers["ce-type"] == "hopwall.resource.set.v1"
    assert headers["ce-subject"] == "/v1/nodes/a"
    assert headers["ce-actor"].startswith("anonymous@")
    assert headers["ce-requestid"] == "req-7"
    assert headers["ce-time"].endswith("Z")


async def test_stored_bodies_bear_no_resource_version(caller: Caller, link: Link) -> None:
    """The revision is the stream's; uid, generation and creation are in the body."""
    await caller.put("/v1/nodes/a", node("a"))
    record = await link.last(topics.event_subject(Key("Node", "", "a")))
    assert isinstance(record, Record)
    metadata = record.event.resource.metadata  # type: ignore[union-attr]  # it is a ResourceSet
    assert metadata.resource_version is None
    assert metadata.uid
    assert metadata.generation == 1
    assert metadata.creation_timestamp


# ---------------------------------------------------------------- races


async def test_eight_writers_with_if_match_lose_no_increment(caller: Caller) -> None:
    """Read, add one, write if unchanged, else again: no update is lost."""
    await caller.put("/v1/nodes/a", node("a", n="0"))

    async def increment() -> None:
        for _ in range(5):
            while True:
                read = await caller.get("/v1/nodes/a")
                labels = {"n": str(int(read.json["metadata"]["labels"]["n"]) + 1)}
                answer = await caller.put(
                    "/v1/nodes/a", node("a", **labels), If_Match=read.headers["ETag"]
                )
                if answer.status == 200:
                    break
                answer.problem(412)

    await asyncio.gather(*(increment() for _ in range(8)))
    assert (await caller.get("/v1/nodes/a")).json["metadata"]["labels"] == {"n": "40"}


async def test_racing_patches_are_all_kept(caller: Caller, nats_server: NatsServer) -> None:
    """Patches of different labels through two APIs at once are retried inside, and none is lost."""
    await caller.put("/v1/nodes/a", node("a"))
    async with running_api(nats_server.url) as other:

        async def write(via: Caller, label: str) -> None:
            change = {"metadata": {"labels": {label: "1"}}}
            answer = await via.patch("/v1/nodes/a", change)
            assert answer.status == 200, answer.body

        await asyncio.gather(
            *(write((caller, other)[i % 2], f"l{i}") for i in range(16)),
        )
        async with asyncio.timeout(PATIENCE_S):  # the last write may have been the other's
            while (read := (await caller.get("/v1/nodes/a")).json["metadata"])["generation"] < 17:
                await asyncio.sleep(0.01)
    assert set(read["labels"]) == {f"l{i}" for i in range(16)}
    assert read["generation"] == 17


async def test_racing_creates_have_one_winner(caller: Caller) -> None:
    """Of many POSTs of one name exactly one is 201, the others 409."""
    answers = await asyncio.gather(
        *(caller.post("/v1/nodes", node("a", n=str(i))) for i in range(8))
    )
    assert sorted(a.status for a in answers) == [201] + [409] * 7


async def test_another_replicas_write_is_never_overlooked(
    caller: Caller, nats_server: NatsServer
) -> None:
    """A precondition is checked on what the server holds, not on a copy that may lag."""
    async with running_api(nats_server.url) as other:
        for i in range(20):
            via, back = (caller, other) if i % 2 else (other, caller)
            made = await via.put("/v1/nodes/a", node("a", n=str(i)))
            assert made.status in (200, 201)
            tag = made.headers["ETag"]
            answer = await back.put("/v1/nodes/a", node("a", n=f"{i}b"), If_Match=tag)
            assert answer.status == 200, answer.body


# ---------------------------------------------------------------- bulk


async def test_apply_says_what_became_of_each_item(caller: Caller) -> None:
    """created, configured, unchanged, in order; only changes become events."""
    await caller.post("/v1/apply", {"items": [node("a"), node("b")]})
    answer = await caller.post(
        "/v1/apply",
        {"kind": "List", "apiVersion": "v1", "items": [node("c"), node("a"), node("b", x="1")]},
    )
    assert answer.status == 200, answer.body
    items = answer.json["items"]
    assert [i["result"] for i in items] == ["created", "unchanged", "configured"]
    assert [i["resourceVersion"] for i in items] == ["3", "1", "4"]
    assert await revision(caller) == 4
    assert (await caller.post("/v1/apply", [])).json["items"] == []


async def test_apply_stores_a_thousand_or_none(caller: Caller) -> None:
    """A thousand resources are one atomic batch; one more is refused with a sentence."""
    items = [node(f"n{i:04}") for i in range(1000)]
    assert (await caller.post("/v1/apply", items)).status == 200
    assert await revision(caller) == 1000
    problem = (await caller.post("/v1/apply", [*items, node("more")])).problem(413)
    assert "1000" in problem["detail"]


async def test_one_bad_item_stores_nothing_and_all_are_named(caller: Caller) -> None:
    """Every fault of every item has its pointer, and nothing is stored."""
    bad = endpoint("vm1")
    bad["spec"]["ipNetworks"] = ["10.65.0.300"]
    bad["spec"]["colour"] = "red"
    twice = node("a")
    answer = await caller.post("/v1/apply", {"items": [node("a"), bad, {"kind": "Hat"}, twice]})
    errors = answer.problem(422)["errors"]
    pointers = {error["pointer"] for error in errors}
    assert {"/items/1/spec/colour", "/items/2/kind", "/items/3"} <= pointers
    assert await revision(caller) == 0


async def test_a_conflicting_item_stores_nothing(caller: Caller) -> None:
    """A resourceVersion that does not hold refuses the whole batch."""
    await caller.put("/v1/nodes/a", node("a"))
    stale = node("a", x="1")
    stale["metadata"]["resourceVersion"] = "7"
    (await caller.post("/v1/apply", [node("b"), stale, node("c")])).problem(409)
    assert await revision(caller) == 1


async def test_racing_applies_keep_each_batch_whole(caller: Caller) -> None:
    """Batches over the same resources exclude each other: all show the same winner."""

    async def apply(mark: str) -> None:
        answer = await caller.post("/v1/apply", [node(f"n{i}", by=mark) for i in range(20)])
        assert answer.status == 200, answer.body

    await asyncio.gather(*(apply(f"w{i}") for i in range(5)))
    items = (await caller.get("/v1/nodes")).json["items"]
    assert len(items) == 20
    assert len({one["metadata"]["labels"]["by"] for one in items}) == 1


# ---------------------------------------------------------------- what is refused

DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no json": (b"{", 400),
    "no utf-8": (b'{"metadata":{"name":"\xff"}}', 400),
    "nan": (b'{"metadata":{"name":"a"},"spec":NaN}', 400),
    "a list": (b"[]", 422),
    "a text": (b'"x"', 422),
    "null": (b"null", 422),
    "deep": (DEEP, 422),
    "twice": (b'{"metadata":{"name":"a","name":"a"}}', 422),
    "half a surrogate": (b'{"metadata":{"name":"a","labels":{"x":"\\ud800"}}}', 422),
    "a huge number": (b'{"metadata":{"name":"a","generation":1e999}}', 422),
    "metadata is a list": (b'{"metadata":[]}', 422),
    "unknown field": (b'{"metadata":{"name":"a"},"colour":1}', 422),
    "unknown kind": (b'{"kind":"Hat","metadata":{"name":"a"}}', 422),
    "another kind": (b'{"kind":"Tier","metadata":{"name":"a"}}', 422),
    "another name": (b'{"metadata":{"name":"b"}}', 422),
    "another api": (b'{"apiVersion":"v2","metadata":{"name":"a"}}', 422),
    "a namespace": (b'{"metadata":{"name":"a","namespace":"x"}}', 422),
    "a bad label": (b'{"metadata":{"name":"a","labels":{"x y":"1"}}}', 422),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_is_a_problem_and_stores_nothing(caller: Caller, case: str) -> None:
    """Whatever is sent, the answer is a 4xx problem and the stream does not grow."""
    data, status = BAD_BODIES[case]
    answer = await caller.ask("PUT", "/v1/nodes/a", data=data)
    assert answer.status in (status, 400, 422), answer.body
    answer.problem(answer.status)
    patched = await caller.ask(
        "PATCH", "/v1/nodes/a", data=data, type_="application/merge-patch+json"
    )
    assert patched.status in (400, 404, 422), patched.body
    applied = await caller.ask("POST", "/v1/apply", data=b'{"items":[' + data + b"]}")
    alone = case in ("nothing", "another kind", "another name")
    assert applied.status in (400, 422) or alone, applied.body
    assert await revision(caller) == 0 or alone


async def test_names_that_no_resource_may_have_are_refused(caller: Caller) -> None:
    """Names out of the URL pass the same validation."""
    for name in ("A", "a_b", "-a", "a" * 300, "a%00b", "%2e%2e", "%f0%9f%98%80", "a%20b"):
        answer = await caller.put(f"/v1/nodes/{name}", {})
        assert answer.status in (404, 422), (name, answer.body)
        answer.problem(answer.status)
    assert await revision(caller) == 0


async def test_types_sizes_and_encodings_are_held_to(caller: Caller) -> None:
    """Another media type or a compressed body is 415, too much is 413."""
    body = json.dumps(node("a")).encode()
    for type_ in ("text/plain", "application/yaml", "application/merge-patch+json"):
        (await caller.ask("PUT", "/v1/nodes/a", data=body, type_=type_)).problem(415)
    (await caller.ask("PATCH", "/v1/nodes/a", data=body)).problem(415)
    latin = "application/json; charset=latin-1"
    (await caller.ask("PUT", "/v1/nodes/a", data=body, type_=latin)).problem(415)
    packed = {"Content-Encoding": "gzip"}
    (await caller.ask("PUT", "/v1/nodes/a", data=body, headers=packed)).problem(415)
    large = b" " * (MAX_RESOURCE_BYTES + 1)
    (await caller.ask("PUT", "/v1/nodes/a", data=large)).problem(413)
    assert await revision(caller) == 0


async def test_an_event_that_fits_no_message_is_refused(caller: Caller) -> None:
    """A resource below the body's limit but above NATS' says so in a sentence."""
    document = node("a")
    document["metadata"]["annotations"] = {"x": "y" * 950_000}
    answer = await caller.put("/v1/nodes/a", document)
    assert answer.status in (413, 422)
    assert "bytes" in answer.problem(answer.status)["detail"]


async def test_unknown_paths_and_methods_are_problems_with_hints(caller: Caller) -> None:
    """404 names the plurals, 405 the methods."""
    assert "workloadendpoints" in (await caller.get("/v1/hats")).problem(404)["detail"]
    refused = await caller.post("/v1/workloadendpoints", endpoint("a"))
    assert "namespaces" in refused.problem(405)["detail"]
    assert refused.headers["Allow"] == "GET"
    (await caller.ask("BREW", "/v1/nodes")).problem(400)
    (await caller.delete("/v1/nodes")).problem(405)
    (await caller.get("/v1/nodes?color=red")).problem(400)
    (await caller.get("/v1/nodes/a?limit=1&limit=2")).problem(400)


# ---------------------------------------------------------------- idempotency


async def test_the_same_key_and_request_is_carried_out_once(caller: Caller) -> None:
    """A repeated POST is answered as the first, and makes no second event."""
    first = await caller.post("/v1/nodes", node("a"), Idempotency_Key="k1")
    again = await caller.post("/v1/nodes", node("a"), Idempotency_Key="k1")
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.json == again.json
    assert await revision(caller) == 1
    (await caller.post("/v1/nodes", node("b"), Idempotency_Key="k1")).problem(422)
    (await caller.post("/v1/nodes", node("b"), Idempotency_Key="k 2")).problem(400)


async def test_a_refused_request_does_not_use_up_its_key(caller: Caller) -> None:
    """Only what was stored is remembered."""
    (await caller.post("/v1/nodes", {"bad": 1}, Idempotency_Key="k1")).problem(422)
    assert (await caller.post("/v1/nodes", node("a"), Idempotency_Key="k1")).status == 201


async def test_idempotency_keys_survive_a_restart_and_reach_replicas(
    nats_server: NatsServer,
) -> None:
    """The key is in the event, so whoever folds it knows that the request was carried out."""
    async with running_api(nats_server.url) as caller, running_api(nats_server.url) as other:
        await caller.post("/v1/nodes", node("a"), Idempotency_Key="k1")
        items = [node("b"), node("c")]
        await caller.post("/v1/apply", items, Idempotency_Key="k2")
        await caller.delete("/v1/nodes/c", Idempotency_Key="k3")
        assert (await other.post("/v1/nodes", node("a"), Idempotency_Key="k1")).status == 201
    async with running_api(nats_server.url) as caller:
        again = await caller.post("/v1/nodes", node("a"), Idempotency_Key="k1")
        assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
        many = await caller.post("/v1/apply", items, Idempotency_Key="k2")
        assert (many.status, many.headers["Idempotency-Replayed"]) == (200, "true")
        gone = await caller.delete("/v1/nodes/c", Idempotency_Key="k3")
        assert (gone.status, gone.json["revision"]) == (200, "4")
        (await caller.post("/v1/nodes", node("z"), Idempotency_Key="k1")).problem(422)
        assert await revision(caller) == 4


async def test_racing_requests_of_one_key_store_once(caller: Caller) -> None:
    """Of two at once one is carried out; the other is told to wait, or answered the same."""
    answers = await asyncio.gather(
        *(caller.post("/v1/nodes", node("a"), Idempotency_Key="k") for _ in range(6))
    )
    assert {a.status for a in answers} <= {201, 409}
    assert await revision(caller) == 1


# ---------------------------------------------------------------- a bad message on the bus


async def test_a_bad_message_is_counted_and_can_be_written_over(caller: Caller, link: Link) -> None:
    """Bytes that are no event hurt nobody else, and the next good write goes on top of them."""
    await caller.put("/v1/nodes/a", node("a"))
    bad: list[Any] = []
    await link.subscribe(topics.REJECTED, topics.REJECTED.pattern, lambda v, _: bad.append(v))
    subject = topics.event_subject(Key("Node", "", "a"))
    await link.append([Append(subject=subject, body=b"\xff", expected=1, headers={})])
    assert (await caller.put("/v1/nodes/b", node("b"))).status == 201
    assert (await caller.get("/v1/nodes/a")).status == 200
    assert (await caller.put("/v1/nodes/a", node("a", x="1"))).status == 200
    assert (await caller.get("/v1/nodes/a")).json["metadata"]["labels"] == {"x": "1"}
    await link.flush()
    assert [one.subject for one in bad] == [subject]
    metrics = (await caller.get("/metrics")).body.decode()
    assert "hopwall_api_rejected_messages_total 1.0" in metrics
