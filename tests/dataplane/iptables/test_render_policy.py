"""Rules as lines."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.iptables.render_policy import CLOSED, Direction, render_policy
from hopwall_dataplane.iptables.static import RenderSettings, static_chains
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_model.names import set_name
from hopwall_model.updates import (
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetId,
    SetKind,
    Verdict,
)
from tests.support.packets import Lines, Packet, Way, rule_matches

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
S = SetId("s:x")
T = SetId("s:y")
HTTP = SetId("np:http")
DNS = SetId("np:dns")
KNOWN: dict[SetId, SetKind] = {S: "net", T: "net", HTTP: "port", DNS: "port"}


def lines(
    rule: ResolvedRule, family: Family = Family.V4, direction: Direction = "ingress"
) -> tuple[str, ...]:
    """Render one rule; without the identity its lines bear."""
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, ingress=(rule,), egress=(rule,))
    bodies = render_policy(policy, direction, family, SETTINGS, KNOWN)
    return tuple(plain(body) for body in bodies)


def allow(**fields: object) -> ResolvedRule:
    """Return an allow rule with these fields."""
    return ResolvedRule(id="gnp/p/i0", action="allow", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (allow(), "-j ACCEPT"),
        (allow(protocol=6), "-p 6 -j ACCEPT"),
        (allow(not_protocol=6), "! -p 6 -j ACCEPT"),
        (allow(protocol=1, icmp_type=8), "-p 1 -m icmp --icmp-type 8 -j ACCEPT"),
        (allow(protocol=1, icmp_type=3, icmp_code=4), "-p 1 -m icmp --icmp-type 3/4 -j ACCEPT"),
        (allow(protocol=1, not_icmp_type=8), "-p 1 -m icmp ! --icmp-type 8 -j ACCEPT"),
        (allow(source=Entity(net="10.0.0.0/8")), "-s 10.0.0.0/8 -j ACCEPT"),
        (allow(destination=Entity(not_net="10.0.0.0/8")), "! -d 10.0.0.0/8 -j ACCEPT"),
        (
            allow(source=Entity(net="10.0.0.0/8", not_net="10.1.0.0/16")),
            "-s 10.0.0.0/8 -m iprange ! --src-range 10.1.0.0-10.1.255.255 -j ACCEPT",
        ),
        (
            allow(source=Entity(sets=(S,), not_sets=(T,))),
            f"-m set --match-set {set_name('v4', S)} src "
            f"-m set ! --match-set {set_name('v4', T)} src -j ACCEPT",
        ),
        (
            allow(protocol=17, destination=Entity(ports=(PortRange(53, 53), PortRange(80, 90)))),
            "-p 17 -m multiport --dports 53,80:90 -j ACCEPT",
        ),
        (
            allow(protocol=6, source=Entity(not_ports=(PortRange(1, 2),))),
            "-p 6 -m multiport ! --sports 1:2 -j ACCEPT",
        ),
        (
            allow(protocol=6, source=Entity(port_sets=(HTTP,))),
            f"-p 6 -m set --match-set {set_name('v4', HTTP, 'port')} src,src -j ACCEPT",
        ),
        (
            allow(protocol=6, destination=Entity(not_port_sets=(HTTP, DNS))),
            f"-p 6 -m set ! --match-set {set_name('v4', HTTP, 'port')} dst,dst "
            f"-m set ! --match-set {set_name('v4', DNS, 'port')} dst,dst -j ACCEPT",
        ),
        (allow(protocol=6, not_protocol=17), "-p 6 -j ACCEPT"),
        (allow(protocol=0), "-m u32 --u32 6&0xff=0x0 -j ACCEPT"),
        (allow(not_protocol=0), "-m u32 ! --u32 6&0xff=0x0 -j ACCEPT"),
        (allow(protocol=0, not_protocol=6), "-m u32 --u32 6&0xff=0x0 -j ACCEPT"),
        (
            allow(protocol=1, icmp_type=3, not_icmp_type=3, not_icmp_code=4),
            "-p 1 -m icmp --icmp-type 3 -m icmp ! --icmp-type 3/4 -j ACCEPT",
        ),
        (allow(source=Entity(net="0.0.0.0/0")), "-s 0.0.0.0/0 -j ACCEPT"),
        (allow(source=Entity(not_net="::/0")), "-j ACCEPT"),
    ],
)
def test_each_match_becomes_its_condition(rule: ResolvedRule, expected: str) -> None:
    """One rule, one line, conditions in a fixed order."""
    assert lines(rule) == (expected,)


def test_more_than_fifteen_ports_become_several_lines_of_the_same_action() -> None:
    """Positive ports are an OR: each line takes as many as a multiport holds."""
    ports = tuple(PortRange(n, n) for n in range(100, 140, 2))
    got = lines(allow(protocol=6, destination=Entity(ports=ports)))
    assert len(got) == 2
    assert got[0].count(",") == 14
    assert got[1] == "-p 6 -m multiport --dports 130,132,134,136,138 -j ACCEPT"


def test_more_than_fifteen_negated_ports_stay_on_one_line() -> None:
    """Negated ports are an AND: every condition must hold."""
    ports = tuple(PortRange(n, n + 1) for n in range(100, 160, 4))
    (line,) = lines(allow(protocol=6, destination=Entity(not_ports=ports)))
    assert line.count("! --dports") == 3


@pytest.mark.parametrize(
    ("rule", "family"),
    [
        (allow(ip_version=4), Family.V6),
        (allow(ip_version=6), Family.V4),
        (allow(protocol=1), Family.V6),
        (allow(protocol=58), Family.V4),
        (allow(source=Entity(net="10.0.0.0/8")), Family.V6),
        (allow(source=Entity(not_net="0.0.0.0/0")), Family.V4),
        (allow(protocol=6, not_protocol=6), Family.V4),
        (allow(source=Entity(not_net="::/0")), Family.V6),
        (allow(source=Entity(net="10.0.0.0/8"), destination=Entity(net="fd00::/8")), Family.V4),
        (allow(source=Entity(net="10.0.0.0/8"), destination=Entity(net="fd00::/8")), Family.V6),
        (allow(protocol=0), Family.V6),
        (allow(protocol=60), Family.V6),
        (allow(protocol=1, icmp_type=8), Family.V6),
        (allow(protocol=58, icmp_type=128), Family.V4),
    ],
)
def test_a_rule_that_can_match_nothing_in_a_family_has_no_line_there(
    rule: ResolvedRule, family: Family
) -> None:
    """Absence, not a line that matches more than it should."""
    assert lines(rule, family) == ()


def test_a_negated_net_of_the_other_family_always_holds() -> None:
    """No IPv6 address is in an IPv4 net."""
    assert lines(allow(source=Entity(not_net="10.0.0.0/8")), Family.V6) == ("-j ACCEPT",)


def test_egress_allow_goes_on_to_the_destination() -> None:
    """An egress policy never accepts by itself: the other bookend has its say."""
    assert lines(allow(), direction="egress") == ("-g hw-allowed",)


def test_pass_marks_and_returns_only_what_matched() -> None:
    """Pass is two lines: the mark where the rule matches, the return where the mark is."""
    rule = ResolvedRule(id="gnp/p/i0", action="pass", protocol=6)
    passed = SETTINGS.marks.passed
    assert lines(rule) == (
        f"-p 6 -j MARK --set-xmark {passed:#x}/{passed:#x}",
        f"-m mark --mark {passed:#x}/{passed:#x} -j RETURN",
    )


def test_a_policy_that_names_an_unknown_set_is_closed() -> None:
    """A deny by a set that is absent would match nothing and open what it was to close."""
    rule = ResolvedRule(id="x", action="deny", source=Entity(not_sets=(SetId("s:unknown"),)))
    assert lines(rule) == CLOSED


@pytest.mark.parametrize(
    "side",
    [
        Entity(port_sets=(SetId("np:unknown"),)),
        Entity(not_port_sets=(SetId("np:unknown"),)),
        Entity(port_sets=(S,)),
        Entity(sets=(HTTP,)),
    ],
)
def test_a_policy_that_names_a_set_of_another_kind_is_closed(side: Entity) -> None:
    """No kernel set is there under the name that a line would have."""
    assert lines(ResolvedRule(id="x", action="deny", destination=side)) == CLOSED


def test_ports_by_number_and_by_name_are_one_or() -> None:
    """A line for the numbers, and one for each name."""
    side = Entity(ports=(PortRange(80, 80),), port_sets=(HTTP,))
    assert lines(allow(protocol=6, destination=side)) == (
        "-p 6 -m multiport --dports 80 -j ACCEPT",
        f"-p 6 -m set --match-set {set_name('v4', HTTP, 'port')} dst,dst -j ACCEPT",
    )


@pytest.mark.parametrize("number", [0, 43, 44, 60])
def test_an_extension_header_is_read_the_way_that_lets_less_by(number: int) -> None:
    """No packet's last header is one: who denies it means what carries it, who allows it opens nothing."""
    deny = ResolvedRule(id="x", action="deny", protocol=number)
    (line,) = lines(deny, Family.V6)
    assert line.startswith("-m ipv6header --header ")
    other = ResolvedRule(id="x", action="deny", not_protocol=number)
    assert lines(other, Family.V6) == ("-j DROP",)
    (line,) = lines(allow(protocol=6, not_protocol=number), Family.V6)
    assert line.startswith("-p 6 -m ipv6header ! --header ")


def test_what_is_authenticated_has_the_protocol_ah_in_both_families() -> None:
    """AH is an extension header of IPv6 in name; a rule means what it protects, and opens it too."""
    assert lines(allow(protocol=51)) == ("-p 51 -j ACCEPT",)
    assert lines(allow(protocol=51), Family.V6) == ("-m ipv6header --header ah --soft -j ACCEPT",)


def ranges(n: int, first: int = 1000) -> tuple[PortRange, ...]:
    """Return n single ports that lie apart."""
    return tuple(PortRange(first + 2 * i, first + 2 * i) for i in range(n))


def test_many_ports_on_both_sides_become_steps_instead_of_a_product() -> None:
    """n * m lines where that is less; else n + m, one that begins and one that ends."""
    side = Entity(ports=ranges(50))
    small = Entity(ports=ranges(30))
    assert len(lines(allow(protocol=6, source=side, destination=side))) == 4 + 4 + 2
    assert len(lines(allow(protocol=6, source=small, destination=side))) == 2 * 4
    assert len(lines(allow(protocol=6, source=small, destination=small))) == 2 * 2


def test_negated_ports_beyond_what_a_line_bears_are_steps() -> None:
    """The tool takes 255 words a line: 400 ports are lines that take packets out again."""
    got = lines(allow(protocol=6, destination=Entity(not_ports=ranges(400))))
    assert len(got) == 2 + 1 + 27 + 1
    assert max(map(len, got)) < 200


# ---------------------------------------------------------------- against the dumb twin

PORTS = st.sampled_from([1, 53, 80, 81, 1000, 1002, 1098, 8080])
SETS = {
    S: frozenset({"10.0.0.0/24", "fd00::/64"}),
    T: frozenset({"10.0.0.1/32"}),  # nothing of IPv6
    HTTP: frozenset({"10.0.0.2,6:8080", "fd00::2,6:8080", "10.0.0.1,6:1000"}),
    DNS: frozenset({"10.0.0.2,17:53"}),
}
ADDRESSES = {
    Family.V4: ["10.0.0.1", "10.0.0.2", "192.0.2.1"],
    Family.V6: ["fd00::1", "fd00::2", "2001:db8::1"],
}
NETS = st.sampled_from(
    [None, None, "10.0.0.0/8", "10.0.0.2/32", "0.0.0.0/0", "::/0", "fd00::/64", "fd00::2/128"]
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Draw a packet that rules may mean."""
    family = draw(st.sampled_from(list(Family)))
    addresses = st.sampled_from(ADDRESSES[family])
    extensions = draw(st.frozensets(st.sampled_from([0, 43, 51, 60]), max_size=2))
    icmp = 1 if family is Family.V4 else 58
    protocols = [6, 17, 132, icmp, 50] + ([0, 60] if family is Family.V4 else [])
    return Packet(
        source=draw(addresses),
        destination=draw(addresses),
        protocol=draw(st.sampled_from(protocols)),
        source_port=draw(PORTS),
        destination_port=draw(PORTS),
        icmp=draw(st.sampled_from([(8, 0), (3, 4), (128, 0)])),
        extensions=extensions if family is Family.V6 else frozenset(),
    )


@st.composite
def sides(draw: st.DrawFn, *, numbered: bool) -> Entity:
    """Draw one side of a rule; ports by number only where the protocol has them."""
    some = st.lists(PORTS, unique=True, max_size=3).map(
        lambda ports: tuple(PortRange(p, p) for p in sorted(ports))
    )
    many = st.one_of(some, st.just(ranges(50)), st.just((PortRange(0, 79), PortRange(81, 65535))))
    named = st.lists(st.sampled_from([HTTP, DNS]), unique=True, max_size=2).map(tuple)
    sets = st.lists(st.sampled_from([S, T]), unique=True, max_size=1).map(tuple)
    return Entity(
        net=draw(NETS),
        not_net=draw(NETS),
        sets=draw(sets),
        not_sets=draw(sets),
        ports=draw(many) if numbered else (),
        not_ports=draw(st.one_of(some, st.just(ranges(150)))) if numbered else (),
        port_sets=draw(named),
        not_port_sets=draw(named),
    )


@st.composite
def rules(draw: st.DrawFn) -> ResolvedRule:
    """Draw a rule that has passed its checks."""
    protocol = draw(st.sampled_from([None, 6, 6, 17, 1, 58, 0, 60, 50, 51]))
    icmp = protocol in (1, 58)
    types = st.sampled_from([None, 8, 3, 128])
    numbered = protocol in (6, 17)
    kind, other = (draw(types), draw(types)) if icmp else (None, None)
    codes = st.sampled_from([None, 0, 4])
    return ResolvedRule(
        id="x",
        action=draw(st.sampled_from(["allow", "deny", "pass", "log"])),
        ip_version=draw(st.sampled_from([None, None, None, 4, 6])),
        protocol=protocol,
        not_protocol=draw(st.sampled_from([None, None, 6, 17, 0, 51, 60])),
        icmp_type=kind,
        icmp_code=None if kind is None else draw(codes),
        not_icmp_type=other,
        not_icmp_code=None if other is None else draw(codes),
        source=draw(sides(numbered=numbered)),
        destination=draw(sides(numbered=numbered)),
    )


MARKS = SETTINGS.marks
#: The forms a policy's chain has: a direction, and whether an allow marks and comes back.
FORMS: list[tuple[Direction, bool]] = [("ingress", False), ("ingress", True), ("egress", False)]


def expected(policy: tuple[ResolvedRule, ...], packet: Packet, *, marking: bool) -> Way:
    """Say what must become of a packet, rule by rule."""
    n_logged = 0
    for rule in policy:
        if not rule_matches(rule, packet, SETS):
            continue
        if rule.action == "log":
            n_logged += 1
        elif rule.action == "deny":
            return Way("drop", 0, n_logged)
        elif rule.action == "pass":
            return Way("return", MARKS.passed, n_logged)
        elif marking:
            return Way("return", MARKS.allowed, n_logged)
        else:
            return Way("accept", 0, n_logged)
    return Way("end", 0, n_logged)


@given(st.lists(rules(), min_size=1, max_size=3), st.lists(packets(), min_size=1, max_size=8))
def test_lines_say_what_the_rules_say(made: list[ResolvedRule], sent: list[Packet]) -> None:
    """For each action, direction and family: the first rule that matches decides, and no mark leaks."""
    ordered = tuple(structs.replace(rule, id=f"x/{i}") for i, rule in enumerate(made))
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, ingress=ordered, egress=ordered)
    for packet in sent:
        family = packet.family
        halves: dict[str, frozenset[str]] = {
            set_name(family.value, s, KNOWN[s]): own(SETS[s], family) for s in SETS
        }
        for direction, marking in FORMS:
            bodies = render_policy(
                policy,
                direction,
                family,
                SETTINGS,
                KNOWN,
                marking=marking,
            )
            chains = {"p": bodies, **static_chains(family, SETTINGS)["filter"]}
            way = Lines(chains, halves).walk("p", packet)
            wanted = expected(ordered, packet, marking=marking or direction == "egress")
            if way.verdict in ("accept", "drop"):
                way.mark = 0  # nobody looks at it any more
            assert way == wanted


def own(members: frozenset[str], family: Family) -> frozenset[str]:
    """Return the members of one family."""
    return frozenset(m for m in members if (":" in m.partition(",")[0]) == (family is Family.V6))


STEPS = [
    ("allow", Way("return", MARKS.allowed)),
    ("deny", Way("drop", MARKS.passed)),
    ("pass", Way("return", MARKS.passed)),
    ("log", Way("end", 0, n_logged=1)),
]


@pytest.mark.parametrize(("action", "end"), STEPS)
def test_each_action_ends_its_steps(action: Verdict, end: Way) -> None:
    """A packet that meets all steps, and ones that fail at each: the decision and the bits."""
    both = Entity(ports=ranges(50))
    rule = ResolvedRule(id="x", action=action, protocol=6, source=both, destination=both)
    chains = {"p": lines(rule, direction="egress")}
    world = Lines(chains | static_chains(Family.V4, SETTINGS)["filter"])
    fits = Packet(source_port=1000, destination_port=1098)
    assert world.walk("p", fits) == end
    stale = replace(fits, source_port=1001, mark=MARKS.passed)
    for misses in (
        replace(fits, source_port=1001),
        replace(fits, destination_port=1001),
        replace(fits, protocol=17),
        stale,
    ):
        assert world.walk("p", misses) == Way("end", 0)


def test_a_packet_is_logged_once_though_it_matches_twice() -> None:
    """A port by number and the same by name are one match."""
    side = Entity(ports=(PortRange(8080, 8080),), port_sets=(HTTP,))
    rule = ResolvedRule(id="x", action="log", protocol=6, destination=side)
    held: dict[str, frozenset[str]] = {set_name("v4", HTTP, "port"): own(SETS[HTTP], Family.V4)}
    way = Lines({"p": lines(rule)}, held).walk("p", Packet(destination_port=8080))
    assert way == Way("end", 0, n_logged=1)
