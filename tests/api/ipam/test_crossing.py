"""A claim of a block that crosses one of before: whoever meets it gives it back, and nobody is told of its addresses."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hopwall_api import writer
from hopwall_api.ipam.demands import Assign
from hopwall_api.ipam.desk import Done
from hopwall_api.ipam.plan import Assigned
from hopwall_api.problems import ApiProblem
from hopwall_api.writer import HDR_CLAIM
from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.resources import Key
from hopwall_runtime.link import Append, Link
from tests.api.caller import PATIENCE_S, Caller, Doc, node, restored, running_api
from tests.api.ipam.test_calls import addresses, ask, configuration, pool
from tests.api.lagging import Lagging, lagging_api

pytestmark = pytest.mark.nats

#: Pools overlap only from before this was refused: a restore writes them. So their blocks may cross.
SCENE = (
    node("h1"),
    node("h2"),
    configuration(ipCooldownSeconds=0),
    pool("a", "10.65.0.0/26"),
    pool("b", "10.65.0.0/26", blockSize=28),
)
MINE = Assign(handle="mine", node="h2", v4=1, pools=("b",))


@pytest.fixture
async def lagging(nats_server: NatsServer, caller: Caller) -> AsyncIterator[Lagging]:
    """Run one more replica, on pools that overlap."""
    await restored(caller, *SCENE)
    async with lagging_api(nats_server.url, caller) as one:
        yield one


async def assign(one: Lagging) -> Done:
    """Ask the replica for an address."""
    return await one.api.ipam.carry_out(MINE, actor="a", request_id="r")


async def blocks(caller: Caller) -> list[Doc]:
    """Return the blocks there are."""
    return list((await caller.get("/v1/ipam/blocks")).json["items"])


async def claimed_and_died(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Let a replica claim a block over another's, and die before it sees that; return what the other gave."""
    await restored(caller, *SCENE)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_READ_OWN_WRITE_S", 0.2)
        async with lagging_api(nats_server.url, caller) as one:
            one.hold()
            [given] = addresses(await ask(caller, "first", pools=["a"]))
            with pytest.raises(ApiProblem):
                await assign(one)
    return given


async def test_a_claim_that_is_not_seen_to_stand_alone_is_not_told(
    caller: Caller, lagging: Lagging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not see its own claim does not know whom it crosses: the outcome is unknown."""
    monkeypatch.setattr(writer, "_READ_OWN_WRITE_S", 0.2)
    lagging.hold()
    await ask(caller, "first", pools=["a"])
    with pytest.raises(ApiProblem, match="does not see what the stream holds"):
        await assign(lagging)


async def test_the_claim_of_a_dead_replica_is_given_back_by_who_assigns_next(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle that asks again is not answered from it, whoever is asked; what was told stays."""
    given = await claimed_and_died(caller, nats_server, monkeypatch)
    [now] = addresses(await ask(caller, "mine", "h2", pools=["b"]))
    [block] = await blocks(caller)
    assert not block.get("crossing")
    assert addresses(await ask(caller, "first", pools=["a"])) == [given] != [now]
    for handle, address in (("first", given), ("mine", now)):
        assert addresses(await caller.get(f"/v1/ipam/handles/{handle}")) == [address]


async def test_the_claim_of_a_dead_replica_is_given_back_by_who_starts(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that reads the stream anew finds it, also where the earlier block was written since; nobody asks."""
    given = await claimed_and_died(caller, nats_server, monkeypatch)
    # By another replica, which has heard of no claim.
    first = "/v1/ipam/assign"
    for n in range(3):
        answer = await caller.post(first, {"handle": "first", "node": "h1", "v4": n + 2})
        assert answer.status in (201, 409)
    async with running_api(nats_server.url) as other, asyncio.timeout(PATIENCE_S):
        while len(await blocks(other)) > 1:
            await asyncio.sleep(0.05)
        assert given in addresses(await other.get("/v1/ipam/handles/first"))


async def test_an_owner_whose_claim_another_gave_back_tells_no_address_of_it(
    caller: Caller, lagging: Lagging
) -> None:
    """The claim is gone when the owner comes to see the stream: it plans again."""
    lagging.hold()
    first = addresses(await ask(caller, "first", pools=["a"]))
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(assign(lagging))
        while len(await blocks(caller)) < 2:
            await asyncio.sleep(0.01)
        second = addresses(await ask(caller, "second", pools=["a"]))
        assert len(await blocks(caller)) == 1
        lagging.free()
    result = asking.result().result
    assert isinstance(result, Assigned)
    told = [*first, *second, *result.addresses]
    assert len(set(told)) == 3
    assert list(result.addresses) == addresses(await caller.get("/v1/ipam/handles/mine"))
    assert len(await blocks(caller)) == 1


async def test_blocks_that_a_restore_brought_back_stay(
    caller: Caller, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were told as they are, in whatever order they are written now: their handles keep what they had."""
    with monkeypatch.context() as patch:
        # Nobody gives back meanwhile: the file holds both.
        given = await claimed_and_died(caller, nats_server, patch)
    documents = [
        one
        for path in ("nodes", "ipamconfigurations", "ippools", "ipamblocks")
        for one in (await caller.get(f"/v1/{path}")).json["items"]
    ]
    crossing = [one for one in documents if one["kind"] == "IPAMBlock"]
    assert len(crossing) == 2
    keys = [
        {"kind": one["kind"], "namespace": "", "name": one["metadata"]["name"]} for one in crossing
    ]
    for step, body in (
        ("", {"file": "g", "replace": True}),
        ("/items", {"file": "g", "remove": keys, "items": []}),
        ("/items", {"file": "g", "items": crossing[::-1]}),
        ("/end", {"file": "g"}),
    ):
        answer = await caller.post(f"/v1/restore{step}", body)
        assert answer.status == 200, answer.body
    async with running_api(nats_server.url) as other:
        for one in (caller, other):
            assert addresses(await ask(one, "first", pools=["a"])) == [given]
            assert len(addresses(await ask(one, "mine", "h2", pools=["b"]))) == 1
            assert [block.get("crossing") for block in await blocks(one)] == [True, True]


async def test_what_cannot_be_read_takes_no_block_away_and_is_not_taken(
    caller: Caller, nats_server: NatsServer, link: Link
) -> None:
    """Its words may bear a claim or be of before: what was told of stays all the same, and so does it."""
    await restored(caller, *SCENE[:3], pool("a", "10.65.0.0/25"))

    async def unreadable(name: str, cidr: str) -> None:
        body = {
            "event": "resource.set",
            "resource": {
                "apiVersion": "projectcalico.org/v3",
                "kind": "IPAMBlock",
                "metadata": {"name": name, "generation": 1},
                "spec": {"cidr": cidr, "affinity": "h2"},
            },
        }
        subject = topics.event_subject(Key("IPAMBlock", "", name))
        last = await link.last(subject)
        expected = last.revision if last is not None else 0
        write = Append(
            subject=subject, body=codec.encode(body), expected=expected, headers={HDR_CLAIM: "1"}
        )
        await link.append([write])

    await unreadable("odd", "x")
    [given] = addresses(await ask(caller, "first"))
    [block] = await blocks(caller)
    await unreadable("odd", block["cidr"])
    await unreadable("10-65-0-0-25", "10.65.0.0/25")
    async with running_api(nats_server.url) as other:
        for one in (caller, other):
            assert addresses(await ask(one, "first")) == [given]
            assert (await ask(one, "second")).status == 409
            assert len(await blocks(one)) == 3
