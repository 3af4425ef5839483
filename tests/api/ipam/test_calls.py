"""Address management over HTTP, on a real stream: assigning, borrowing, releasing, races."""

import asyncio
import random
from typing import Any

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_model.resources import Key
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Link
from tests.api.caller import (
    ENDPOINTS,
    Answer,
    Caller,
    endpoint,
    host_status,
    node,
    restored,
    running_api,
    said,
)

pytestmark = pytest.mark.nats

ASSIGN, RELEASE = "/v1/ipam/assign", "/v1/ipam/release"


def pool(name: str = "main", cidr: str = "10.65.0.0/24", **spec: Any) -> dict[str, Any]:
    """Return an IPPool."""
    return {"kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr, **spec}}


def configuration(**spec: Any) -> dict[str, Any]:
    """Return the IPAMConfiguration."""
    return {"kind": "IPAMConfiguration", "metadata": {"name": "default"}, "spec": spec}


async def declare(caller: Caller, *documents: dict[str, Any]) -> None:
    """Store what a test begins with."""
    answer = await caller.post("/v1/apply", list(documents))
    assert answer.status == 200, answer.body


async def ask(caller: Caller, handle: str, host: str = "h1", **more: Any) -> Answer:
    """Ask for addresses; one of IPv4 if nothing else is said."""
    wanted = more if {"v4", "v6", "addresses"} & more.keys() else {"v4": 1, **more}
    return await caller.post(ASSIGN, {"handle": handle, "node": host, **wanted})


def addresses(answer: Answer) -> list[str]:
    """Return the addresses of an assignment."""
    assert answer.status in (200, 201), answer.body
    return [one["address"] for one in answer.json["addresses"]]


async def test_a_host_takes_from_its_own_block(caller: Caller) -> None:
    """The first address claims a block for the host; the next come from it; both families at once."""
    six = pool("six", "fd00:65::/64")
    await declare(caller, node("h1"), node("h2"), pool(), six)
    first = await ask(caller, "vm1", v4=2, v6=1)
    assert first.status == 201
    one, other, last = first.json["addresses"]
    assert one["block"] == other["block"]
    assert one["block"].endswith("/26")
    assert last["block"].endswith("/122")
    assert [one["host"], one["pool"], last["pool"]] == ["h1", "main", "six"]
    second = (await ask(caller, "vm2", "h2")).json["addresses"][0]
    assert second["block"] != one["block"]
    third = (await ask(caller, "vm3")).json["addresses"][0]
    assert third["block"] == one["block"]
    listed = (await caller.get("/v1/ipam/blocks")).json["items"]
    assert [(b["host"], b["nAssigned"]) for b in listed if ":" not in b["cidr"]].count(
        ("h1", 3)
    ) == 1
    of_host = (await caller.get("/v1/ipam/blocks?node=h2")).json["items"]
    assert [b["nAssigned"] for b in of_host] == [1]


async def test_a_handle_has_what_it_asked_for_however_often_it_asks(caller: Caller) -> None:
    """Asking again answers the same and stores nothing; asking for more adds; the host is kept."""
    await declare(caller, node("h1"), node("h2"), pool())
    made = await ask(caller, "vm1")
    again = await ask(caller, "vm1")
    assert (made.status, again.status) == (201, 200)
    assert addresses(again) == addresses(made)
    assert (await caller.get("/v1/ipam/handles/vm1")).json == again.json
    assert len(addresses(await ask(caller, "vm1", v4=3))) == 3
    moved = await ask(caller, "vm1", "h2", v4=3)
    assert moved.status == 200
    assert all(one["borrowed"] and one["node"] == "h2" for one in moved.json["addresses"])


async def test_a_released_address_rests(caller: Caller) -> None:
    """What was released comes back last, and not before its time; who names it gets it at once."""
    await declare(caller, node("h1"), pool(cidr="10.65.0.0/30", blockSize=30))
    have = [addresses(await ask(caller, f"vm{n}"))[0] for n in range(4)]
    assert sorted(have) == [f"10.65.0.{n}" for n in range(4)]
    gone = await caller.post(RELEASE, {"handle": "vm0"})
    assert gone.json["released"] == [have[0]]
    refused = await ask(caller, "vm9")
    assert "may not be used again yet" in refused.problem(409)["detail"]
    assert int(refused.headers["Retry-After"]) == 30
    await declare(caller, configuration(ipCooldownSeconds=0))
    assert addresses(await ask(caller, "vm9")) == [have[0]]
    await declare(caller, configuration(ipCooldownSeconds=1200))
    await caller.post(RELEASE, {"addresses": [have[1]]})
    assert addresses(await ask(caller, "vm8", addresses=[have[1]])) == [have[1]]
    seen = (await caller.get(f"/v1/ipam/addresses/{have[1]}")).json
    assert (seen["handle"], seen["block"]) == ("vm8", "10.65.0.0/30")


async def test_release_takes_back_what_is_the_handles_own(caller: Caller) -> None:
    """Another handle's address is refused and nothing is released; what nobody has is no fault."""
    await declare(caller, node("h1"), pool())
    (mine,) = addresses(await ask(caller, "vm1"))
    (other,) = addresses(await ask(caller, "vm2"))
    both = {"handle": "vm1", "addresses": [mine, other]}
    (await caller.post(RELEASE, both)).problem(409)
    assert len(addresses(await caller.get("/v1/ipam/handles/vm1"))) == 1
    done = await caller.post(RELEASE, {"handle": "vm1", "addresses": [mine, "10.65.0.250"]})
    assert done.json["released"] == [mine]
    assert done.json["notAssigned"] == ["10.65.0.250"]
    (await caller.get("/v1/ipam/handles/vm1")).problem(404)
    again = await caller.post(RELEASE, {"handle": "vm1"})
    assert (again.status, again.json["released"]) == (200, [])


async def test_borrowing_needs_leave(caller: Caller) -> None:
    """With no block left a host takes single addresses of another's, unless strictAffinity."""
    await declare(caller, node("h1"), node("h2"), pool(cidr="10.65.0.0/28", blockSize=28))
    await ask(caller, "vm1", "h1")
    await declare(caller, configuration(strictAffinity=True))
    assert "strictAffinity" in (await ask(caller, "vm2", "h2")).problem(409)["detail"]
    await declare(caller, configuration(strictAffinity=False))
    borrowed = (await ask(caller, "vm2", "h2")).json["addresses"][0]
    assert (borrowed["host"], borrowed["node"], borrowed["borrowed"]) == ("h1", "h2", True)
    (block,) = (await caller.get("/v1/ipam/blocks")).json["items"]
    assert (block["nAssigned"], block["nBorrowed"]) == (2, 1)


async def test_what_is_reserved_or_in_use_is_not_chosen(caller: Caller) -> None:
    """Reservations, hosts' own addresses and endpoints' that nobody assigned are passed over."""
    host = node("h1")
    host["spec"] = {"bgp": {"ipv4Address": "10.65.0.2/24"}}
    reservation = {
        "kind": "IPReservation",
        "metadata": {"name": "r"},
        "spec": {"reservedCIDRs": ["10.65.0.0/31"]},
    }
    small = pool(cidr="10.65.0.0/29", blockSize=29)
    await declare(caller, host, reservation, small, endpoint("vm", address="10.65.0.3"))
    assert addresses(await ask(caller, "vm1", v4=4)) == [f"10.65.0.{n}" for n in range(4, 8)]
    (await ask(caller, "vm2")).problem(409)
    assert addresses(await ask(caller, "vm2", addresses=["10.65.0.0"])) == ["10.65.0.0"]


async def test_pools_decide_who_takes_from_them(caller: Caller) -> None:
    """Disabled, manual, for other hosts, other namespaces or other uses: each is passed over, and told."""
    await declare(
        caller,
        node("h1", rack="a"),
        pool("p1", "10.1.0.0/24", disabled=True),
        pool("p2", "10.2.0.0/24", assignmentMode="Manual"),
        pool("p3", "10.3.0.0/24", nodeSelector="rack == 'b'"),
        pool("p4", "10.4.0.0/24", allowedUses=["Tunnel"]),
        pool("p5", "10.5.0.0/24", namespaceSelector="projectcalico.org/name == 'prod'"),
    )
    detail = (await ask(caller, "vm1")).problem(409)["detail"]
    for name in ("p1", "p2", "p3", "p4", "p5"):
        assert name in detail
    assert addresses(await ask(caller, "vm1", namespace="prod"))[0].startswith("10.5.0.")
    assert addresses(await ask(caller, "vm2", v4=1, pools=["p2"]))[0].startswith("10.2.0.")
    (await ask(caller, "vm3", pools=["p3"])).problem(409)
    assert (await ask(caller, "vm3", pools=["px"])).problem(422)["errors"][0]["pointer"] == "/pools"
    (await ask(caller, "vm3", addresses=["10.1.0.9"])).problem(409)
    (await ask(caller, "vm3", addresses=["10.9.0.9"])).problem(422)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"node": "h1", "v4": 1}, "/handle"),
        ({"handle": "a/b", "node": "h1", "v4": 1}, "/handle"),
        ({"handle": "a", "node": "none", "v4": 1}, "/node"),
        ({"handle": "a", "node": "h1"}, ""),
        ({"handle": "a", "node": "h1", "v4": 257}, "/v4"),
        ({"handle": "a", "node": "h1", "v4": 1, "count": 2}, "/count"),
        ({"handle": "a", "node": "h1", "addresses": ["10.0.0.0/24"]}, "/addresses/0"),
        ({"handle": "a", "node": "h1", "v4": 1, "attributes": {"k": "\n"}}, "/attributes/k"),
    ],
)
async def test_a_wrong_demand_names_the_field(
    caller: Caller, body: dict[str, Any], pointer: str
) -> None:
    """422 with the place of what is wrong; nothing is stored."""
    await declare(caller, node("h1"), pool())
    problem = (await caller.post(ASSIGN, body)).problem(422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert (await caller.get("/v1/ipam/blocks")).json["items"] == []


async def test_blocks_are_written_by_address_management_alone(caller: Caller) -> None:
    """GET, list and watch show blocks; PUT, DELETE and apply are refused, and say who writes them."""
    await declare(caller, node("h1"), pool())
    await ask(caller, "vm1")
    (block,) = (await caller.get("/v1/ipamblocks")).json["items"]
    path = f"/v1/ipamblocks/{block['metadata']['name']}"
    assert (await caller.get(path)).json["spec"]["affinity"] == "host:h1"
    for answer in (await caller.put(path, block), await caller.delete(path)):
        assert "/v1/ipam/assign" in answer.problem(405)["detail"]
    refused = (await caller.post("/v1/apply", [block])).problem(422)
    assert refused["errors"][0]["pointer"] == "/0/kind"


async def test_a_hosts_blocks_can_be_released(caller: Caller) -> None:
    """An empty block goes, one in use is nobody's; the next host that needs one takes it over."""
    await declare(caller, node("h1"), node("h2"), pool(cidr="10.65.0.0/26"))
    await ask(caller, "vm1")
    done = await caller.post(RELEASE, {"node": "h1", "force": True})
    assert done.json["blocks"] == ["10.65.0.0/26"]
    taken = (await ask(caller, "vm2", "h2")).json["addresses"][0]
    assert taken["host"] == "h2"
    assert "borrowed" not in taken
    await declare(caller, configuration(ipCooldownSeconds=0))
    await caller.post(RELEASE, {"handle": "vm1"})
    await caller.post(RELEASE, {"handle": "vm2"})
    await caller.post(RELEASE, {"node": "h2", "force": True})
    assert (await caller.get("/v1/ipam/blocks")).json["items"] == []
    assert (await ask(caller, "vm3")).status == 201


async def test_a_host_that_is_there_keeps_its_blocks(caller: Caller, link: Link) -> None:
    """Declared, with endpoints, or heard of late: refused with what to do, and nothing is taken but by force."""
    await declare(caller, node("h1"), pool(), endpoint("vm1"))
    await ask(caller, "vm1")
    await said(caller, link, host_status("h1", 1))
    before = (await caller.get("/v1/ipam/blocks")).json

    async def refusal() -> str:
        problem = (await caller.post(RELEASE, {"node": "h1"})).problem(422)
        assert [error["pointer"] for error in problem["errors"]] == ["/node"]
        assert "force" in problem["detail"]
        assert (await caller.get("/v1/ipam/blocks")).json == before
        return str(problem["detail"])

    assert "Host h1 was heard" in await refusal()
    await caller.delete("/v1/nodes/h1")
    await caller.delete(f"{ENDPOINTS}/vm1")
    assert "Host h1 was heard" in await refusal()
    done = await caller.post(RELEASE, {"node": "h1", "force": True})
    assert len(done.json["blocks"]) == 1


async def test_a_silent_host_that_is_declared_keeps_its_blocks(caller: Caller) -> None:
    """First the Node goes and then the endpoints; then nothing says that the host is there, and force is not needed."""
    await declare(
        caller, node("h1"), pool(), endpoint("vm1"), endpoint("vm2", address="10.65.0.99")
    )
    await ask(caller, "vm3")
    assert "delete Node h1" in (await caller.post(RELEASE, {"node": "h1"})).problem(422)["detail"]
    await caller.delete("/v1/nodes/h1")
    detail = (await caller.post(RELEASE, {"node": "h1"})).problem(422)["detail"]
    assert "Host h1 has 2 endpoints" in detail
    await caller.delete(f"{ENDPOINTS}/vm1")
    await declare(caller, endpoint("vm2", host="h2", address="10.65.0.99"))
    done = await caller.post(RELEASE, {"node": "h1"})
    assert done.status == 200, done.body
    assert len(done.json["blocks"]) == 1
    (await caller.post(RELEASE, {"handle": "vm1", "force": True})).problem(422)


async def test_no_host_has_more_blocks_than_allowed(caller: Caller) -> None:
    """From maxBlocksPerHost on a host borrows."""
    await declare(
        caller,
        node("h1"),
        node("h2"),
        pool(blockSize=28),
        configuration(maxBlocksPerHost=1),
    )
    await ask(caller, "vm1", "h2")
    made = (await ask(caller, "vm2", v4=20)).json["addresses"]
    assert sum(one.get("borrowed", False) for one in made) == 4


async def test_check_names_what_does_not_fit(caller: Caller) -> None:
    """Addresses nobody uses, endpoints nobody assigned to, blocks of no pool and of no host."""
    await declare(caller, node("h1"), pool(), pool("gone", "10.99.0.0/26"))
    used, unused = addresses(await ask(caller, "vm1", v4=2, pools=["main"]))
    await ask(caller, "vm2", v4=1, pools=["gone"])
    await declare(caller, endpoint("vm1", address=used), endpoint("own", address="10.65.0.9"))
    await declare(caller, endpoint("twice", address=used))
    await caller.delete("/v1/ippools/gone")
    await caller.delete("/v1/nodes/h1")
    report = (await caller.get("/v1/ipam/check")).json
    found = {(fault["what"], fault["about"]) for fault in report["faults"]}
    assert {("unused", unused), ("shared", used), ("out-of-pool", "10.99.0.0/26")} <= found
    assert ("unused", used) not in found
    assert report["counts"]["no-host"] == 2
    assert report["nAssigned"] == 3
    if used != "10.65.0.9" and unused != "10.65.0.9":
        assert ("not-assigned", "10.65.0.9") in found


async def test_every_assignment_is_one_event_with_its_actor(caller: Caller, link: Link) -> None:
    """The stream alone says who has what since when, and on whose word."""
    await declare(caller, node("h1"), pool())
    answer = await caller.post(ASSIGN, {"handle": "vm1", "node": "h1", "v4": 1}, X_Request_Id="r-7")
    (block,) = (await caller.get("/v1/ipamblocks")).json["items"]
    name = block["metadata"]["name"]
    record = await link.last(topics.event_subject(Key("IPAMBlock", "", name)))
    assert isinstance(record, Record)
    assert record.headers["ce-requestid"] == "r-7"
    assert record.revision == int(answer.json["resourceVersion"])


# ---------------------------------------------------------------- racing


async def test_eight_clients_get_no_address_twice(caller: Caller) -> None:
    """1,000 addresses over four hosts by eight clients at once: all different, all found again."""
    await declare(caller, *(node(f"h{n}") for n in range(4)), pool(cidr="10.65.0.0/20"))
    got: dict[str, str] = {}

    async def client(number: int) -> None:
        for n in range(125):
            handle = f"vm-{number}-{n}"
            (address,) = addresses(await ask(caller, handle, f"h{random.randrange(4)}"))
            assert address not in got
            got[address] = handle

    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(client(number))
    assert len(got) == 1000
    for address, handle in random.sample(sorted(got.items()), 20):
        seen = (await caller.get(f"/v1/ipam/addresses/{address}")).json
        assert seen["handle"] == handle
    assert (await caller.get("/v1/ipam/check")).json["nAssigned"] == 1000


async def test_two_apis_race_for_the_same_blocks(nats_server: NatsServer) -> None:
    """Two API processes and the same few addresses: none is given twice, none is lost."""
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        await declare(one, node("h1"), node("h2"), pool(cidr="10.65.0.0/25", blockSize=28))
        await declare(one, configuration(ipCooldownSeconds=0))
        await declare(two, node("h1"))
        have: dict[str, str] = {}

        async def client(number: int) -> None:
            api = (one, two)[number % 2]
            for n in range(30):
                handle = f"vm-{number}-{n}"
                answer = await ask(api, handle, f"h{1 + n % 2}")
                if answer.status == 409:
                    continue
                (address,) = addresses(answer)
                assert have.setdefault(address, handle) == handle
                if n % 3:
                    del have[address]
                    gone = await api.post(RELEASE, {"handle": handle})
                    assert gone.json["released"] == [address]

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(client(number))
        for caller in (one, two):
            await ask(caller, "last")
            stored = {
                allocation["address"]: allocation["handle"]
                for block in (await caller.get("/v1/ipamblocks")).json["items"]
                for allocation in block["spec"].get("allocations", [])
            }
            last = {a: h for a, h in stored.items() if h == "last"}
            assert stored == have | last


async def test_one_handle_asked_of_two_apis_at_once_gets_one_address(
    nats_server: NatsServer,
) -> None:
    """Both choose the same block, so compare-and-set lets the second see what the first did."""
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        await declare(one, node("h1"), pool())
        await declare(two, node("h1"))
        for n in range(20):
            both = await asyncio.gather(ask(one, f"vm{n}"), ask(two, f"vm{n}"))
            assert addresses(both[0]) == addresses(both[1])
            assert len(addresses(both[0])) == 1


async def test_of_two_overlapping_claims_the_later_gives_way(nats_server: NatsServer) -> None:
    """Blocks of two sizes exclude each other too, though they are different resources.

    Pools overlap only from before this was refused: a restore writes them.
    """
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        await declare(one, node("h1"), node("h2"), configuration(ipCooldownSeconds=0))
        await restored(
            one,
            *(node("h1"), node("h2"), configuration(ipCooldownSeconds=0)),
            *(pool("a", "10.65.0.0/26"), pool("b", "10.65.0.0/26", blockSize=28)),
        )
        await declare(two, node("h1"))
        for n in range(10):
            left, right = await asyncio.gather(
                ask(one, f"a{n}", "h1", v4=1, pools=["a"]),
                ask(two, f"b{n}", "h2", v4=1, pools=["b"]),
            )
            given = [
                a for answer in (left, right) if answer.status == 201 for a in addresses(answer)
            ]
            assert len(given) == len(set(given))
            assert given
            blocks = (await one.get("/v1/ipam/blocks")).json["items"]
            assert not any(block.get("crossing") for block in blocks)
            for handle in (f"a{n}", f"b{n}"):
                await one.post(RELEASE, {"handle": handle})
            for host in ("h1", "h2"):
                await one.post(RELEASE, {"node": host, "force": True})
