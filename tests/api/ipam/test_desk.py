"""Demands that meet: one write for many, who is named for it, outages, junk in the stream."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from hopwall_api.agent import Api
from hopwall_api.ipam.demands import Assign
from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_model.resources import Key
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Append, Link
from tests.api.caller import PATIENCE_S, Caller, node
from tests.api.ipam.test_calls import RELEASE, addresses, ask, declare, pool

pytestmark = pytest.mark.nats


@pytest.fixture
async def api(nats_server: NatsServer, caller: Caller) -> AsyncIterator[Api]:
    """Run the state of one more API, to be asked without HTTP."""
    await declare(caller, node("h1"), pool(cidr="10.65.0.0/22"))
    link = Link("api")
    await link.connect(CommonSettings(nats_url=(nats_server.url,)))
    api = Api(link)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(api.follow_events())
        async with asyncio.timeout(PATIENCE_S):
            while not api.store.in_sync:
                await asyncio.sleep(0.01)
        yield api
        following.cancel()
    await link.close()


async def test_demands_that_wait_together_are_one_write(api: Api) -> None:
    """A hundred demands of one actor for one host cost few events; each has its own address."""
    before = api.store.revision
    wanted = [Assign(handle=f"vm{n}", node="h1", v4=1) for n in range(100)]
    done = await asyncio.gather(
        *(api.ipam.carry_out(one, actor="a", request_id=one.handle) for one in wanted)
    )
    assert len({one.result for one in done}) == 100
    assert api.store.revision - before <= 10
    assert api.ipam.view.blocks_of_host["h1"]


async def test_an_event_names_one_actor_and_every_request(api: Api, link: Link) -> None:
    """Demands of different actors are never in one event; ids of requests are joined."""
    events: dict[int, Record] = {}
    told: dict[int, set[tuple[str, str]]] = {}

    async def listen() -> None:
        async for items in link.follow():
            events.update({one.revision: one for one in items if isinstance(one, Record)})

    async def one(n: int) -> None:
        actor = "ab"[n // 10]
        wanted = Assign(handle=f"vm{n}", node="h1", v4=1)
        done = await api.ipam.carry_out(wanted, actor=actor, request_id=f"r{n}")
        told.setdefault(done.revision, set()).add((actor, f"r{n}"))

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen())
        while not events:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(one(n) for n in range(20)))
        while not told.keys() <= events.keys():
            await asyncio.sleep(0.01)
        listening.cancel()
    for revision, who in told.items():
        headers = events[revision].headers
        named = {(headers["ce-actor"], name) for name in headers["ce-requestid"].split(",")}
        assert named == who
    assert len(told) < 20


async def test_a_refusal_harms_nobody_beside_it(caller: Caller) -> None:
    """Of demands planned together those that cannot be met fail alone."""
    await declare(caller, node("h1"), pool())
    await ask(caller, "owner", addresses=["10.65.0.5"])
    answers = await asyncio.gather(
        *(
            ask(caller, f"vm{n}", addresses=["10.65.0.5"]) if n % 3 == 0 else ask(caller, f"vm{n}")
            for n in range(30)
        )
    )
    assert [answer.status for answer in answers] == [409, 201, 201] * 10


async def test_an_outage_costs_no_acknowledged_address(
    caller: Caller, nats_server: NatsServer
) -> None:
    """NATS is killed in the middle: what was answered is stored, and asking again makes it whole."""
    await declare(caller, node("h1"), node("h2"), pool(cidr="10.65.0.0/22"))
    told: dict[str, str] = {}
    refused: list[int] = []

    async def client(number: int) -> None:
        for n in range(40):
            handle = f"vm-{number}-{n}"
            while (answer := await ask(caller, handle, f"h{1 + n % 2}")).status == 503:
                refused.append(1)
                await asyncio.sleep(0.05)
            (told[handle],) = addresses(answer)

    async def kill() -> None:
        while len(told) < 40:
            await asyncio.sleep(0.005)
        await nats_server.stop(signal.SIGKILL)
        while not refused:
            await asyncio.sleep(0.005)
        await nats_server.start()

    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(client(number))
        tasks.create_task(kill())
    assert len(set(told.values())) == len(told) == 320
    for handle, address in told.items():
        assert addresses(await caller.get(f"/v1/ipam/handles/{handle}")) == [address]
    assert (await caller.get("/v1/ipam/check")).json["nAssigned"] == 320


async def test_junk_on_a_blocks_subject_stops_nothing(caller: Caller, link: Link) -> None:
    """A message nobody can read is the last word on a block: the next assignment goes on top of it."""
    await declare(caller, node("h1"), pool())
    made = await ask(caller, "vm1")
    (block,) = (await caller.get("/v1/ipamblocks")).json["items"]
    subject = topics.event_subject(Key("IPAMBlock", "", block["metadata"]["name"]))
    revision = int(made.json["resourceVersion"])
    await link.append([Append(subject=subject, body=b"junk", expected=revision, headers={})])
    assert (await ask(caller, "vm2")).json["addresses"][0]["block"] == block["spec"]["cidr"]
    assert addresses(await ask(caller, "vm1")) == addresses(made)
    assert (await caller.post(RELEASE, {"handle": "vm1"})).json["released"] == addresses(made)
