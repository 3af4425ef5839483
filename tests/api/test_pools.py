"""IP pools share no addresses: refused on every way, and between replicas that race."""

import asyncio
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_api.ipam.spans import span_of
from hopwall_api.pools import _faults
from hopwall_cli.nats_server import NatsServer
from tests.api.caller import Answer, Caller, Doc, Refusing, node, restored, running_api

POOLS = "/v1/ippools"


def pool(name: str, cidr: str, **spec: Any) -> Doc:
    """Return an IPPool."""
    return {"kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr, **spec}}


def refused(answer: Answer, pointer: str, name: str, other: str) -> None:
    """See that this pool is refused for the other one, at this place."""
    problem = answer.problem(422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert "spec.cidr" in problem["detail"]
    assert f"IPPool {name} " in problem["detail"]
    assert f"IPPool {other};" in problem["detail"]


async def names(caller: Caller) -> dict[str, str]:
    """Return the range of each pool."""
    listed = (await caller.get(POOLS)).json["items"]
    return {one["metadata"]["name"]: one["spec"]["cidr"] for one in listed}


@pytest.mark.nats
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("10.65.0.0/16", "10.65.0.0/16"),
        ("10.65.7.0/24", "10.65.0.0/16"),
        ("10.64.0.0/14", "10.65.0.0/16"),
        ("fd00:65::/122", "fd00:65::/64"),
    ],
)
async def test_a_pool_over_another_is_refused_on_every_way(
    caller: Caller, mine: str, theirs: str
) -> None:
    """The same range, within and around: by POST, PUT, PATCH and apply, and tried; nothing is stored."""
    assert (await caller.put(f"{POOLS}/a", pool("a", theirs))).status == 201
    assert (await caller.put(f"{POOLS}/c", pool("c", "10.99.0.0/16"))).status == 201
    before = await names(caller)
    bulk = {"items": [node("h1"), pool("b", mine)]}
    change = {"spec": {"cidr": mine}}
    for query in ("", "?dryRun=All"):
        refused(await caller.post(POOLS + query, pool("b", mine)), "/spec/cidr", "b", "a")
        refused(await caller.put(f"{POOLS}/b{query}", pool("b", mine)), "/spec/cidr", "b", "a")
        refused(await caller.patch(f"{POOLS}/c{query}", change), "/spec/cidr", "c", "a")
        answer = await caller.post(f"/v1/apply{query}", bulk)
        refused(answer, "/items/1/spec/cidr", "b", "a")
        assert answer.json["detail"].startswith("Nothing was stored.")
    assert await names(caller) == before
    assert (await caller.get("/v1/nodes/h1")).status == 404


@pytest.mark.nats
async def test_pools_of_one_apply_are_held_against_each_other(caller: Caller) -> None:
    """As they are to be: two that overlap are refused, two that exchange their ranges are not."""
    both = [pool("a", "10.65.0.0/24"), pool("b", "10.65.0.128/25")]
    refused(await caller.post("/v1/apply", both), "/1/spec/cidr", "b", "a")
    assert await names(caller) == {}
    apart = [pool("a", "10.65.0.0/25"), pool("b", "10.65.0.128/25"), pool("c", "10.66.0.0/16")]
    assert (await caller.post("/v1/apply", apart)).status == 200
    turned = [pool("a", "10.65.0.128/25"), pool("b", "10.65.0.0/25")]
    answer = await caller.post("/v1/apply", turned)
    assert answer.status == 200, answer.body
    assert (await names(caller))["a"] == "10.65.0.128/25"
    assert (await caller.delete(f"{POOLS}/a")).status == 200
    assert (await caller.put(f"{POOLS}/d", pool("d", "10.65.0.128/26"))).status == 201


@pytest.mark.nats
async def test_what_overlaps_from_before_is_restored_changed_and_removed(caller: Caller) -> None:
    """A restore writes what was; check names it; all but another such range may be written; removal mends it."""
    await restored(caller, pool("a", "10.65.0.0/16"), pool("b", "10.65.0.0/24"))
    assert len(await names(caller)) == 2
    counts = (await caller.get("/v1/ipam/check")).json["counts"]
    assert counts["pools-overlap"] == 1
    assert (await caller.patch(f"{POOLS}/b", {"spec": {"disabled": True}})).status == 200
    assert (await caller.put(f"{POOLS}/b", pool("b", "10.65.0.0/24"))).status == 200
    refused(await caller.put(f"{POOLS}/b", pool("b", "10.65.1.0/24")), "/spec/cidr", "b", "a")
    assert (await caller.delete(f"{POOLS}/a")).status == 200
    assert (await caller.put(f"{POOLS}/b", pool("b", "10.65.1.0/24"))).status == 200
    assert (await caller.get("/v1/ipam/check")).json["counts"] == {}


@pytest.mark.nats
async def test_of_replicas_that_race_one_has_the_range(nats_server: NatsServer) -> None:
    """Two API processes and overlapping pools at the same moment, single and in bulk: one is stored, one refused."""
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        for n in range(40):
            left = pool("left", f"10.{n}.0.0/16")
            right = pool("right", f"10.{n}.7.0/24")
            if n % 2:
                both = (one.put(f"{POOLS}/left", left), two.put(f"{POOLS}/right", right))
            else:
                more = pool("more", "fd00::/64")
                both = (
                    one.post("/v1/apply", [node("h1"), more, left]),
                    two.post("/v1/apply", [node("h2"), right]),
                )
            answers = await asyncio.gather(*both)
            assert sorted(answer.status >= 400 for answer in answers) == [False, True]
            refusal = max(answers, key=lambda answer: answer.status).problem(422)
            assert "overlaps" in refusal["detail"]
            kept = await names(one)
            assert len(kept.keys() & {"left", "right"}) == 1
            for name in kept:
                await one.delete(f"{POOLS}/{name}")


@pytest.mark.nats
async def test_pools_that_share_nothing_are_all_stored_however_many_race(
    nats_server: NatsServer,
) -> None:
    """The condition on all pools makes writers try again, and refuses none."""
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        async with asyncio.TaskGroup() as tasks:
            puts = [
                tasks.create_task(
                    (one, two)[n % 2].put(f"{POOLS}/p{n}", pool(f"p{n}", f"10.{n}.0.0/16"))
                )
                for n in range(12)
            ]
        assert [put.result().status for put in puts] == [201] * 12
        assert len(await names(two)) == 12


@pytest.mark.nats
async def test_a_change_of_a_pool_that_another_write_came_before_is_planned_again(
    nats_server: NatsServer,
) -> None:
    """Two replicas change different parts of one pool at once: neither change is lost."""
    async with running_api(nats_server.url) as one, running_api(nats_server.url) as two:
        assert (await one.put(f"{POOLS}/a", pool("a", "10.65.0.0/16"))).status == 201
        for n in range(20):
            label = {"metadata": {"labels": {"turn": str(n)}}}
            spec = {"spec": {"cidr": f"10.{n}.0.0/16"}}
            await asyncio.gather(one.patch(f"{POOLS}/a", label), two.patch(f"{POOLS}/a", spec))
            seen = (await two.get(f"{POOLS}/a")).json
            assert seen["metadata"]["labels"] == {"turn": str(n)}
            assert seen["spec"]["cidr"] == f"10.{n}.0.0/16"


@pytest.mark.nats
async def test_a_pool_that_was_stored_although_it_was_said_to_conflict_is_acknowledged(
    caller: Caller, refusing: Refusing
) -> None:
    """The pool that stands against it is not itself."""
    refusing(1)
    answer = await caller.put(f"{POOLS}/a", pool("a", "10.65.0.0/16"))
    assert answer.status == 201, answer.body
    assert (await names(caller)) == {"a": "10.65.0.0/16"}


_networks = st.builds(
    lambda first, length: span_of(f"10.0.0.{first >> (32 - length) << (32 - length)}/{length}"),
    st.integers(0, 255),
    st.integers(26, 32),
)


@given(st.lists(_networks, max_size=8), st.sets(st.integers(0, 7)))
def test_the_sweep_finds_what_each_pair_would(networks: list[Any], chosen: set[int]) -> None:
    """There is a fault exactly where one that is wanted shares an address with any other; it names such a pair."""
    spans = {f"p{n}": span for n, span in enumerate(networks)}
    wanted = {f"p{n}": n for n in chosen if n < len(networks)}
    pairs = {
        frozenset((a, b))
        for a, b in combinations(spans, 2)
        if (a in wanted or b in wanted) and spans[a].overlaps(spans[b])
    }
    faults = _faults(spans, wanted)
    assert bool(faults) == bool(pairs)
    assert faults.keys() <= wanted.keys()
    assert {frozenset(pair) for pair in faults.items()} <= pairs
