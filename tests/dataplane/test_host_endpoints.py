"""Which interface has which host endpoint, what is rendered of it, and when NATS would be cut off."""

import asyncio
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.failsafe import parse_failsafe
from hopwall_dataplane.host_endpoints import Way
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_model.updates import (
    NAT_POOLS,
    POOLS,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    Nat,
    NeedRemoved,
    PolicyId,
    PolicySet,
    ResolvedRule,
    Scope,
    SetBucket,
    SetId,
    TierPolicies,
    Update,
)
from tests.dataplane.test_desired import endpoint, step
from tests.dataplane.test_kernel import sweep, turn
from tests.support.fake_kernel import FakeHost

SETTINGS = RenderSettings(
    marks=layout(), prefixes=("tap",), failsafe_in=(parse_failsafe("tcp:22"),)
)
SERVER = ("192.0.2.9", 4222)
LINKS = {
    "lo": LinkState(1, up=True, addresses=frozenset({"127.0.0.1", "192.0.2.8"})),
    "eth0": LinkState(2, up=True, addresses=frozenset({"192.0.2.1", "fd00::1"})),
    "eth1": LinkState(3, up=True, addresses=frozenset({"198.51.100.1"})),
    "tapx": LinkState(4, up=True, addresses=frozenset({"192.0.2.7"})),
}
WAYS = (Way(*SERVER, source="192.0.2.1", interface="eth0"),)
JUMP = re.compile(r"-[jg] (hw-\S+)")
ANY = PolicyId("gnp/any")


def host(settings: RenderSettings = SETTINGS) -> Desired:
    """Return a host with two uplinks, NATS behind the first."""
    desired = Desired("h1", settings, tuple(Family), "", nats=(SERVER,))
    desired.set_links(LINKS, WAYS)
    return desired


def hep(name: str, interface: str = "eth0", **fields: object) -> HostEndpointSet:
    """Return a host endpoint."""
    return HostEndpointSet(id=HostEndpointId(name), interface=interface, **fields)  # type: ignore[arg-type]


def lines(desired: Desired, chain: str, table: TableName = "filter") -> tuple[str, ...]:
    """Return the IPv4 lines of a chain, none where there is none."""
    return desired.chains.tables[Family.V4, table].desired.get(chain, ())


def ruled(desired: Desired, dispatch: str = "hw-host-in") -> dict[str, str]:
    """Return interface → head, "" for the rest; none for those nobody asks."""
    found = {}
    for line in lines(desired, dispatch):
        match = re.fullmatch(r"(?:-[io] (\S+) )?-g (?!hw-host-)(\S+)", line)
        if match:
            found[match[1] or ""] = match[2]
    return found


#: What people know a host endpoint's fault towards NATS by.
WAY = "way to NATS of host endpoint"


def refused(desired: Desired) -> dict[str, str]:
    """Return object → reason."""
    return {r.object: r.reason for r in desired.refusals()}


def test_the_lowest_id_has_the_interface() -> None:
    """Whoever came first; the others are told why they have nothing, and take over when it goes."""
    desired = host()
    desired.apply(step(hep("b"), hep("c", "", expected_ips=("192.0.2.1/32",)), hep("a")))
    only_a = ruled(desired)
    assert list(only_a) == ["eth0"]
    why = "Interface eth0 is host endpoint a's, whose name comes first."
    told = refused(desired)
    assert told["host endpoint b"] == told["host endpoint c"] == why
    desired.apply(step(HostEndpointRemoved(id=HostEndpointId("a"))))
    assert ruled(desired)["eth0"] != only_a["eth0"]
    assert list(refused(desired)) == ["host endpoint c", f"{WAY} b"]


def test_expected_addresses_follow_the_interface_that_has_them() -> None:
    """Never a workload's interface, never loopback; an address that moves takes the endpoint along."""
    desired = host()
    ips = ("198.51.100.1/32", "192.0.2.7/32", "192.0.2.8/32", "fd00::1/128")
    desired.apply(step(hep("a", "", expected_ips=ips)))
    assert list(ruled(desired)) == ["eth0", "eth1"]
    desired.set_links({**LINKS, "eth1": LinkState(3, up=True)}, WAYS)
    assert list(ruled(desired)) == ["eth0"]


def test_all_interfaces_are_those_that_nobody_names() -> None:
    """Workloads' and loopback are left out; a named one is its own, also where it asks nothing."""
    desired = host()
    forward = (TierPolicies(name="t", ingress=(ANY,)),)
    desired.apply(step(hep("all", "*", forward=forward), hep("eth", "eth1"), hep("more", "*")))
    assert list(ruled(desired)) == ["eth1", ""]
    assert lines(desired, "hw-host-forward-in")[:3] == (
        "-i tap+ -j RETURN",
        "-i lo -j RETURN",
        "-i eth1 -g hw-host-unasked",
    )
    assert list(ruled(desired, "hw-host-forward-in")) == [""]
    assert "host endpoint all's" in refused(desired)["host endpoint more"]


@pytest.mark.parametrize("name", ["tapx", "lo", "all", "eth0 -j ACCEPT", "eth+", "-x"])
def test_a_name_that_is_no_host_interfaces_is_refused(name: str) -> None:
    """It neither reaches a rule, nor takes a workload's interface from its own filter."""
    desired = host()
    desired.apply(step(hep("a", name)))
    assert lines(desired, "hw-host-in") == ()
    assert list(refused(desired)) == ["host endpoint a"]


def test_the_last_host_endpoint_takes_everything_with_it() -> None:
    """The chains and jumps are those of a host that never had one."""
    tiers = (TierPolicies(name="t", ingress=(ANY,), egress=(ANY,)),)
    full = hep("a", tiers=tiers, forward=tiers, pre_dnat=tiers, untracked=tiers)
    desired, never = host(), host()
    desired.apply(step(full))
    assert desired.chains.tables[Family.V4, "mangle"].jumps[-1].builtin == "PREROUTING"
    desired.apply(step(full=True))
    for key, table in never.chains.tables.items():
        assert desired.chains.tables[key].desired == table.desired
        assert desired.chains.tables[key].jumps == table.jumps


def test_untracked_lists_are_not_for_all_interfaces() -> None:
    """Only a named interface can do without tracking."""
    desired = host()
    desired.apply(step(hep("a", "*", untracked=(TierPolicies(name="t", ingress=(ANY,)),))))
    assert not [n for n in desired.chains.tables[Family.V4, "raw"].desired if "host" in n]


def depth(chains: Mapping[str, tuple[str, ...]], chain: str) -> int:
    """Count the chains on the longest path from this one."""
    targets = {target for line in chains[chain] for target in JUMP.findall(line)}
    return 1 + max((depth(chains, target) for target in targets), default=0)


def test_no_path_through_host_endpoints_is_longer_than_nft_takes() -> None:
    """16 chains, the kernel's own among them, however many tiers pass on."""
    tiers = (TierPolicies(name="t", ingress=(ANY,), egress=(ANY,)),) * 8
    rules = tuple(ResolvedRule(id=f"r{i}", action=a) for i, a in enumerate(("pass", "allow")))  # type: ignore[arg-type]
    desired = host()
    passing = PolicySet(id=ANY, version=1, ingress=rules, egress=rules)
    desired.apply(
        step(passing, hep("a", tiers=tiers, forward=tiers, pre_dnat=tiers, untracked=tiers))
    )
    for table in desired.chains.tables.values():
        assert all(1 + depth(table.desired, jump.target) <= 16 for jump in table.jumps)


TIER = TierPolicies(name="t", ingress=(ANY,), egress=(ANY,))
FLOATING = Nat("203.0.113.1/32", "10.65.0.1/32")


@st.composite
def news(draw: st.DrawFn) -> Update:
    """Draw a change of host endpoints, of what they ask, or of what is translated."""
    name = draw(st.sampled_from("abc"))
    lists = {
        kind: draw(st.sampled_from([(), (TIER,)]))
        for kind in ("tiers", "forward", "pre_dnat", "untracked")
    }
    interface = draw(st.sampled_from(["", "*", "eth0", "eth1", "tapx"]))
    workload = endpoint(1, address=1)
    floating = structs.replace(workload, nats=draw(st.sampled_from([(), (FLOATING,)])))
    ranges = draw(st.sampled_from([(), ("10.65.0.0/16",)]))
    choices: list[Update] = [
        hep(name, interface, expected_ips=("192.0.2.1/32",), **lists),
        HostEndpointRemoved(id=HostEndpointId(name)),
        PolicySet(id=ANY, version=1),
        allowing(),
        NeedRemoved(scope=Scope(f"policy/{ANY}")),
        floating,
        SetBucket(id=POOLS, version=1, members=("10.65.0.0/16",)),
        SetBucket(id=NAT_POOLS, version=1, members=ranges),
        NeedRemoved(scope=Scope(f"set/{POOLS}")),
    ]
    return draw(st.sampled_from(choices))


@given(st.lists(st.lists(news(), min_size=1, max_size=3), min_size=1, max_size=8))
def test_the_kernel_holds_what_the_last_state_says_and_nothing_else(
    life: list[list[Update]],
) -> None:
    """Whatever came before: the tables are those of a host that was told the end alone."""

    async def live(steps: list[tuple[Update, ...]]) -> dict[Family, dict[str, object]]:
        fake = FakeHost()
        kernel = fake.agent()
        for updates in steps:
            assert not await turn(kernel, *updates)
            await kernel.sweep()
        await sweep(kernel)
        return {
            family: {
                table: {name: chain.lines for name, chain in chains.items()}
                for table, chains in tables.tables.items()
            }
            for family, tables in fake.tables.items()
        }

    steps = [tuple(updates) for updates in life]
    last: dict[object, Update] = {}
    for update in (update for updates in steps for update in updates):
        match update:
            case HostEndpointSet() | HostEndpointRemoved() | EndpointSet():
                last[update.id] = update
            case PolicySet() | SetBucket() | NeedRemoved():
                last[update.scope] = update
    assert asyncio.run(live(steps)) == asyncio.run(live([tuple(last.values())]))


# ---------------------------------------------------------------- the way to NATS


def allowing(sets: tuple[SetId, ...] = ()) -> PolicySet:
    """Return a policy that allows all, or what is in these sets."""
    rule = ResolvedRule(id="r", action="allow", destination=Entity(sets=sets))
    return PolicySet(id=ANY, version=1, ingress=(rule,), egress=(rule,))


BUS = SetId("s:bus")
TIERS = (TierPolicies(name="t", ingress=(ANY,), egress=(ANY,)),)
OUT = (TierPolicies(name="t", egress=(ANY,)),)
MEMBERS = SetBucket(id=BUS, version=1, members=("192.0.2.0/24",))


@pytest.mark.parametrize(
    ("updates", "cut"),
    [
        ((hep("a"),), True),
        ((hep("a", "*"),), True),
        ((hep("a", "eth1"),), False),
        ((hep("a", force=True),), False),
        ((allowing(), hep("a", tiers=TIERS)), False),
        ((hep("a", tiers=TIERS),), True),
        ((MEMBERS, allowing((BUS,)), hep("a", tiers=OUT)), False),
        ((allowing((BUS,)), hep("a", tiers=OUT)), True),
        ((allowing(), hep("a", untracked=TIERS)), False),
        ((allowing(), hep("a", untracked=OUT)), True),
        ((allowing(), hep("a", untracked=OUT, tiers=TIERS)), False),
    ],
)
def test_who_would_cut_nats_off_is_told(updates: tuple[Update, ...], cut: bool) -> None:
    """Every list on the way counts, with the policies and sets of now; the way stays open all the same."""
    desired = host()
    desired.apply(step(*updates))
    assert (f"{WAY} a" in refused(desired)) is cut
    head = ruled(desired, "hw-host-out").popitem()[1]
    pinhole = "-p tcp -m tcp --dport 4222 -d 192.0.2.9/32 -j ACCEPT"
    forced = isinstance(updates[-1], HostEndpointSet) and updates[-1].force
    assert (pinhole in lines(desired, head)) is not forced


def test_it_is_told_as_soon_as_a_policy_changes_and_no_longer_than_that() -> None:
    """The chains stay as they are: nothing is rewritten to keep the way open."""
    desired = host()
    desired.apply(step(allowing(), hep("a", tiers=TIERS)))
    head = ruled(desired, "hw-host-out")["eth0"]
    before = lines(desired, head)
    desired.apply(step(NeedRemoved(scope=Scope(f"policy/{ANY}"))))
    assert "NATS at 192.0.2.9:4222" in refused(desired)[f"{WAY} a"]
    assert lines(desired, head) == before
    desired.apply(step(allowing()))
    assert refused(desired) == {}


def test_a_failsafe_port_needs_no_policy() -> None:
    """What is in failsafe_outbound anyway is nothing to tell of."""
    safe = RenderSettings(
        marks=layout(), prefixes=("tap",), failsafe_out=(parse_failsafe("tcp:4222"),)
    )
    desired = host(safe)
    desired.apply(step(hep("a")))
    assert refused(desired) == {}


def test_a_server_on_this_host_cannot_be_cut_off() -> None:
    """The way to it is loopback."""
    desired = host()
    desired.set_links(LINKS, (Way("192.0.2.1", 4222, "192.0.2.1", ""),))
    desired.apply(step(hep("a"), hep("b", "*")))
    assert refused(desired) == {}
