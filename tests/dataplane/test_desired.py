"""The fold of steps: whatever the path, the same state; and what single steps cost."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.classes import class_key
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.ipsets.elements import AddElements
from hopwall_dataplane.iptables.render_policy import CLOSED, policy_chain
from hopwall_dataplane.iptables.static import RenderSettings, from_set, relay_set, to_set
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.routes.route import Route
from hopwall_model.names import set_name
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    Lost,
    NeedRemoved,
    PolicyId,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    Scope,
    SetBucket,
    SetId,
    TierPolicies,
    Update,
)

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
LINKS = {f"tap{i}": LinkState(index=i, up=True) for i in range(4)}


def fresh(mask: int = 0xFFFFFF00) -> Desired:
    """Return a host that knows nothing but its links."""
    settings = RenderSettings(marks=layout(mask), prefixes=("tap",))
    desired = Desired("h1", settings, (Family.V4, Family.V6), "169.254.1.1")
    desired.set_links(LINKS)
    return desired


def is_closed(bodies: tuple[str, ...]) -> bool:
    """Tell whether a chain is one drop, whatever identity it bears."""
    return tuple(map(plain, bodies)) == CLOSED


def step(*updates: Update, full: bool = False, fresh_scopes: tuple[Scope, ...] = ()) -> Step:
    """Return a step."""
    return Step("e", 1, full=full, updates=updates, fresh=frozenset(fresh_scopes))


def endpoint(number: int, *policies: str, address: int = 0, tap: int = 0) -> EndpointSet:
    """Return endpoint d/e<number> with these ingress policies."""
    ids = tuple(PolicyId(p) for p in policies)
    return EndpointSet(
        id=EndpointId(f"d/e{number}"),
        interface=f"tap{tap}",
        addresses=(f"10.65.0.{address}/32", f"fd65::{address:x}/128"),
        tiers=(TierPolicies(name="default", ingress=ids),) if ids else (),
    )


def policy(name: str, *sets: str, action: str = "allow") -> PolicySet:
    """Return a policy whose one rule names these sets."""
    source = Entity(sets=tuple(SetId(s) for s in sets))
    rule = ResolvedRule(id="r", action=action, source=source)  # type: ignore[arg-type]
    return PolicySet(id=PolicyId(name), version=1, ingress=(rule,), egress=(rule,))


def picture(desired: Desired) -> dict[str, object]:
    """Return all that is desired, with classes told by what they are instead of by number."""
    marks = desired.settings.marks
    named = {c.number: c.key.digest for c in desired.classes.classes.values()}

    def classless(text: str) -> str:
        return re.sub(r"hw-c([ft])[0-9a-f]+-", r"hw-c\1-", text)

    chains = {
        (family, table, classless(name)): tuple(classless(body) for body in bodies)
        for (family, table), held in desired.chains.tables.items()
        for name, bodies in held.desired.items()
        if not name.startswith(("hw-from", "hw-to"))
    }
    identities = {}
    for family in desired.families:
        for name, bits in ((from_set(family), marks.source), (to_set(family), marks.destination)):
            for element, mark in desired.identity.content(name).desired.items():
                assert mark is not None
                assert mark.mask == bits.mask
                identities[name, element] = named[mark.value >> bits.shift]
    sets = {
        name: sorted(desired.members.content(name).desired)
        for name in desired.members.specs.desired
    }
    routes = dict(desired.routes.desired)
    return {"chains": chains, "identities": identities, "sets": sets, "routes": routes}


policies = st.sampled_from(["gnp/a", "gnp/b", "gnp/c"])
sets = st.sampled_from(["s:x", "s:y"])
members = st.lists(
    st.sampled_from([f"10.9.{i}.0/24" for i in range(8)] + ["fd09::/64"]), unique=True
)


@st.composite
def changes(draw: st.DrawFn) -> Update:
    """Draw one change of anything."""
    kind = draw(st.sampled_from(["endpoint", "gone", "policy", "set", "routes", "drop"]))
    if kind == "endpoint":
        chosen = draw(st.lists(policies, max_size=2, unique=True))
        number = draw(st.integers(0, 3))
        return endpoint(
            number, *chosen, address=draw(st.integers(1, 4)), tap=draw(st.integers(0, 5))
        )
    if kind == "gone":
        return EndpointRemoved(id=EndpointId(f"d/e{draw(st.integers(0, 3))}"))
    if kind == "policy":
        action = draw(st.sampled_from(["allow", "deny", "pass"]))
        return policy(draw(policies), *draw(st.lists(sets, max_size=2, unique=True)), action=action)
    if kind == "set":
        return SetBucket(id=SetId(draw(sets)), version=1, members=tuple(sorted(draw(members))))
    if kind == "routes":
        cidrs = draw(st.lists(st.integers(1, 6), unique=True))
        return RoutesBucket(
            host=draw(st.sampled_from(["h1", "h2", "h3"])),
            version=1,
            gateway_v4=draw(st.sampled_from(["", "172.18.203.126", "172.18.203.129"])),
            cidrs=tuple(sorted(f"10.65.0.{n}/32" for n in cidrs)),
        )
    scope = draw(st.sampled_from(["policy/gnp/a", "set/s:x", "routes/h2"]))
    return NeedRemoved(scope=Scope(scope))


def final(updates: list[Update]) -> Step:
    """Return the snapshot that says what the changes leave."""
    endpoints: dict[str, Update] = {}
    pieces: dict[Scope, Update] = {}
    for update in updates:
        match update:
            case EndpointSet():
                endpoints[update.id] = update
            case EndpointRemoved():
                endpoints.pop(update.id, None)
            case NeedRemoved():
                pieces.pop(update.scope, None)
            case PolicySet() | SetBucket() | RoutesBucket():
                pieces[update.scope] = update
    return step(*pieces.values(), *endpoints.values(), full=True, fresh_scopes=tuple(pieces))


@given(st.lists(changes(), max_size=25), st.integers(0, 25))
def test_the_path_does_not_matter(updates: list[Update], cut: int) -> None:
    """Steps one by one, all in two steps, and a snapshot at the end or alone: one picture."""
    one_by_one = fresh()
    for update in updates:
        one_by_one.apply(step(update))
    alone = fresh()
    alone.apply(final(updates))
    assert picture(one_by_one) == picture(alone)

    resnapped = fresh()
    for update in updates[:cut]:
        resnapped.apply(step(update))
    resnapped.apply(final(updates))
    assert picture(resnapped) == picture(alone)


@given(st.lists(changes(), max_size=20), st.permutations(sorted(LINKS)))
def test_links_may_come_at_any_time(updates: list[Update], order: list[str]) -> None:
    """Whether an interface comes before or after its endpoint makes no difference."""
    late = Desired("h1", SETTINGS, (Family.V4, Family.V6), "169.254.1.1")
    present: dict[str, LinkState] = {}
    for i, update in enumerate(updates):
        if i < len(order):
            present = {**present, order[i]: LINKS[order[i]]}
            late.set_links(present)
        late.apply(step(update))
    late.set_links(LINKS)
    early = fresh()
    for update in updates:
        early.apply(step(update))
    assert picture(late) == picture(early)


def test_a_member_of_a_known_class_changes_no_chain() -> None:
    """Joining is two elements a family and a route: no chain is dirty."""
    desired = fresh()
    desired.apply(step(policy("gnp/a"), endpoint(0, "gnp/a", address=1)))
    for table in desired.chains.tables.values():
        table.dirty.clear()
    desired.apply(step(endpoint(1, "gnp/a", address=2, tap=1)))
    assert not any(table.dirty for table in desired.chains.tables.values())
    adds = [op for op in desired.identity.plan_additions() if isinstance(op, AddElements)]
    assert {op.spec.name for op in adds} == {"hw4-from", "hw4-to", "hw6-from", "hw6-to"}
    assert desired.routes.desired[Route("10.65.0.2/32", "link").key].interface == "tap1"


def test_who_may_send_for_others_is_known_as_a_router_in_that_family_alone() -> None:
    """Its addresses and prefixes are in the set of relays while it has prefixes, and nobody else's are."""
    desired = fresh()
    router = structs.replace(endpoint(0, address=1), extra_sources=("10.99.0.0/24",))
    desired.apply(step(router, endpoint(1, address=2, tap=1)))
    held = {
        family: {e.cidr: m for e, m in desired.identity.content(relay_set(family)).desired.items()}
        for family in Family
    }
    assert held == {Family.V4: {"10.65.0.1/32": None, "10.99.0.0/24": None}, Family.V6: {}}
    desired.apply(step(endpoint(0, address=1)))
    assert not desired.identity.content(relay_set(Family.V4)).desired


def test_a_policy_change_dirties_only_its_own_chains() -> None:
    """A policy shared by many classes is rewritten once per direction and family."""
    desired = fresh()
    classes = [endpoint(i, "gnp/a", *(["gnp/b"] * (i % 2)), address=i + 1) for i in range(4)]
    desired.apply(step(policy("gnp/a"), policy("gnp/b"), *classes))
    for table in desired.chains.tables.values():
        table.dirty.clear()
    desired.apply(step(policy("gnp/a", action="deny")))
    dirty: Mapping[object, set[str]] = {
        k: t.dirty for k, t in desired.chains.tables.items() if t.dirty
    }
    assert {key: len(names) for key, names in dirty.items()} == {
        (Family.V4, "filter"): 1,
        (Family.V6, "filter"): 1,
    }


def test_an_endpoint_without_room_for_its_class_is_closed_and_named() -> None:
    """More classes than the mask has room for: no identity, no route, and a sentence."""
    desired = fresh(mask=0x3FF)  # ten bits: four a direction, fourteen classes
    for number in range(15):
        desired.apply(step(policy(f"gnp/{number}")))
        desired.apply(step(endpoint(number, f"gnp/{number}", address=number + 1)))
    (refused,) = desired.refusals()
    assert refused.object == "endpoint d/e14"
    assert "mark_mask" in refused.reason
    assert Route("10.65.0.15/32", "link").key not in desired.routes.desired
    desired.classes.forget("nobody")
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e14"))))
    assert desired.refusals() == ()


def test_a_local_address_beats_the_same_address_elsewhere() -> None:
    """While an endpoint moves here, its old host's route does not win."""
    desired = fresh()
    remote = RoutesBucket(
        host="h2", version=1, gateway_v4="172.18.203.126", cidrs=("10.65.0.1/32",)
    )
    desired.apply(step(remote, endpoint(0, address=1)))
    key = Route("10.65.0.1/32", "link").key
    assert desired.routes.desired[key].kind == "link"
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e0"))))
    assert desired.routes.desired[key].kind == "via"


# ---------------------------------------------------------------- what must stay closed


def held(desired: Desired, number: int) -> tuple[list[object], list[object]]:
    """Return the identity elements and routes that carry an endpoint's IPv4 address."""
    cidr = f"10.65.0.{number}/32"
    names = [name(family) for family in Family for name in (from_set, to_set)]
    elements = [
        element
        for name in names
        for element in desired.identity.content(name).desired
        if element.cidr == cidr
    ]
    return list(elements), [r for r in desired.routes.desired.values() if r.cidr == cidr]


def test_an_endpoint_on_an_interface_that_is_not_filtered_is_closed() -> None:
    """No line looks at the packets of such an interface, so it gets neither identity nor route."""
    desired = fresh()
    desired.set_links({**LINKS, "eth0": LinkState(index=9, up=True)})
    desired.apply(step(structs.replace(endpoint(0, "gnp/a", address=1), interface="eth0")))
    assert held(desired, 1) == ([], [])
    assert desired.interfaces == set()
    (refusal,) = desired.refusals()
    assert refusal.object == "endpoint d/e0"
    assert "interface_prefixes" in refusal.reason
    desired.apply(step(endpoint(0, "gnp/a", address=1)))
    assert desired.refusals() == ()
    assert [len(found) for found in held(desired, 1)] == [2, 1]
    desired.apply(step(structs.replace(endpoint(0, "gnp/a", address=1), interface="eth0")))
    assert held(desired, 1) == ([], [])


@pytest.mark.parametrize(
    "bad",
    [
        {"interface": "tap0 -j ACCEPT"},
        {"interface": "lo"},
        {"addresses": ("10.65.0.1",)},
        {"addresses": ("10.65.0.0/24",)},
        {"addresses": ("x/32",)},
        {"extra_sources": ("10.65.0.1/8",)},
    ],
)
def test_an_endpoint_that_makes_no_sense_is_closed_alone(bad: dict[str, object]) -> None:
    """It is named; the endpoint beside it stands."""
    desired = fresh()
    faulty = structs.replace(endpoint(0, "gnp/a", address=1), **bad)
    desired.apply(step(faulty, endpoint(1, "gnp/a", address=2, tap=1)))
    assert held(desired, 1) == ([], [])
    assert [len(found) for found in held(desired, 2)] == [2, 1]
    assert [refusal.object for refusal in desired.refusals()] == ["endpoint d/e0"]


def test_text_in_the_place_of_a_network_closes_its_policy_alone() -> None:
    """It never becomes part of a rule, and does not end the agent."""
    desired = fresh()
    net = Entity(net="10.0.0.0/8 -j ACCEPT\n-A hw-to")
    rule = ResolvedRule(id="gnp/a/i0", action="allow", source=net)
    bad = PolicySet(id=PolicyId("gnp/a"), version=1, ingress=(rule,))
    desired.apply(step(endpoint(0, "gnp/a", "gnp/b", address=1), bad, policy("gnp/b")))
    chains = desired.chains.tables[Family.V4, "filter"].desired
    assert is_closed(chains[policy_chain(PolicyId("gnp/a"), "ingress")])
    assert not is_closed(chains[policy_chain(PolicyId("gnp/b"), "ingress")])
    assert [refusal.object for refusal in desired.refusals()] == ["policy gnp/a"]
    desired.apply(step(policy("gnp/a")))
    assert desired.refusals() == ()
    assert not is_closed(chains[policy_chain(PolicyId("gnp/a"), "ingress")])


def test_what_calc_finds_at_fault_is_told_until_it_is_right() -> None:
    """A policy without its tier and an address that is another's: each named with its resource."""
    desired = fresh()
    closed = structs.replace(policy("gnp/a", action="deny"), fault="Its tier is not there.")
    lost = (Lost("10.65.0.2/32", EndpointId("d/old")), Lost("192.0.2.1/32", EndpointId("d/old")))
    loser = structs.replace(endpoint(0, "gnp/a", address=1), lost=lost)
    desired.apply(step(loser, closed))
    assert [(r.object, r.reason) for r in desired.refusals()] == [
        ("rules of policy gnp/a", "Its tier is not there."),
        *(
            (
                f"address {address} of endpoint d/e0",
                "It is that of endpoint d/old, which is older; remove it from one of them.",
            )
            for address in ("10.65.0.2/32", "192.0.2.1/32")
        ),
    ]
    desired.apply(step(endpoint(0, "gnp/a", address=1), policy("gnp/a")))
    assert desired.refusals() == ()
    desired.apply(step(loser, closed))
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e0")), NeedRemoved(scope=closed.scope)))
    assert desired.refusals() == ()


def test_a_profile_that_is_not_there_is_told_where_it_matters() -> None:
    """At each endpoint of which a packet gets as far as the profiles, until it is declared or not named."""
    desired = fresh()
    absent = PolicySet(id=PolicyId("profile/none"), version=1, absent=True)
    profiles = (absent.id,)
    bare = structs.replace(endpoint(0, address=1), profiles=profiles)
    decided = TierPolicies(
        name="default", ingress=(PolicyId("gnp/a"),), egress=(PolicyId("gnp/a"),)
    )
    closed = structs.replace(endpoint(1, address=2, tap=1), profiles=profiles, tiers=(decided,))
    half = structs.replace(endpoint(2, "gnp/a", address=3, tap=2), profiles=profiles)
    host = HostEndpointSet(id=HostEndpointId("up"), interface="eth0", profiles=profiles)
    desired.apply(step(absent, policy("gnp/a"), bare, closed, half, host))

    def named() -> list[str]:
        return [refusal.object for refusal in desired.refusals()]

    names = ["endpoint d/e0", "endpoint d/e2", "host endpoint up"]
    assert named() == [f"profile none of {name}" for name in names]
    assert "Profile 'none' does not exist" in desired.refusals()[0].reason
    desired.apply(step(policy("gnp/a", action="pass")))
    assert named() == [
        f"profile none of {n}" for n in ("endpoint d/e0", "endpoint d/e1", *names[1:])
    ]
    desired.apply(step(structs.replace(bare, profiles=()), EndpointRemoved(id=half.id)))
    assert named() == [f"profile none of {name}" for name in ("endpoint d/e1", "host endpoint up")]
    desired.apply(step(PolicySet(id=absent.id, version=2)))
    assert named() == []


def test_a_route_to_what_is_no_address_is_refused_alone() -> None:
    """The other addresses on that host get theirs; a later good value clears it."""
    desired = fresh()
    bucket = RoutesBucket(
        host="h2", version=1, gateway_v4="172.18.203.126", cidrs=("10.65.0.9/32", "x", "0.0.0.0/0")
    )
    desired.apply(step(bucket))
    assert [r.cidr for r in desired.routes.desired.values() if r.kind == "via"] == ["10.65.0.9/32"]
    assert [r.object for r in desired.refusals()] == ["route 0.0.0.0/0", "route x"]
    desired.apply(step(structs.replace(bucket, cidrs=("10.65.0.9/32",))))
    assert desired.refusals() == ()


def test_a_set_of_which_a_bucket_is_missing_closes_what_names_it() -> None:
    """A deny by half a set would let the other half by."""
    desired = fresh()
    chains = desired.chains.tables[Family.V4, "filter"].desired
    name = policy_chain(PolicyId("gnp/a"), "ingress")
    half = SetBucket(id=SetId("s:x"), version=1, n_buckets=2, bucket=0)
    desired.apply(
        step(endpoint(0, "gnp/a", address=1), policy("gnp/a", "s:x", action="deny"), half)
    )
    assert is_closed(chains[name])
    desired.apply(step(structs.replace(half, bucket=1)))
    assert not is_closed(chains[name])
    desired.apply(step(structs.replace(half, n_buckets=0)))
    assert is_closed(chains[name])
    assert [r.object for r in desired.refusals()] == ["set s:x"]


def test_a_set_the_kernel_does_not_hold_whole_closes_what_names_it_until_it_does() -> None:
    """The kernel's refusal of one member of a deny set must not open what it denies."""
    desired = fresh()
    chains = desired.chains.tables[Family.V4, "filter"].desired
    name = policy_chain(PolicyId("gnp/a"), "ingress")
    bucket = SetBucket(id=SetId("s:x"), version=1, members=("10.9.0.0/24",))
    desired.apply(
        step(endpoint(0, "gnp/a", address=1), policy("gnp/a", "s:x", action="deny"), bucket)
    )
    assert not is_closed(chains[name])
    desired.distrust([set_name("v4", "s:x"), "hw4-s-foreign"])
    assert is_closed(chains[name])
    desired.distrust([])
    assert not is_closed(chains[name])


def test_without_ipv6_the_family_is_walled_off_and_not_forgotten() -> None:
    """Its chains stand, and no address of it is let in or routed."""
    desired = Desired("h1", SETTINGS, (Family.V4, Family.V6), "169.254.1.1", ipv6=False)
    desired.set_links(LINKS)
    desired.apply(step(endpoint(0, "gnp/a", address=1)))
    assert not desired.identity.content(from_set(Family.V6)).desired
    assert not any(route.family is Family.V6 for route in desired.routes.desired.values())
    assert from_set(Family.V6) in desired.identity.specs.desired
    assert "hw-antispoof" in desired.chains.tables[Family.V6, "raw"].desired


def test_an_endpoint_without_room_for_its_class_gets_it_when_a_class_goes() -> None:
    """It is closed and named meanwhile, and needs no new word from calc."""
    desired = fresh(mask=0x3FF << 8)
    many = [endpoint(n, f"gnp/{n}", address=n + 1) for n in range(15)]
    desired.apply(step(*many))
    assert [refusal.object for refusal in desired.refusals()] == ["endpoint d/e14"]
    assert held(desired, 15) == ([], [])
    first = desired.classes.classes[class_key(many[0])]
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e0"))))
    desired.classes.forget(first.key.digest)
    desired.apply(step())
    assert desired.refusals() == ()
    assert [len(found) for found in held(desired, 15)] == [2, 1]


def test_no_route_leads_a_host_or_the_bus_to_a_workload() -> None:
    """An address that hosts live by is nobody's workload, however it is declared; the others go on."""
    settings = RenderSettings(marks=layout(), prefixes=("tap",))
    desired = Desired(
        "h1",
        settings,
        (Family.V4, Family.V6),
        "169.254.1.1",
        reserved=frozenset({"172.18.203.1/32"}),
    )
    desired.set_links(LINKS)
    bus = RoutesBucket(
        host="h2",
        version=1,
        gateway_v4="172.18.203.126",
        cidrs=("10.65.0.9/32", "172.18.203.1/32", "172.18.203.129/32"),
    )
    third = RoutesBucket(host="h3", version=1, gateway_v4="172.18.203.129", cidrs=())
    desired.apply(step(bus, third))
    wanted = {route.cidr for route in desired.routes.desired.values() if route.kind == "via"}
    assert wanted == {"10.65.0.9/32"}
    assert {r.object for r in desired.refusals()} == {
        "route 172.18.203.1/32",
        "route 172.18.203.129/32",
    }
    desired.apply(step(NeedRemoved(scope=Scope("routes/h3"))))
    assert Route("172.18.203.129/32", "link").key in desired.routes.desired
    thief = EndpointSet(id=EndpointId("d/thief"), interface="tap0", addresses=("172.18.203.1/32",))
    desired.apply(step(thief))
    assert "endpoint d/thief" in {r.object for r in desired.refusals()}
