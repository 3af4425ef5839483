"""Rules in renderable form."""

import pytest

from hopwall_calc.rules import NamedPort, deny_all, port_ranges, resolve
from hopwall_model.resources import EntityRule, Icmp, Rule
from hopwall_model.selectors import ALL, Selector, canonical, parse
from hopwall_model.updates import Entity, PolicyId, PortRange
from tests.support.states import rule

GNP = PolicyId("gnp/p")


def sources(namespace: str, *rules: Rule) -> list[str]:
    """Return the canonical selectors of the sets that the rules name."""
    policy = resolve(GNP, namespace, ingress=rules, egress=())
    return [canonical(s) for s in policy.sets.values() if isinstance(s, Selector)]


@pytest.mark.parametrize(
    ("namespace", "entity", "expected"),
    [
        ("", {"selector": "a=='1'"}, ['a == "1"']),
        ("", {"not_selector": "a=='1'"}, ['a == "1"']),
        ("blue", {}, []),
        ("blue", {"nets": ("10.0.0.0/8",)}, []),
        ("blue", {"selector": "all()"}, ['projectcalico.org/namespace == "blue"']),
        (
            "blue",
            {"selector": "a=='1'"},
            ['(projectcalico.org/namespace == "blue" && a == "1")'],
        ),
        (
            "blue",
            {"not_selector": "a=='1'"},
            ['projectcalico.org/namespace == "blue"', 'a == "1"'],
        ),
        ("blue", {"namespace_selector": "env=='p'"}, ['pcns.env == "p"']),
        ("", {"namespace_selector": "all()"}, ["has(projectcalico.org/namespace)"]),
        (
            "blue",
            {"namespace_selector": "global()", "selector": "a=='1'"},
            ['(global() && a == "1")'],
        ),
    ],
)
def test_selectors_are_confined_to_namespaces_as_in_calico(
    namespace: str, entity: dict[str, str], expected: list[str]
) -> None:
    """A namespaced policy's rule that selects at all selects at home, unless it names namespaces."""
    assert sources(namespace, rule(source=entity)) == expected


def test_one_net_stands_in_the_rule_and_several_are_a_set() -> None:
    """A single range is inline; more are a set named by its content, whatever their order."""
    one = resolve(GNP, "", ingress=(rule(source={"nets": ("10.0.0.0/8",)}),), egress=())
    assert one.ingress[0].source == Entity(net="10.0.0.0/8")
    two = resolve(GNP, "", ingress=(rule(source={"nets": ("10.0.0.0/8", "::/0")}),), egress=())
    turned = resolve(GNP, "", ingress=(rule(source={"nets": ("::/0", "10.0.0.0/8")}),), egress=())
    assert two == turned
    [(set_id, nets)] = two.sets.items()
    assert set_id.startswith("n:")
    assert nets == ("10.0.0.0/8", "::/1", "8000::/1")
    assert two.ingress[0].source == Entity(sets=(set_id,))


def test_negated_nets_and_selectors_stay_negated() -> None:
    """What is not meant is a negated set, so an address that is nobody's passes the negation."""
    entity = EntityRule(not_nets=("10.0.0.0/8", "10.1.0.0/16"), not_selector="has(a)")
    policy = resolve(GNP, "", ingress=(), egress=(Rule(action="Deny", destination=entity),))
    assert policy.egress[0].id == "gnp/p/e0"
    assert policy.egress[0].destination.sets == ()
    assert len(policy.egress[0].destination.not_sets) == 2
    assert len(policy.scopes) == 3


def test_ports_are_merged_and_sorted() -> None:
    """Overlapping and adjacent ports become the fewest ranges."""
    assert port_ranges((80, "443:450", 81, "445:500", 22)) == (
        PortRange(22, 22),
        PortRange(80, 81),
        PortRange(443, 500),
    )


def test_named_ports_are_sets_by_selector_protocol_and_name() -> None:
    """A name is one set for each protocol and selector it is used with, beside the numbers."""
    web = {"selector": "role == 'web'", "ports": ("http", 80), "not_ports": ("dns",)}
    policy = resolve(
        GNP,
        "",
        ingress=(
            rule(protocol="TCP", destination={"ports": ("http", "http")}),
            rule(protocol="UDP", destination={"ports": ("http",)}),
            rule(protocol="TCP", destination=web),
        ),
        egress=(),
    )
    plain, other, narrow = (one.destination for one in policy.ingress)
    assert (plain.ports, len(plain.port_sets)) == ((), 1)
    assert len({plain.port_sets, other.port_sets, narrow.port_sets}) == 3
    assert narrow.ports == (PortRange(80, 80),)
    assert len(narrow.sets) == len(narrow.not_port_sets) == 1
    assert all(s.startswith("np:") for s in (*plain.port_sets, *narrow.not_port_sets))
    assert policy.sets[plain.port_sets[0]] == NamedPort(ALL, 6, "http")
    assert policy.sets[narrow.not_port_sets[0]] == NamedPort(parse("role == 'web'"), 6, "dns")
    with pytest.raises(ValueError, match="protocol"):
        resolve(GNP, "", ingress=(rule(destination={"ports": ("http",)}),), egress=())


def test_named_port_is_no_range() -> None:
    """A port that is a name cannot be resolved, and must not match every port instead."""
    with pytest.raises(ValueError, match="http"):
        port_ranges(("http",))


def test_protocols_are_numbers() -> None:
    """Names become numbers, ICMP types are copied."""
    policy = resolve(
        GNP,
        "",
        ingress=(
            rule("Pass", protocol="ICMP", icmp=Icmp(type=8, code=0), not_icmp=Icmp(type=3)),
            rule("Log", not_protocol="SCTP", ip_version=6),
        ),
        egress=(),
    )
    first, second = policy.ingress
    assert (first.action, first.protocol, first.icmp_type, first.icmp_code) == ("pass", 1, 8, 0)
    assert (first.not_icmp_type, first.not_icmp_code) == (3, None)
    assert (second.action, second.not_protocol, second.ip_version) == ("log", 132, 6)


def test_stand_in_denies_both_ways() -> None:
    """What stands in for an absent policy lets nothing through."""
    policy = deny_all(GNP)
    assert [r.action for r in (*policy.ingress, *policy.egress)] == ["deny", "deny"]
    assert policy.ingress[0].source == policy.ingress[0].destination == Entity()
