"""What is stored and cannot be read keeps its range: nothing comes of it, and nothing is put over it."""

from random import Random
from typing import Any

import pytest

from hopwall_api.ipam.answers import address_view, unreadable_faults
from hopwall_api.ipam.demands import Assign, Release
from hopwall_api.ipam.plan import Assigned, Refused
from hopwall_api.ipam.sound import fault_of, range_of
from hopwall_api.ipam.spans import span_of, text_of
from hopwall_api.ipam.view import View
from hopwall_model import codec
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.ipam_specs import block_name
from hopwall_model.problems import Invalid
from hopwall_model.resources import (
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IPReservation,
    Key,
    Node,
    Resource,
    WorkloadEndpoint,
)
from hopwall_model.validate import admit
from tests.api.ipam.test_plan import Cloud, picture

BLOCK = "10-65-0-0-30"
HELD = {"address": "10.65.0.1", "handle": "old", "node": "h1"}
GOOD = {"cidr": "10.65.0.0/30", "affinity": "host:h1", "allocations": [HELD]}
STRAY = {"address": "::1", "handle": "x", "node": "h1"}
#: Each cannot be read for another reason.
SPECS = [
    {**GOOD, "allocations": [HELD, STRAY]},
    {**GOOD, "allocations": [HELD, {**HELD, "handle": "other"}]},
    {**GOOD, "released": [{"address": "10.65.0.1", "releasedAt": "2026-01-01T00:00:00.000Z"}]},
    {**GOOD, "released": [{"address": "zzz", "releasedAt": ""}]},
    {**GOOD, "affinity": "h1"},
    {**GOOD, "cidr": "x"},
    {**GOOD, "cidr": "10.65.0.1/30"},
    {**GOOD, "cidr": "10.65.0.0/8"},
    {**GOOD, "cidr": "10.99.0.0/30"},
]


def unchecked(kind: type[Resource], name: str, spec: dict[str, Any]) -> Resource:
    """Return a resource that nobody admitted."""
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind.__name__,
        "metadata": {"name": name, "generation": 1},
        "spec": spec,
    }
    event = codec.encode({"event": "resource.set", "resource": document})
    return codec.decoder(ResourceSet)(event).resource


def put(cloud: Cloud, kind: type[Resource], name: str, spec: dict[str, Any]) -> None:
    """Store what nobody admitted."""
    cloud._fold(ResourceSet(resource=unchecked(kind, name, spec)))


@pytest.fixture
def cloud() -> Cloud:
    """Return a pool of two blocks, and a host."""
    cloud = Cloud()
    cloud.put(Node, "h1")
    cloud.put(IPPool, "four", cidr="10.65.0.0/29", blockSize=30)
    return cloud


def given(cloud: Cloud, n: int) -> list[str]:
    """Ask for so many addresses, one by one; return what was given."""
    answers = [cloud.carry_out(Assign(handle=f"n{i}", node="h1", v4=1)) for i in range(n)]
    return sorted(a for one in answers if isinstance(one, Assigned) for a in one.addresses)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_block_that_cannot_be_read_keeps_its_range(cloud: Cloud, spec: dict[str, Any]) -> None:
    """Nothing is assigned of it, neither chosen nor named; it stays as it is stored; the rest of the pool goes on."""
    put(cloud, IPAMBlock, BLOCK, spec)
    stored = cloud.store.get(Key("IPAMBlock", "", BLOCK))
    assert given(cloud, 8) == [f"10.65.0.{n}" for n in (4, 5, 6, 7)]
    named = cloud.carry_out(Assign(handle="n", node="h1", addresses=("10.65.0.2",)))
    assert isinstance(named, Refused)
    assert BLOCK in str(named)
    freed = cloud.carry_out(Release(addresses=("10.65.0.1",)))
    assert isinstance(freed, Refused)
    cloud.carry_out(Release(node="h1", force=True))
    assert cloud.store.get(Key("IPAMBlock", "", BLOCK)) == stored


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("before", [False, True])
def test_the_next_valid_write_mends_a_block(
    cloud: Cloud, spec: dict[str, Any], before: bool
) -> None:
    """Then all is known as if it had never been otherwise; a removal frees the range."""
    if before:
        cloud.put(IPAMBlock, BLOCK, **GOOD)
    put(cloud, IPAMBlock, BLOCK, spec)
    assert [one.about for one in unreadable_faults(cloud.view)] == [f"IPAMBlock {BLOCK}"]
    cloud.put(IPAMBlock, BLOCK, **GOOD)
    assert not list(unreadable_faults(cloud.view))
    fresh = Cloud()
    fresh.put(Node, "h1")
    fresh.put(IPPool, "four", cidr="10.65.0.0/29", blockSize=30)
    fresh.put(IPAMBlock, BLOCK, **GOOD)
    assert picture(cloud.view) == picture(fresh.view)
    assert address_view(cloud.view, "10.65.0.1").handle == "old"
    put(cloud, IPAMBlock, BLOCK, spec)
    cloud._fold(ResourceRemoved(key=Key("IPAMBlock", "", BLOCK)))
    assert len(given(cloud, 9)) == 8


def test_no_claim_of_another_size_lies_across_it(cloud: Cloud) -> None:
    """A larger block is claimed beside it; a block around a named address shrinks to that address."""
    put(cloud, IPAMBlock, BLOCK, SPECS[0])
    cloud.put(IPPool, "four", cidr="10.65.0.0/28", blockSize=29)
    assert given(cloud, 16) == sorted(f"10.65.0.{n}" for n in range(8, 16))
    named = cloud.carry_out(Assign(handle="named", node="h1", addresses=("10.65.0.5",)))
    assert named == Assigned(addresses=("10.65.0.5",), changed=True)
    assert "10-65-0-5-32" in cloud.view.blocks


def test_the_range_is_that_of_the_name_or_of_the_cidr() -> None:
    """The name tells one block from another; where it is none, the cidr counts, if a block may be so large."""

    def found(name: str, cidr: str) -> str:
        return range_of(unchecked(IPAMBlock, name, {"cidr": cidr}))

    assert found("10-65-0-0-30", "10.65.0.0/28") == "10.65.0.0/30"
    assert found("fd00--7c0-122", "x") == "fd00::7c0/122"
    assert found("0--80-122", "x") == found("x", "::80/122") == "::80/122"
    assert found("any", "10.65.0.1/30") == "10.65.0.0/30"
    assert found("any", "0.0.0.0/0") == found("10-0-0-0-8", "x") == found("", "") == ""
    rng = Random(3)
    for _ in range(300):
        cidr = some_net(rng, (20, 32), (116, 128))
        assert found(block_name(admit_cidr(cidr)), "x") == admit_cidr(cidr)


def test_a_pool_that_cannot_be_read_gives_nothing(cloud: Cloud) -> None:
    """It is named with its fault to who asks for it, and its range stays its own."""
    put(cloud, IPPool, "odd", {"cidr": "10.67.0.1/16"})
    wanted = Assign(handle="n", node="h1", v4=1, pools=("odd",))
    refused = cloud.carry_out(wanted)
    assert isinstance(refused, Refused)
    assert "cannot be read" in str(refused)
    assert cloud.view.pool_ranges == {"four": "10.65.0.0/29", "odd": "10.67.0.0/16"}
    cloud.put(IPPool, "odd", cidr="10.67.0.0/16")
    assert isinstance(cloud.carry_out(wanted), Assigned)
    put(cloud, IPPool, "odd", {"cidr": "0.0.0.0/0"})
    assert cloud.view.pool_ranges == {"four": "10.65.0.0/29"}


def test_a_view_that_followed_knows_what_one_that_begins_does() -> None:
    """Good and bad values and removals in any order: ranges, handles and crossings are those of what is stored."""
    blocks: list[tuple[str, dict[str, Any]]] = [(BLOCK, spec) for spec in (GOOD, *SPECS)]
    blocks += [("odd", {"cidr": f"10.65.0.{n}/{m}"}) for n, m in ((0, 30), (4, 29), (9, 30))]
    blocks += [("odd", {"cidr": "x"}), ("10-65-0-0-29", {"cidr": "10.65.0.0/29"})]
    blocks += [("10-65-0-4-30", {"cidr": cidr}) for cidr in ("10.65.0.4/30", "")]
    pools = [("p", {"cidr": cidr}) for cidr in ("10.65.0.0/24", "10.65.0.1/24", "x", "10.0.0.0/8")]
    kinds: tuple[tuple[type[Resource], Any], ...] = ((IPAMBlock, blocks), (IPPool, pools))
    for seed in range(60):
        rng, cloud = Random(seed), Cloud()
        for _ in range(30):
            kind, choices = rng.choice(kinds)
            name, spec = rng.choice(choices)
            if rng.random() < 0.3:
                cloud._fold(ResourceRemoved(key=Key(kind.__name__, "", name)))
            else:
                put(cloud, kind, name, spec)
            begun = View()
            begun.follow(cloud.store)
            assert picture(begun) == picture(cloud.view)


# ---------------------------------------------------------------- what was admitted is no fault


def some_net(rng: Random, four: tuple[int, int], six: tuple[int, int]) -> str:
    """Return a network in any spelling, of a length between these."""
    if rng.random() < 0.5:
        address = f"{rng.randrange(1, 224)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"
        return f"{address}/{rng.randint(*four)}"
    groups = [rng.choice(["0", "00", "0000", f"{rng.randrange(65536):X}"]) for _ in range(8)]
    groups[0] = rng.choice(["fd00", "FD00", "2001", "0"])
    return f"{':'.join(groups)}/{rng.randint(*six)}"


def admit_cidr(net: str) -> Any:
    """Return a network as it is stored, host bits dropped."""
    spec = {"reservedCIDRs": [net]}
    stored = admit({"metadata": {"name": "a"}, "spec": spec}, kind=IPReservation)
    assert isinstance(stored, IPReservation)
    return stored.spec.reserved_cidrs[0]


def test_an_address_is_written_as_it_is_read() -> None:
    """What assigning writes is what admission would, also where the system spells it as IPv4 within IPv6."""
    cloud = Cloud()
    cloud.put(Node, "h1")
    cloud.put(IPPool, "six", cidr="::a00:0/112", blockSize=122)
    first = cloud.carry_out(Assign(handle="a", node="h1", v6=2))
    assert first.addresses[0].startswith("::a00:")
    again = cloud.carry_out(Assign(handle="b", node="h1", addresses=(first.addresses[1],)))
    assert isinstance(again, Refused)


def some_block(rng: Random) -> dict[str, Any]:
    """Return a block as the services write it, or nearly."""
    cidr = admit_cidr(some_net(rng, (20, 32), (116, 128)))
    span = span_of(cidr)
    picked = sorted(rng.sample(range(span.size), min(span.size, rng.randrange(6))))
    taken: list[Any] = []
    free: list[Any] = []
    for number in picked:
        address = text_of(span.family, span.first + number)
        if rng.random() < 0.5:
            taken.append({"address": address, "handle": "a", "node": "h1"})
        else:
            free.append({"address": address, "releasedAt": "2026-01-01T00:00:00.000Z"})
    affinity = rng.choice(["", "host:h1"])
    spec = {"cidr": cidr, "affinity": affinity, "allocations": taken, "released": free}
    return {"metadata": {"name": block_name(cidr)}, "spec": spec}


def some_document(rng: Random, kind: type[Resource]) -> dict[str, Any]:
    """Return what a user may send of a kind, in many spellings."""

    def net(four: tuple[int, int] = (0, 32), six: tuple[int, int] = (0, 128)) -> str:
        return some_net(rng, four, six)

    def ip() -> str:
        return net().partition("/")[0]

    selector = rng.choice(["", "all()", " a=='b'&&has( c )", "!(a in {'x',\"y\"})"])
    if kind is IPAMBlock:
        return some_block(rng)
    metadata: dict[str, Any] = {"name": "default"}
    spec: dict[str, Any]
    if kind is IPPool:
        # Host bits are refused: the range is given as it is, in another spelling.
        range_ = admit_cidr(net((1, 30), (1, 120)))
        spec = {"cidr": range_.upper(), "nodeSelector": selector or "all()"}
        spec |= rng.choice([{}, {"natOutgoing": True}, {"allowedUses": ["Workload"]}])
        spec |= rng.choice([{}, {"namespaceSelector": selector}, {"disabled": True}])
        spec |= rng.choice([{}, {"blockSize": 128 if ":" in range_ else 32}])
    elif kind is IPReservation:
        spec = {"reservedCIDRs": [net() for _ in range(rng.randrange(4))]}
    elif kind is IPAMConfiguration:
        spec = {"strictAffinity": rng.random() < 0.5, "maxBlocksPerHost": rng.randrange(9)}
    elif kind is Node:
        lengths = rng.choice(["", "/24"])
        spec = {"addresses": [{"address": rng.choice([ip(), net()])} for _ in range(2)]}
        bgp = {
            "asNumber": rng.choice([65000, "65000", "1.10"]),
            "ipv4Address": f"10.1.2.3{lengths}",
        }
        bgp |= rng.choice([{}, {"ipv6Address": f"FD00::0{rng.randrange(9)}"}])
        spec |= rng.choice([{}, {"bgp": bgp}])
    else:
        metadata = {"name": "vm1", "namespace": "default"}
        nets = [rng.choice([ip(), net((32, 32), (128, 128))]) for _ in range(rng.randrange(3))]
        spec = {"node": "h1", "interfaceName": "tap1", "ipNetworks": nets}
    return {"metadata": metadata, "spec": spec}


JUDGED = (IPPool, IPReservation, IPAMConfiguration, IPAMBlock, Node, WorkloadEndpoint)


@pytest.mark.parametrize("kind", JUDGED, ids=lambda kind: kind.__name__)
def test_what_was_admitted_is_no_fault(kind: type[Resource]) -> None:
    """Read back from the stream it is what it was: canonical form is stable, and nothing is found wrong with it."""
    rng, n = Random(kind.__name__), 0
    for _ in range(400):
        document = some_document(rng, kind)
        try:
            resource = admit(codec.encode(document), kind=kind)
        except Invalid:
            continue
        n += 1
        event = codec.decoder(ResourceSet)(codec.encode(ResourceSet(resource=resource)))
        assert event.resource == resource
        assert fault_of(event.resource) == "", document
        assert admit(codec.encode(resource), kind=kind) == resource
    assert n > 100, "too few were admitted to say anything"
