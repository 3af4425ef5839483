"""What policies say of a packet: each field of a rule, tiers and profiles, and agreement with what is rendered."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.render_policy import render_policy
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.judge import Packet, Side, decide
from hopwall_dataplane.lookup import SetLookup
from hopwall_dataplane.marks import layout
from hopwall_dataplane.members import BucketedMembers
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import (
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetId,
    TierPolicies,
)

TCP = Packet(4, 6, "10.65.0.2", "10.65.1.3", 40000, 80)
UDP6 = Packet(6, 17, "fd65::2", "fd65::3", 40000, 53)
PING = Packet(4, 1, "10.65.0.2", "10.65.1.3", icmp_type=8, icmp_code=0)
PEERS, OTHERS, WEB, GONE = (SetId(name) for name in ("s:peers", "s:others", "np:web", "s:gone"))
MEMBERS = {
    PEERS: ("10.65.0.0/24", "fd65::2/128", "192.0.2.1/32"),
    OTHERS: ("10.99.0.0/16",),
    WEB: ("10.65.1.3,6:80", "fd65::3,17:53"),
}


def sets() -> SetLookup:
    """Return the sets above, all to be relied on."""
    held = {}
    for name, members in MEMBERS.items():
        held[name] = BucketedMembers()
        held[name].put(1, 0, members)
        held[name].settle()
    return SetLookup(held, set(held))


def rule(action: str = "allow", **fields: object) -> ResolvedRule:
    """Return a rule with these fields."""
    return ResolvedRule(id="r", action=action, **fields)  # type: ignore[arg-type]


def policy(name: str, *rules: ResolvedRule) -> PolicySet:
    """Return a policy with these rules at ingress."""
    return PolicySet(id=PolicyId(name), version=1, ingress=rules)


def by(*rules: ResolvedRule, packet: Packet) -> str:
    """Return the decision of a tier of one policy."""
    one = policy("gnp/p", *rules)
    tier = TierPolicies(name="t", ingress=(one.id,))
    return decide((tier,), (), "ingress", packet, {one.id: one}, sets())


WEB_PORT = (PortRange(80, 90),)


@pytest.mark.parametrize(
    ("fields", "packet", "matches"),
    [
        ({}, TCP, True),
        ({"ip_version": 6}, TCP, False),
        ({"protocol": 6}, TCP, True),
        ({"protocol": 17}, TCP, False),
        ({"protocol": 0}, TCP, False),  # a protocol as any other, though iptables reads it as all
        ({"protocol": 0}, Packet(4, 0, "10.0.0.1", "10.0.0.2"), True),
        ({"protocol": 0}, UDP6, False),
        ({"not_protocol": 0}, TCP, True),
        ({"not_protocol": 0}, Packet(4, 0, "10.0.0.1", "10.0.0.2"), False),
        ({"protocol": 58}, Packet(4, 58, "10.0.0.1", "10.0.0.2"), False),
        ({"not_protocol": 6}, TCP, False),
        ({"not_protocol": 17}, TCP, True),
        ({"protocol": 6, "not_protocol": 6}, TCP, False),
        ({"protocol": 1, "icmp_type": 8}, PING, True),
        ({"protocol": 1, "icmp_type": 8, "icmp_code": 1}, PING, False),
        ({"protocol": 1, "not_icmp_type": 8}, PING, False),
        ({"protocol": 1, "not_icmp_type": 8, "not_icmp_code": 1}, PING, True),
        ({"source": Entity(net="10.65.0.0/16")}, TCP, True),
        ({"source": Entity(net="fd65::/16")}, TCP, False),
        ({"source": Entity(net="fd65::/64")}, UDP6, True),
        ({"destination": Entity(not_net="10.65.1.0/24")}, TCP, False),
        ({"destination": Entity(not_net="::/0")}, TCP, True),
        ({"source": Entity(net="10.65.0.0/16", not_net="10.65.0.2/32")}, TCP, False),
        ({"source": Entity(sets=(PEERS,))}, TCP, True),
        ({"source": Entity(sets=(PEERS,))}, UDP6, True),
        ({"source": Entity(sets=(PEERS, OTHERS))}, TCP, False),
        ({"destination": Entity(sets=(PEERS,))}, TCP, False),
        ({"source": Entity(not_sets=(PEERS,))}, TCP, False),
        ({"destination": Entity(not_sets=(PEERS, OTHERS))}, TCP, True),
        ({"protocol": 6, "destination": Entity(ports=WEB_PORT)}, TCP, True),
        ({"protocol": 6, "source": Entity(ports=WEB_PORT)}, TCP, False),
        ({"protocol": 6, "destination": Entity(not_ports=WEB_PORT)}, TCP, False),
        ({"protocol": 6, "destination": Entity(port_sets=(WEB,))}, TCP, True),
        ({"protocol": 17, "destination": Entity(port_sets=(WEB,))}, UDP6, True),
        ({"protocol": 6, "source": Entity(port_sets=(WEB,))}, TCP, False),
        (
            {"protocol": 6, "destination": Entity(ports=(PortRange(1, 1),), port_sets=(WEB,))},
            TCP,
            True,
        ),
        ({"protocol": 6, "destination": Entity(not_port_sets=(WEB,))}, TCP, False),
    ],
)
def test_each_condition_matches_what_it_says(
    fields: dict[str, Any], packet: Packet, matches: bool
) -> None:
    """A rule allows what all of its conditions hold for; the tier's end denies the rest."""
    assert by(rule(**fields), packet=packet) == ("allow" if matches else "deny")


def test_the_first_rule_that_decides_counts() -> None:
    """Log decides nothing; a deny before an allow wins."""
    assert by(rule("log"), rule("deny", protocol=6), rule(), packet=TCP) == "deny"
    assert by(rule("log"), rule("deny", protocol=6), rule(), packet=PING) == "allow"


def test_a_policy_that_names_an_unknown_set_denies_whatever_else_it_says() -> None:
    """As it is rendered: closed, also where an earlier rule would have allowed."""
    assert by(rule(), rule("deny", source=Entity(sets=(GONE,))), packet=TCP) == "deny"


PASS, ALLOW, DENY, NONE = (
    policy("gnp/pass", rule("pass")),
    policy("gnp/allow", rule()),
    policy("gnp/deny", rule("deny")),
    policy("gnp/none"),
)
BOOK = {one.id: one for one in (PASS, ALLOW, DENY, NONE)}


def tier(*policies: PolicySet, default: Literal["deny", "pass"] = "deny") -> TierPolicies:
    """Return a tier of these policies."""
    return TierPolicies(name="t", ingress=tuple(p.id for p in policies), ingress_default=default)


@pytest.mark.parametrize(
    ("tiers", "profiles", "expected"),
    [
        ((), (), "undecided"),
        ((), (ALLOW,), "allow"),
        ((), (NONE, ALLOW), "allow"),
        ((), (PASS, ALLOW), "allow"),
        ((), (NONE,), "deny"),
        ((tier(NONE),), (ALLOW,), "deny"),
        ((tier(NONE, default="pass"),), (ALLOW,), "allow"),
        ((tier(NONE, default="pass"),), (), "undecided"),
        ((tier(),), (ALLOW,), "allow"),
        ((tier(PASS, DENY), tier(ALLOW)), (), "allow"),
        ((tier(PASS), tier(DENY)), (ALLOW,), "deny"),
        ((tier(PASS),), (), "undecided"),
        ((tier(policy("gnp/absent"), ALLOW),), (), "deny"),
    ],
)
def test_tiers_and_profiles_decide_in_order(
    tiers: tuple[TierPolicies, ...], profiles: tuple[PolicySet, ...], expected: str
) -> None:
    """A tier that applies ends in its default, a pass leaves it, profiles come last, an absent policy denies."""
    ids = tuple(p.id for p in profiles)
    assert decide(tiers, ids, "ingress", TCP, BOOK, sets()) == expected


# ---------------------------------------------------------------- against the renderer

NETS = st.sampled_from([None, "10.65.0.0/24", "10.65.1.3/32", "0.0.0.0/0", "fd65::/64", "::/0"])
ENTITIES = st.builds(Entity, net=NETS, not_net=NETS)
RULES = st.builds(
    ResolvedRule,
    id=st.just("r"),
    action=st.just("allow"),
    ip_version=st.sampled_from([None, 4, 6]),
    protocol=st.sampled_from([None, 0, 1, 6, 17, 58, 60]),
    not_protocol=st.sampled_from([None, 0, 1, 6, 17, 58, 60]),
    source=ENTITIES,
    destination=ENTITIES,
)


@given(RULES, st.sampled_from([TCP, UDP6, PING]))
def test_a_rule_without_a_line_in_a_family_matches_nothing_of_it(
    one: ResolvedRule, packet: Packet
) -> None:
    """And a rule whose line has no condition matches everything: judge and renderer treat families alike."""
    family = Family.V4 if packet.version == 4 else Family.V6
    settings = RenderSettings(marks=layout(), prefixes=("tap",))
    lines = render_policy(policy("gnp/p", one), "ingress", family, settings, {})
    decision = by(one, packet=packet)
    if not lines:
        assert decision == "deny"
    if lines == ("-j ACCEPT",):
        assert decision == "allow"


# ---------------------------------------------------------------- sets


@given(
    st.lists(st.sampled_from(["10.0.0.0/8", "10.65.0.0/16", "10.65.0.2/32", "fd65::/16"])),
    st.sets(st.sampled_from(["10.0.0.0/8", "10.65.0.0/16", "10.65.0.2/32", "10.65.1.3/32"])),
)
def test_a_set_that_changes_answers_as_one_made_anew(first: list[str], then: set[str]) -> None:
    """What was prepared is changed along, and an unknown set is None."""
    changed = BucketedMembers()
    changed.put(1, 0, first)
    changed.settle()
    lookup = SetLookup({PEERS: changed}, {PEERS})
    lookup(PEERS, TCP, "source")
    changed.put(1, 0, then)
    lookup.change(PEERS, *changed.settle())
    sides: tuple[Side, ...] = ("source", "destination")
    for side in sides:
        anew = SetLookup({PEERS: changed}, {PEERS})
        assert lookup(PEERS, TCP, side) == anew(PEERS, TCP, side)
    assert lookup(OTHERS, TCP, "source") is None
