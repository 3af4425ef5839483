"""The fixed chains, together with those that policy makes: what a transaction costs, what an empty chain opens."""

import re
from collections.abc import Mapping

from hopwall_dataplane.classes import ClassKey, PolicyClass, render_class
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.render_policy import CLOSED, Direction, policy_chain
from hopwall_dataplane.iptables.static import (
    ALLOWED,
    FORWARD,
    FROM_TREE,
    INPUT,
    TO_TREE,
    RenderSettings,
    static_chains,
)
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout, mark_tree
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
STAGED = ClassKey((TierPolicies(name="t", egress=(PolicyId("gnp/a"),)),) * 10, ())
POLICY = policy_chain(PolicyId("gnp/a"), "egress")
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


def depth(chains: Mapping[str, tuple[str, ...]], chain: str) -> int:
    """Count the chains on the longest path from this one."""
    targets = {target for line in chains[chain] for target in JUMP.findall(line)}
    return 1 + max((depth(chains, target) for target in targets), default=0)


def test_no_path_is_longer_than_nft_takes_however_many_classes_and_stages() -> None:
    """More than 16 chains on a path are "Too many links": the table could not be written at all."""
    settings = RenderSettings(marks=layout(0xFFFFFFFF), prefixes=("tap",))
    made = PolicyClass(1, STAGED)
    leaves = dict.fromkeys(range(1, 1 << 15), made.chain("egress"))
    chains = dict(static_chains(Family.V4, settings)["filter"])
    chains |= mark_tree(FROM_TREE, settings.marks.source, leaves, end=CLOSED)
    chains |= {TO_TREE: CLOSED, POLICY: (f"-g {ALLOWED}",)}
    passing: set[tuple[PolicyId, Direction]] = {(PolicyId("gnp/a"), "egress")}
    chains |= render_class(made, "egress", settings, passing)
    kernel_chain = 1
    assert kernel_chain + max(depth(chains, entry) for entry in (FORWARD, INPUT)) <= 16


def test_a_workloads_packet_is_accepted_only_by_an_allow() -> None:
    """An emptied chain of ours opens nothing: what comes back unmarked, or from ingress at all, is dropped."""
    chains = {name: tuple(map(plain, lines)) for name, lines in filter_of(1).items()}
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
