"""While NATS takes no writes: every way of writing says so and when to try again; reads go on."""

import asyncio

import pytest

from hopwall_cli.nats_server import NatsServer
from tests.api.caller import PATIENCE_S, Answer, Caller, endpoint, node

pytestmark = pytest.mark.nats

NODE = "/v1/nodes/a"
ASSIGN = {"handle": "vm1", "node": "a", "v4": 1}


async def test_every_write_is_refused_with_a_time_and_reads_go_on(
    caller: Caller, nats_server: NatsServer
) -> None:
    """503 with Retry-After and a problem document, also for addresses and restores; what is known is shown."""
    await caller.put(NODE, node("a"))
    pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.65.0.0/16"}}
    await caller.put("/v1/ippools/p", pool)
    assert (await caller.post("/v1/ipam/assign", ASSIGN)).status == 201
    await nats_server.stop()
    refused = {
        "put": await caller.put(NODE, node("a", new="label")),
        "create": await caller.put("/v1/nodes/b", node("b")),
        "post": await caller.post("/v1/nodes", node("c")),
        "patch": await caller.patch(NODE, {"metadata": {"labels": {"x": "y"}}}),
        "delete": await caller.delete(NODE),
        "apply": await caller.post("/v1/apply", {"items": [node("d"), endpoint("e")]}),
        "assign": await caller.post("/v1/ipam/assign", ASSIGN | {"handle": "vm2"}),
        "release": await caller.post("/v1/ipam/release", {"handle": "vm1"}),
        "restore": await caller.post("/v1/restore", {"file": "f", "replace": True}),
        "end": await caller.post("/v1/restore/end", {"file": "f"}),
    }
    for way, answer in refused.items():
        assert answer.problem(503)["detail"], way
        assert int(answer.headers["Retry-After"]) > 0, way
    assert (await caller.get(NODE)).json["metadata"]["name"] == "a"
    assert (await caller.get("/v1/nodes")).status == 200
    assert (await caller.get("/v1/backup")).status == 200
    assert (await caller.get("/v1/ipam/handles/vm1")).status == 200
    await nats_server.start()
    assert (await _again(caller)).status == 200


async def _again(caller: Caller) -> Answer:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await caller.put(NODE, node("a", new="label"))
            if answer.status != 503:
                return answer
            await asyncio.sleep(0.05)
