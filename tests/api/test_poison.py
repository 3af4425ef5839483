"""Events that came past the API's own checks: they harm themselves alone, and the next good write mends them."""

import asyncio
from typing import Any

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.resources import Key
from hopwall_model.status import Rejected
from hopwall_runtime.follower import Unreadable
from hopwall_runtime.link import Append, Link
from tests.api.caller import (
    ENDPOINTS,
    EXAMPLES,
    PATIENCE_S,
    Caller,
    Doc,
    endpoint,
    node,
    restored,
    running_api,
)

STAMP = {"uid": "f5858145-2104-5d8c-ad81-311be4d477e2", "generation": 1}


def bad(kind: str, name: str, spec: Doc, namespace: str | None = None) -> Doc:
    """Return what no API of this version would have stored."""
    metadata = {"name": name, "namespace": namespace, **STAMP}
    return {
        "kind": kind,
        "metadata": {k: v for k, v in metadata.items() if v is not None},
        "spec": spec,
    }


BLOCK = {"cidr": "10.65.0.0/26", "affinity": "host:h1"}
POISON = [
    bad("IPPool", "p1", {"cidr": "10.999.0.0/16"}),
    bad("IPPool", "p2", {"cidr": "10.66.0.0/16", "nodeSelector": "(((("}),
    bad("IPPool", "p3", {"cidr": "10.67.0.1/16"}),
    bad("IPReservation", "r1", {"reservedCIDRs": ["10.65.0.0/99"]}),
    bad("IPAMBlock", "10-65-0-0-26", {**BLOCK, "cidr": "x"}),
    bad("IPAMBlock", "10-65-0-64-26", BLOCK),
    bad(
        "IPAMBlock",
        "10-65-0-0-26",
        {**BLOCK, "allocations": [{"address": "::1", "handle": "a", "node": "h1"}]},
    ),
    bad(
        "IPAMBlock",
        "10-65-0-0-26",
        {**BLOCK, "released": [{"address": "zzz", "releasedAt": "2026-01-01T00:00:00Z"}]},
    ),
    bad("Node", "h9", {"bgp": {"ipv4Address": "junk"}}),
    *(
        bad(
            "WorkloadEndpoint",
            name,
            {"node": "h1", "interfaceName": "tap9", "ipNetworks": [address]},
            "default",
        )
        for name, address in (("vm8", "10.65.0.1\0/32"), ("vm9", "zzz"))
    ),
    bad("HostEndpoint", "e9", {"node": "h1", "expectedIPs": ["nope"]}),
    bad("BGPPeer", "b9", {"peerIP": "1.2.3", "nodeSelector": "(("}),
    bad("GlobalNetworkPolicy", "g9", {"selector": "((((", "order": 1e308}),
]


async def store(link: Link, subject: str, body: bytes) -> None:
    """Put a message on the stream as whoever has the credential could."""
    last = await link.last(subject)
    expected = last.revision if last is not None else 0
    await link.append([Append(subject=subject, body=body, expected=expected, headers={})])


async def poisoned(link: Link, document: Doc) -> Key:
    """Store a document unchecked, and return its key."""
    metadata = document["metadata"]
    key = Key(document["kind"], metadata.get("namespace", ""), metadata["name"])
    event = {
        "event": "resource.set",
        "resource": {"apiVersion": "projectcalico.org/v3", **document},
    }
    await store(link, topics.event_subject(key), codec.encode(event))
    return key


@pytest.fixture
async def rejected(link: Link) -> dict[str, str]:
    """Return what is said of messages that could not be understood, by subject."""
    found: dict[str, str] = {}

    def on_rejected(note: Rejected, subject: str) -> None:
        found[note.subject] = note.reason

    await link.subscribe(topics.REJECTED, topics.REJECTED.pattern, on_rejected)
    return found


async def until(found: dict[str, str], subject: str) -> str:
    """Wait until something is said of a subject."""
    async with asyncio.timeout(PATIENCE_S):
        while subject not in found:
            await asyncio.sleep(0.02)
    return found[subject]


@pytest.mark.parametrize("document", POISON, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
async def test_a_bad_resource_harms_nobody(
    nats_server: NatsServer, link: Link, caller: Caller, document: Doc
) -> None:
    """The API goes on with all else, also one that starts afterwards; addresses are assigned all the same."""
    await poisoned(link, document)
    assert (await caller.put("/v1/nodes/h1", node("h1"))).status == 201
    pool = EXAMPLES["IPPool"][1]
    assert (await caller.put("/v1/ippools/one", pool)).status == 201
    async with running_api(nats_server.url) as other:
        for one in (caller, other):
            body = {"handle": "vm1", "node": "h1", "v4": 1}
            answer = await one.post("/v1/ipam/assign", body)
            assert answer.status in (200, 201), answer.body
            assert (await one.get("/v1/nodes/h1")).status == 200
            assert (await one.get("/v1/ippools")).status == 200
            assert (await one.get("/v1/backup")).status == 200


async def test_what_cannot_be_read_is_named_and_mended_by_the_next_write(
    link: Link, caller: Caller, rejected: dict[str, str]
) -> None:
    """It is told on the bus with its fault, shown as it is stored, and a good value takes its place."""
    key = await poisoned(link, POISON[0])
    assert "10.999.0.0" in await until(rejected, topics.event_subject(key))
    shown: Any = (await caller.get("/v1/ippools/p1")).json
    assert shown["spec"]["cidr"] == "10.999.0.0/16"
    good = EXAMPLES["IPPool"][1] | {"metadata": {"name": "p1"}}
    assert (await caller.put("/v1/ippools/p1", good)).status == 200
    assert (await caller.put("/v1/nodes/h1", node("h1"))).status == 201
    answer = await caller.post("/v1/ipam/assign", {"handle": "vm1", "node": "h1", "v4": 1})
    assert answer.status in (200, 201), answer.body


async def test_a_block_that_cannot_be_read_keeps_its_range(
    nats_server: NatsServer, link: Link, caller: Caller, rejected: dict[str, str]
) -> None:
    """No address of it is given twice, by whom ever; it is named, stays as it is, and is mended by a good value."""
    small = {"metadata": {"name": "one"}, "spec": {"cidr": "10.65.0.0/29", "blockSize": 30}}
    assert (await caller.put("/v1/nodes/h1", node("h1"))).status == 201
    assert (await caller.put("/v1/ippools/one", EXAMPLES["IPPool"][1] | small)).status == 201
    held = {"address": "10.65.0.1", "handle": "old", "node": "h1"}
    spec = {"cidr": "10.65.0.0/30", "affinity": "host:h1", "allocations": [held]}
    stray = {**spec, "allocations": [held, {**held, "address": "::1"}]}
    key = await poisoned(link, bad("IPAMBlock", "10-65-0-0-30", stray))
    assert "::1" in await until(rejected, topics.event_subject(key))
    shown = (await caller.get("/v1/ipamblocks/10-65-0-0-30")).json["spec"]
    given = []
    async with running_api(nats_server.url) as other:
        for n in range(8):
            body = {"handle": f"vm{n}", "node": "h1", "v4": 1}
            answer = await (caller, other)[n % 2].post("/v1/ipam/assign", body)
            given += [one["address"] for one in answer.json.get("addresses", ())]
        assert sorted(given) == [f"10.65.0.{n}" for n in (4, 5, 6, 7)]
        for one in (caller, other):
            body = {"handle": "named", "node": "h1", "addresses": ["10.65.0.2"]}
            refused = await one.post("/v1/ipam/assign", body)
            assert refused.status == 409, refused.body
            assert "10-65-0-0-30" in refused.json["detail"]
            report = (await one.get("/v1/ipam/check")).json
            assert report["counts"]["unreadable"] == 1
            assert "IPAMBlock 10-65-0-0-30" in [fault["about"] for fault in report["faults"]]
    assert (await caller.get("/v1/ipamblocks/10-65-0-0-30")).json["spec"] == shown
    await restored(caller, {"kind": "IPAMBlock", "metadata": {"name": key.name}, "spec": spec})
    assert (await caller.get("/v1/ipam/handles/old")).json["addresses"][0]["address"] == "10.65.0.1"
    body = {"handle": "named", "node": "h1", "addresses": ["10.65.0.2"]}
    assert (await caller.post("/v1/ipam/assign", body)).status == 201
    assert "unreadable" not in (await caller.get("/v1/ipam/check")).json["counts"]


async def test_a_pool_that_cannot_be_read_keeps_its_range(link: Link, caller: Caller) -> None:
    """A new pool over it is refused with its name, in every kind of write; a good value of itself is not."""
    await poisoned(link, bad("IPPool", "odd", {"cidr": "10.67.0.1/16"}))
    await poisoned(link, bad("IPPool", "worse", {"cidr": "10.68.0.0/16", "nodeSelector": "(((("}))
    assert (await caller.put("/v1/nodes/h1", node("h1"))).status == 201
    for name, range_ in (("odd", "10.67.8.0/24"), ("worse", "10.68.8.0/24")):
        over = {"kind": "IPPool", "metadata": {"name": "new"}, "spec": {"cidr": range_}}
        for answer in (
            await caller.put("/v1/ippools/new", over),
            await caller.post("/v1/apply", [over]),
        ):
            assert answer.status == 422, answer.body
            assert name in answer.json["detail"]
        body = {"handle": "vm1", "node": "h1", "v4": 1}
        assert (await caller.post("/v1/ipam/assign", body)).status != 201
        assert (await caller.post("/v1/ipam/assign", {**body, "pools": [name]})).status == 422
    good = {"kind": "IPPool", "metadata": {"name": "odd"}, "spec": {"cidr": "10.67.0.0/16"}}
    assert (await caller.put("/v1/ippools/odd", good)).status == 200
    body = {"handle": "vm1", "node": "h1", "v4": 1}
    assert (await caller.post("/v1/ipam/assign", body)).status == 201


async def test_an_event_on_the_subject_of_another_is_none(
    nats_server: NatsServer, link: Link, caller: Caller, rejected: dict[str, str]
) -> None:
    """Who writes elsewhere neither changes nor removes a resource, and does not undo it at a restart."""
    assert (await caller.put(f"{ENDPOINTS}/vm21", endpoint("vm21"))).status == 201
    key = Key("WorkloadEndpoint", "default", "vm21")
    elsewhere = "hopwall.event.workloadendpoint.default.vm22"
    removal = codec.encode({"event": "resource.removed", "key": key})
    await store(link, elsewhere, removal)
    assert "vm21" in await until(rejected, elsewhere)
    assert isinstance(await link.last(elsewhere), Unreadable)
    async with running_api(nats_server.url) as other:
        for one in (caller, other):
            assert (await one.get(f"{ENDPOINTS}/vm21")).status == 200
        mended = await other.put(f"{ENDPOINTS}/vm22", endpoint("vm22", address="10.65.0.22"))
        assert mended.status == 201
