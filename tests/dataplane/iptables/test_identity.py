"""Identities: the same for the same content, whatever stands around it."""

from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.identity import FIXED, Denial, rule_origins
from hopwall_dataplane.iptables.render_policy import DIRECTIONS, render_policy
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import Entity, PolicyId, PolicySet, PortRange, ResolvedRule, Verdict

P, Q = PolicyId("gnp/p"), PolicyId("gnp/q")
SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
ACTIONS: list[Verdict] = ["allow", "deny", "pass", "log"]
RULES = st.builds(
    ResolvedRule,
    id=st.just("gnp/p/i0"),
    action=st.sampled_from(ACTIONS),
    protocol=st.sampled_from([6, 17]),
    destination=st.sampled_from([Entity(), Entity(ports=(PortRange(80, 80),))]),
)


def identities(rules: list[ResolvedRule], policy: PolicyId = P) -> list[str]:
    """Return the identities of ingress rules."""
    return [origin.identity for origin in rule_origins(policy, "", "ingress", rules)]


@given(st.lists(RULES, max_size=6), RULES, st.integers(0, 6))
def test_a_rule_put_anywhere_leaves_the_others_their_identity(
    rules: list[ResolvedRule], other: ResolvedRule, at: int
) -> None:
    """One identity more, and none lost; all are different, equal rules too."""
    before, after = identities(rules), identities([*rules[:at], other, *rules[at:]])
    assert set(before) < set(after)
    assert len(set(after)) == len(rules) + 1


@given(RULES)
def test_an_identity_is_of_policy_direction_and_content_alone(rule: ResolvedRule) -> None:
    """The rule's place, its policy's tier and version do not enter; policy and direction do."""
    placed = ResolvedRule(
        id="gnp/p/i7", action=rule.action, protocol=rule.protocol, destination=rule.destination
    )
    (mine,) = identities([rule])
    assert identities([placed]) == [mine]
    assert [origin.identity for origin in rule_origins(P, "t", "ingress", [rule])] == [mine]
    assert identities([rule], Q) != [mine]
    assert [origin.identity for origin in rule_origins(P, "", "egress", [rule])] != [mine]


def test_identities_stay_the_same_between_versions() -> None:
    """A new version calls a rule as an old one did; log archives stay readable."""
    rule = ResolvedRule(id="x", action="deny", protocol=6, destination=Entity(net="10.0.0.0/8"))
    assert identities([rule, rule]) == ["gbuv2zu3uh", "j5edynqtq2"]
    assert Denial("tier-end", "ingress", tier="default").origin.identity == "cxyu34jibr"


def test_every_default_denial_has_an_identity_of_its_own() -> None:
    """No two of them meet, whatever tier or policy they are of."""
    denials = [
        *FIXED,
        *(Denial("tier-end", d, tier=name) for d in DIRECTIONS for name in ("a", "b", "gnp/p")),
        *(Denial("closed", d, policy=name) for d in DIRECTIONS for name in ("a", "b", "gnp/p")),
    ]
    assert len({denial.origin.identity for denial in denials}) == len(denials)


def test_all_lines_of_a_rule_bear_its_identity_in_both_families() -> None:
    """Several lines, one identity; v4 and v6 the same."""
    ports = tuple(PortRange(n, n) for n in range(100, 140, 2))
    rule = ResolvedRule(id="r", action="deny", protocol=6, destination=Entity(ports=ports))
    policy = PolicySet(id=P, version=1, ingress=(rule,))
    (identity,) = identities([rule])
    for family in Family:
        lines = render_policy(policy, "ingress", family, SETTINGS, {})
        assert len(lines) == 2
        assert all(line.endswith(f':{identity}"') for line in lines)
