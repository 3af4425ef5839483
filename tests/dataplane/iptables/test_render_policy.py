"""Rules as lines."""

import pytest

from hopwall_dataplane.iptables.render_policy import CLOSED, Direction, render_policy
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_model.names import set_name
from hopwall_model.updates import Entity, PolicyId, PolicySet, PortRange, ResolvedRule, SetId

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
S = SetId("s:x")
T = SetId("s:y")


def lines(
    rule: ResolvedRule, family: Family = Family.V4, direction: Direction = "ingress"
) -> tuple[str, ...]:
    """Render one rule; without the identity its lines bear."""
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, ingress=(rule,), egress=(rule,))
    bodies = render_policy(policy, direction, family, SETTINGS, {S, T})
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
