"""A server that leads no more refuses a write that the new leader stores: what address management then answers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hopwall_model import codec, topics
from hopwall_model.cidr import Cidr
from hopwall_model.events import ResourceSet
from hopwall_model.ipam_specs import IpamBlockSpec, block_name
from hopwall_model.resources import IPAMBlock, Key, Metadata
from hopwall_runtime.link import Append, Conflict, Link
from tests.api.caller import AT, LATE, Caller, Refusing, node
from tests.api.ipam.test_calls import RELEASE, addresses, ask, declare, pool

pytestmark = pytest.mark.nats


async def test_an_assignment_that_was_stored_is_answered_as_one(
    caller: Caller, refusing: Refusing
) -> None:
    """What this request gave is said to be given by it, at the revision at which it stands."""
    await declare(caller, node("h1"), pool())
    refusing(1)
    answer = await ask(caller, "vm1", v4=2)
    assert answer.status == 201, answer.body
    assert len(addresses(answer)) == 2
    assert (
        answer.json["resourceVersion"]
        == (await caller.get("/v1/ipamblocks")).json["metadata"]["resourceVersion"]
    )


async def test_a_release_that_was_stored_is_answered_as_one(
    caller: Caller, refusing: Refusing
) -> None:
    """What this request took back is not said to have been nobody's."""
    await declare(caller, node("h1"), pool())
    given = addresses(await ask(caller, "vm1", v4=2))
    refusing(1)
    answer = await caller.ask("POST", RELEASE, {"addresses": given})
    assert answer.status == 200, answer.body
    assert answer.json["released"] == given
    assert answer.json["notAssigned"] == []


@pytest.mark.parametrize("withdrawal", ["stored", "not stored"])
async def test_a_claim_that_was_stored_yields_to_an_earlier_one(
    caller: Caller, link: Link, monkeypatch: pytest.MonkeyPatch, withdrawal: str
) -> None:
    """A block that crosses one of before is given back, though the claim and the giving back were said to conflict."""
    await declare(caller, node("h1"), node("h2"), pool())
    right = Link.append
    n = 0

    async def late(self: Link, writes: Sequence[Append]) -> list[int]:
        nonlocal n
        n += 1
        if n == 1:
            await right(link, [claim("10.65.0.0/24")])
        if n == 1 or (n == 2 and withdrawal == "stored"):
            await right(self, writes)
        if n <= 2:
            raise Conflict(LATE)
        return await right(self, writes)

    monkeypatch.setattr(Link, "append", late)
    answer = await ask(caller, "vm1")
    assert answer.status == 201, answer.body
    [given] = answer.json["addresses"]
    assert given["block"] == "10.65.0.0/24"
    blocks = (await caller.get("/v1/ipam/blocks")).json["items"]
    assert [block["cidr"] for block in blocks] == ["10.65.0.0/24"]


async def test_a_claim_yields_to_an_earlier_block_that_cannot_be_read(
    caller: Caller, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the addresses of it is not known: the claim across it is given back untold, and it stays as it is."""
    await declare(caller, node("h1"), node("h2"), pool(cidr="10.65.0.0/24", blockSize=25))
    right, n = Link.append, 0
    stray = claim("10.65.0.0/26")
    stray = replace(stray, body=stray.body.replace(b"host:h2", b"h2"))

    async def late(self: Link, writes: Sequence[Append]) -> list[int]:
        nonlocal n
        n += 1
        if n == 1:
            await right(link, [stray])
        return await right(self, writes)

    monkeypatch.setattr(Link, "append", late)
    # The second takes the other half of the pool: one of the two met the block.
    for handle, host in (("vm1", "h1"), ("vm2", "h2")):
        answer = await ask(caller, handle, host)
        assert answer.status == 201, answer.body
        assert [one["block"] for one in answer.json["addresses"]] == ["10.65.0.128/25"]
    blocks = (await caller.get("/v1/ipam/blocks")).json["items"]
    assert [(b["cidr"], b.get("unreadable", False)) for b in blocks] == [
        ("10.65.0.0/26", True),
        ("10.65.0.128/25", False),
    ]


def claim(range_: str) -> Append:
    """Return what makes a block h2's."""
    name = block_name(Cidr(range_))
    spec = IpamBlockSpec(cidr=range_, affinity="host:h2", affinity_claim_time=AT)
    block = IPAMBlock(api_version="projectcalico.org/v3", metadata=Metadata(name=name), spec=spec)
    return Append(
        subject=topics.event_subject(Key("IPAMBlock", "", name)),
        body=codec.encode(ResourceSet(resource=block)),
        expected=0,
        headers={},
    )


async def test_a_conflict_with_nothing_is_not_said_to_have_stored_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses for another write which it does not hold is in doubt: so is what became of the write."""
    await declare(caller, node("h1"), pool())

    async def never(_: Link, _writes: Sequence[Append]) -> list[int]:
        raise Conflict("wrong last sequence")

    monkeypatch.setattr(Link, "append", never)
    problem = (await ask(caller, "vm1")).problem(503)
    assert "It is unknown whether the write was stored" in problem["detail"]
