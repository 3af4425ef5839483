"""The fixed chains, together with those that policy makes: what a transaction costs, what an empty chain opens."""

import re
from collections.abc import Mapping

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.static import FORWARD, INPUT, RenderSettings
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    TierPolicies,
    Update,
)

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap", "cali"))
JUMP = re.compile(r"-[jg] (hw-\S+)")


def filter_of(n_classes: int) -> Mapping[str, tuple[str, ...]]:
    """Return the filter table of a host with this many classes of one policy each."""
    desired = Desired("h1", SETTINGS, (Family.V4,), "")
    updates: list[Update] = []
    rule = ResolvedRule(id="r", action="allow")
    for n in range(n_classes):
        policy = PolicyId(f"gnp/{n}")
        tier = TierPolicies(name="t", ingress=(policy,), egress=(policy,))
        updates.append(PolicySet(id=policy, version=1, ingress=(rule,), egress=(rule,)))
        updates.append(EndpointSet(id=EndpointId(f"d/{n}"), interface=f"tap{n}", tiers=(tier,)))
    desired.apply(Step("e", 1, full=False, updates=tuple(updates)))
    return desired.chains.tables[Family.V4, "filter"].desired


def visits(chains: Mapping[str, tuple[str, ...]], chain: str) -> int:
    """Count the lines nft looks at when it validates a table: every path anew."""
    lines = chains[chain]
    return len(lines) + sum(
        visits(chains, target) for line in lines for target in JUMP.findall(line)
    )


def test_what_a_transaction_costs_grows_with_classes_and_not_with_their_square() -> None:
    """nft validates each path of a table at every commit, so no tree may stand behind each leaf of another."""
    counts = [
        sum(visits(chains, entry) for entry in (FORWARD, INPUT))
        for chains in (filter_of(100), filter_of(400))
    ]
    assert counts[1] < 5 * counts[0]


def test_a_workloads_packet_is_accepted_only_by_an_allow() -> None:
    """An emptied chain of ours opens nothing: what comes back unmarked, or from ingress at all, is dropped."""
    chains = filter_of(1)
    mark = SETTINGS.marks.allowed
    unmarked = f"-m mark ! --mark {mark:#x}/{mark:#x} -j DROP"
    for prefix in SETTINGS.prefixes:
        forward = chains[FORWARD]
        after_from = forward.index(f"-i {prefix}+ -j hw-from")
        assert f"-i {prefix}+ {unmarked}" in forward[after_from:]
        assert forward.index(f"-i {prefix}+ {unmarked}") < forward.index(f"-i {prefix}+ -j ACCEPT")
        assert forward.index(f"-o {prefix}+ -j hw-to") < forward.index(f"-o {prefix}+ -j DROP")
        assert forward.index(f"-o {prefix}+ -j DROP") < forward.index(f"-i {prefix}+ -j ACCEPT")
    assert chains["hw-input"][-3:] == ("-j hw-from", unmarked, "-j DROP")
