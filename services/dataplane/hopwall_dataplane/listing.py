"""What stands behind the identities in the kernel: rules and default denials by name, with their counts.

Pure. An identity the kernel holds and nobody here knows is listed all the same, without a name: it is of a
policy that has just changed, or of another version of this software.
"""

from collections.abc import Iterable, Iterator, Mapping

from hopwall_dataplane.iptables.counters import Count
from hopwall_dataplane.iptables.identity import FIXED, Denial, Origin, rule_origins
from hopwall_dataplane.iptables.render_policy import DIRECTIONS, policy_chain, rules_of
from hopwall_model.counts import RuleCount, RulesRequest
from hopwall_model.updates import PolicyId, PolicySet, Verdict

UNKNOWN_PLACE = "not known to this agent"

Counts = Mapping[str, Count]
Policies = Mapping[PolicyId, PolicySet]


def list_rules(
    policies: Policies,
    tiers: Iterable[str],
    counts: Counts,
    refused: Mapping[str, str],
    request: RulesRequest,
) -> tuple[RuleCount, ...]:
    """Return what the kernel holds, and what it refused to hold: policies by id, then denials.

    Shape:  `counts` by identity; `refused` by chain: the tool's reason. `tiers` are those a class has.
    Cost:   O(rules the host holds), about 10 µs a rule.
    """
    tiers = {*tiers, *(policy.tier for policy in policies.values() if policy.tier)}
    named = [*_rules(policies, counts, refused), *_denials(policies, tiers, counts)]
    known = {found.identity for found in named}
    unknown = (
        _counted(Origin(identity, ""), "deny", UNKNOWN_PLACE, counts)
        for identity in sorted(counts.keys() - known)
    )
    return tuple(
        found
        for found in (*named, *unknown)
        if (found.identity in counts or found.refused) and _is_wanted(found, request)
    )


def _rules(policies: Policies, counts: Counts, refused: Mapping[str, str]) -> Iterator[RuleCount]:
    for policy_id in sorted(policies):
        policy = policies[policy_id]
        for direction in reversed(DIRECTIONS):
            rules = rules_of(policy, direction)
            chains = (policy_chain(policy_id, direction, marking=form) for form in (False, True))
            reason = next((refused[chain] for chain in chains if chain in refused), "")
            origins = rule_origins(policy_id, policy.tier, direction, rules)
            for number, (rule, origin) in enumerate(zip(rules, origins, strict=True), start=1):
                place = f"rule {number} of {direction}"
                yield _counted(origin, rule.action, place, counts, reason)


def _denials(policies: Policies, tiers: Iterable[str], counts: Counts) -> Iterator[RuleCount]:
    ways = tuple(reversed(DIRECTIONS))
    for why in (
        *(Denial("closed", way, policy=policy) for policy in sorted(policies) for way in ways),
        *(Denial("tier-end", way, tier=tier) for tier in sorted(tiers) for way in ways),
        *FIXED,
    ):
        yield _counted(why.origin, "deny", why.place, counts)


def _counted(
    origin: Origin, action: Verdict, place: str, counts: Counts, refused: str = ""
) -> RuleCount:
    count = counts.get(origin.identity, Count())
    return RuleCount(
        identity=origin.identity,
        action=action,
        place=place,
        policy=origin.policy,
        tier=origin.tier,
        direction=origin.direction,
        packets=count.packets,
        bytes=count.bytes,
        refused=refused,
    )


def _is_wanted(found: RuleCount, request: RulesRequest) -> bool:
    if request.policy and found.policy != request.policy:
        return False
    return not request.identities or found.identity in request.identities
