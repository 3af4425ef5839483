"""The listing of what the kernel holds."""

from hopwall_dataplane.iptables.counters import Count
from hopwall_dataplane.iptables.identity import ANTI_SPOOF, Denial, rule_origins
from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_dataplane.listing import UNKNOWN_PLACE, list_rules
from hopwall_model.counts import RuleCount, RulesRequest
from hopwall_model.updates import PolicyId, PolicySet, ResolvedRule

P, Q = PolicyId("gnp/p"), PolicyId("gnp/q")
RULES = (ResolvedRule(id="x", action="deny"), ResolvedRule(id="y", action="allow"))
POLICIES = {name: PolicySet(id=name, version=1, tier="t", ingress=RULES) for name in (Q, P)}
ALL = RulesRequest()
(P1, P2), (Q1, Q2) = (
    [o.identity for o in rule_origins(name, "t", "ingress", RULES)] for name in (P, Q)
)
TIER_END = Denial("tier-end", "ingress", tier="t").origin.identity
CLOSED = Denial("closed", "ingress", policy=Q).origin.identity


def listed(
    *identities: str, refused: dict[str, str] | None = None, request: RulesRequest = ALL
) -> list[RuleCount]:
    """List with these identities in the kernel, met 1, 2, 3 … times."""
    counts = {one: Count(n, n * 100) for n, one in enumerate(identities, start=1)}
    return list(list_rules(POLICIES, {"t"}, counts, refused or {}, request))


def test_what_the_kernel_holds_is_listed_by_name_with_its_counts() -> None:
    """Policies by id and their rules in order, then denials."""
    found = listed(Q1, P2, P1, ANTI_SPOOF.origin.identity, TIER_END)
    assert [(rule.policy, rule.place, rule.packets, rule.bytes) for rule in found] == [
        (P, "rule 1 of ingress", 3, 300),
        (P, "rule 2 of ingress", 2, 200),
        (Q, "rule 1 of ingress", 1, 100),
        ("", "end of tier t", 5, 500),
        ("", "anti-spoof", 4, 400),
    ]
    assert [rule.tier for rule in found] == ["t", "t", "t", "t", ""]
    assert [rule.action for rule in found] == ["deny", "allow", "deny", "deny", "deny"]


def test_what_is_not_in_the_kernel_is_not_listed_unless_it_was_refused() -> None:
    """A refused chain's rules are named with the reason; a closed policy is named by its denial."""
    assert listed() == []
    marking = policy_chain(P, "ingress", marking=True)
    assert listed(refused={marking: "no"})[0].refused == "no"
    found = listed(CLOSED, refused={policy_chain(P, "ingress"): "no such option"})
    assert [(r.identity, r.packets, r.refused) for r in found] == [
        (P1, 0, "no such option"),
        (P2, 0, "no such option"),
        (CLOSED, 1, ""),
    ]


def test_an_identity_nobody_knows_is_listed_without_a_name() -> None:
    """A policy may have changed since; its count is not lost without a word."""
    (found,) = listed("zzzzzzzzzz")
    assert (found.identity, found.place, found.packets) == ("zzzzzzzzzz", UNKNOWN_PLACE, 1)


def test_a_request_narrows_by_policy_and_by_identity() -> None:
    """Both at once leave what is in both."""
    held = (P1, P2, Q1, TIER_END)
    policy = RulesRequest(policy=P)
    assert [rule.identity for rule in listed(*held, request=policy)] == [P1, P2]
    some = RulesRequest(identities=(Q1, TIER_END))
    assert [rule.identity for rule in listed(*held, request=some)] == [Q1, TIER_END]
    both = RulesRequest(policy=P, identities=(Q1, P2))
    assert [rule.identity for rule in listed(*held, request=both)] == [P2]
    assert Q2 not in {rule.identity for rule in listed(*held)}
