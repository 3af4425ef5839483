"""Choosing and taking back: a random life of pools, against the plain rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hopwall_api import intent
from hopwall_api.intent import Stamp
from hopwall_api.ipam.demands import Assign, Release
from hopwall_api.ipam.desk import times_at
from hopwall_api.ipam.draft import Sheet
from hopwall_api.ipam.plan import Refused, assign, release
from hopwall_api.ipam.spans import span_of
from hopwall_api.ipam.view import View
from hopwall_api.store import Store
from hopwall_model import codec
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import (
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IPReservation,
    Key,
    Metadata,
    Node,
    Resource,
    key_of,
)
from hopwall_model.validate import admit

HOSTS = ("h1", "h2", "h3")
HANDLES = ("a", "b", "c", "d")
STAMP = Stamp(uid="0190d0c2-0000-7000-8000-000000000001", at="2026-01-01T00:00:00.000Z")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESSES = (*(f"10.65.0.{n}" for n in (0, 3, 8, 9, 14, 15, 21)), "fd00::5")
RESERVED = ("10.65.0.0/30", "10.65.0.8/29", "10.65.0.5/32", "fd00::/124")


class Cloud:
    """A store, the view on it, and a clock that only the test turns."""

    def __init__(self) -> None:
        self.store = Store(ring_size=8)
        self.store.begin("s")
        self.store.caught_up(0)
        self.view = View()
        self.at = BEGIN

    @property
    def now(self) -> str:
        """The time as the services write it."""
        return self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def put(self, kind: type[Resource], name: str, **spec: Any) -> None:
        """Store a resource as admission leaves it."""
        document = {"metadata": {"name": name}, "spec": spec}
        self._fold(ResourceSet(resource=admit(codec.encode(document), kind=kind)))

    def _fold(self, event: ResourceSet | ResourceRemoved) -> None:
        self.store.fold(self.store.revision + 1, event)
        self.view.follow(self.store)

    def carry_out(self, wanted: Assign | Release) -> Any:
        """Plan and store; return what was answered, or the refusal."""
        sheet = Sheet(self.view)
        times = times_at(self.now, self.view.settings.ip_cooldown_seconds)
        try:
            if isinstance(wanted, Assign):
                answer: Any = assign(sheet, wanted, times)
            else:
                answer = release(sheet, wanted, times)
        except Refused as refused:
            assert sheet.drafts == {}
            return refused
        for draft in sheet.touched():
            key = Key("IPAMBlock", "", draft.name)
            if draft.gone:
                self._fold(ResourceRemoved(key=key))
                continue
            resource = IPAMBlock(
                api_version="projectcalico.org/v3",
                metadata=Metadata(name=draft.name),
                spec=draft.spec(),
            )
            assert admit(codec.encode(resource)) == resource
            plan = intent.plan_set(key, resource, self.store.held(key), STAMP)
            assert key_of(resource) == key
            if plan.event is not None:
                assert isinstance(plan.event, ResourceSet)
                self._fold(plan.event)
        return answer


def picture(view: View) -> dict[str, Any]:
    """Return what a view knows, to compare."""
    names = (
        "faults settings pools pool_ranges reservations nodes blocks_of_host crossing addresses_of_handle"
        " endpoints_at endpoints_on _hosts_at _order"
    )
    known = {name: getattr(view, name) for name in names.split()}
    return known | {"blocks": {name: block.spec for name, block in view.blocks.items()}}


class Life(RuleBasedStateMachine):
    """Hosts come and go for addresses; pools, reservations and settings change under them."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud()
        for host in HOSTS:
            self.cloud.put(Node, host)
        self.cloud.put(IPPool, "four", cidr="10.65.0.0/28", blockSize=30)
        self.cloud.put(IPPool, "six", cidr="fd00::/121", blockSize=124)
        self.released_at: dict[str, datetime] = {}

    @rule(seconds=st.sampled_from([0, 1, 29, 31, 61]))
    def time_passes(self, seconds: int) -> None:
        """Let some time pass."""
        self.cloud.at += timedelta(seconds=seconds)

    @rule(strict=st.booleans(), most=st.sampled_from([0, 1, 3]), rest=st.sampled_from([0, 0, 30]))
    def configure(self, strict: bool, most: int, rest: int) -> None:
        """Change how addresses are assigned."""
        self.cloud.put(
            IPAMConfiguration,
            "default",
            strictAffinity=strict,
            maxBlocksPerHost=most,
            ipCooldownSeconds=rest,
        )

    @rule(nets=st.lists(st.sampled_from(RESERVED), unique=True))
    def reserve(self, nets: list[str]) -> None:
        """Reserve other addresses than before."""
        self.cloud.put(IPReservation, "r", reservedCIDRs=nets)

    @rule(size=st.sampled_from([28, 29, 30, 32]), disabled=st.booleans())
    def change_pool(self, size: int, disabled: bool) -> None:
        """Give the pool another size of blocks, or close it."""
        self.cloud.put(IPPool, "four", cidr="10.65.0.0/28", blockSize=size, disabled=disabled)

    @rule(
        handle=st.sampled_from(HANDLES),
        node=st.sampled_from(HOSTS),
        v4=st.sampled_from([0, 1, 1, 2, 6]),
        v6=st.integers(0, 3),
        named=st.lists(st.sampled_from(ADDRESSES), max_size=1),
    )
    def assigned(self, handle: str, node: str, v4: int, v6: int, named: list[str]) -> None:
        """What is answered keeps every rule of choosing, or nothing changed."""
        view = self.cloud.view
        before = set(view.addresses_of_handle.get(handle, ()))
        owners = {a: h for h, addresses in view.addresses_of_handle.items() for a in addresses}
        strict, rest = view.settings.strict_affinity, view.settings.ip_cooldown_seconds
        kept = [span for spans in view.reservations.values() for span in spans]
        disabled = view.pools["four"].spec.disabled
        wanted = Assign(handle=handle, node=node, v4=v4, v6=v6, addresses=tuple(named))
        answer = self.cloud.carry_out(wanted)
        if isinstance(answer, Refused):
            assert set(view.addresses_of_handle.get(handle, ())) == before
            return
        new = set(answer.addresses) - before
        assert before | set(named) <= set(answer.addresses)
        assert sum("." in a for a in answer.addresses) >= v4
        assert sum(":" in a for a in answer.addresses) >= v6
        for address in new:
            span = span_of(address)
            assert address not in owners
            assert view.pool_of(span) is not None
            block = view.block_at(address)
            assert block is not None
            assert not (strict and block.spec.host != node)
            assert not (disabled and "." in address)
            if address not in named:
                assert not any(one.holds(span) for one in kept)
                since = self.released_at.get(address, BEGIN - timedelta(days=1))
                assert since + timedelta(seconds=rest) <= self.cloud.at
        assert answer.changed == bool(new)

    @rule(handle=st.sampled_from(HANDLES))
    def released(self, handle: str) -> None:
        """All of the handle is free, and rests from now on."""
        had = self.cloud.view.addresses_of_handle.get(handle, ())
        answer = self.cloud.carry_out(Release(handle=handle))
        assert set(answer.released) == set(had)
        assert handle not in self.cloud.view.addresses_of_handle
        self.released_at |= dict.fromkeys(had, self.cloud.at)

    @rule(address=st.sampled_from(ADDRESSES), handle=st.sampled_from(("", *HANDLES)))
    def one_released(self, address: str, handle: str) -> None:
        """Only the handle that was named loses it."""
        view = self.cloud.view
        owner = next((h for h, has in view.addresses_of_handle.items() if address in has), "")
        answer = self.cloud.carry_out(Release(addresses=(address,), handle=handle))
        if owner and handle not in ("", owner):
            assert isinstance(answer, Refused)
        else:
            assert answer.released == ((address,) if owner else ())
            if owner:
                self.released_at[address] = self.cloud.at

    @rule(node=st.sampled_from(HOSTS), force=st.booleans())
    def host_gives_back(self, node: str, force: bool) -> None:
        """A host that is there keeps its blocks; else, or by force, none is left; no address is lost."""
        before = dict(self.cloud.view.addresses_of_handle)
        had = list(self.cloud.view.blocks_of_host.get(node, ()))
        answer = self.cloud.carry_out(Release(node=node, force=force))
        there = node in self.cloud.view.nodes or node in self.cloud.view.endpoints_on
        left = self.cloud.view.blocks_of_host.get(node, [])
        assert isinstance(answer, Refused) == (there and not force)
        assert left == (had if isinstance(answer, Refused) else [])
        assert self.cloud.view.addresses_of_handle == before

    @invariant()
    def nobody_shares(self) -> None:
        """No address in two hands, no two blocks over each other, every block in a pool."""
        view = self.cloud.view
        had = [a for addresses in view.addresses_of_handle.values() for a in addresses]
        assert len(had) == len(set(had))
        assert view.crossing == set()
        for block in view.blocks.values():
            assert [other.name for other in view.overlapping(block.span)] == [block.name]
            assert view.pool_of(block.span) is not None

    @invariant()
    def following_equals_building(self) -> None:
        """The view that followed is the view that is built from nothing."""
        twin = View()
        twin.follow(self.cloud.store)
        assert picture(twin) == picture(self.cloud.view)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=100,
    stateful_step_count=50,
)


def test_an_idle_block_changes_hosts_only_after_a_while() -> None:
    """A host whose pool is full takes an empty block of another after a minute, not before."""
    cloud = Cloud()
    for host in HOSTS:
        cloud.put(Node, host)
    cloud.put(IPPool, "p", cidr="10.65.0.0/30", blockSize=30)
    cloud.put(IPAMConfiguration, "default", strictAffinity=True, ipCooldownSeconds=0)
    cloud.carry_out(Assign(handle="a", node="h1", v4=1))
    cloud.carry_out(Release(handle="a"))
    cloud.at += timedelta(seconds=59)
    assert isinstance(cloud.carry_out(Assign(handle="b", node="h2", v4=1)), Refused)
    cloud.at += timedelta(seconds=1)
    assert cloud.carry_out(Assign(handle="b", node="h2", v4=1)).changed
    (block,) = cloud.view.blocks.values()
    assert block.spec.host == "h2"


def test_the_longest_rested_comes_first() -> None:
    """Never used addresses go first, then those released longest ago."""
    cloud = Cloud()
    cloud.put(Node, "h1")
    cloud.put(IPPool, "p", cidr="10.65.0.0/30", blockSize=30)
    cloud.put(IPAMConfiguration, "default", ipCooldownSeconds=0)
    for handle in "abc":
        cloud.carry_out(Assign(handle=handle, node="h1", v4=1))
    for handle in "bac":
        cloud.at += timedelta(seconds=1)
        cloud.carry_out(Release(handle=handle))
    given = [cloud.carry_out(Assign(handle=h, node="h1", v4=1)).addresses[0] for h in "wxyz"]
    assert given == ["10.65.0.3", "10.65.0.1", "10.65.0.0", "10.65.0.2"]


def test_a_huge_pool_with_a_huge_reservation_is_searched_at_once() -> None:
    """The search leaps over what is reserved: its cost is not the size of the pool."""
    cloud = Cloud()
    cloud.put(Node, "h1")
    cloud.put(IPPool, "p", cidr="fd00::/32")
    cloud.put(IPReservation, "r", reservedCIDRs=["fd00::/33"])
    answer = cloud.carry_out(Assign(handle="a", node="h1", v6=1))
    assert answer.addresses[0].startswith("fd00:0:")
    cloud.put(IPReservation, "r", reservedCIDRs=["fd00::/32"])
    assert isinstance(cloud.carry_out(Assign(handle="b", node="h1", v6=100)), Refused)
