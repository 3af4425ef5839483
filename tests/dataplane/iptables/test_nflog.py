"""Log lines and logged drops."""

import re

import pytest

from hopwall_dataplane.classes import ClassKey, PolicyClass, render_class
from hopwall_dataplane.iptables.identity import (
    ANTI_SPOOF,
    EARLY_ERROR,
    FOREIGN_ERROR,
    INVALID,
    REVOKED,
    Denial,
    Origin,
    rule_origins,
)
from hopwall_dataplane.iptables.nflog import (
    LogSettings,
    LogSettingsError,
    denial,
    deny_actions,
    log_action,
    prefix,
)
from hopwall_dataplane.iptables.render_policy import policy_chain, render_policy
from hopwall_dataplane.iptables.static import RenderSettings, static_chains
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.updates import PolicyId, PolicySet, ResolvedRule, TierPolicies
from hopwall_runtime.config import ConfigError

LONG = "a \"policy\" of 'any' name; -j ACCEPT\n" * 20
LOUD = LogSettings(group=7, rate="3/minute", burst=9, denied=True)
SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",), log=LOUD)
LIMIT = "-m limit --limit 3/minute --limit-burst 9 -j NFLOG --nflog-group 7 --nflog-prefix"


def test_a_prefix_says_direction_verdict_tier_policy_and_identity() -> None:
    """Hashes only, within what NFLOG holds; the policy's is the one in its chains' names."""
    origin = Origin("abcdefgh23", "ingress", LONG, LONG)
    text = prefix(origin, "deny")
    assert re.fullmatch(r"hw:i:deny:[a-z2-7]{6}:[a-z2-7]{8}:abcdefgh23", text)
    assert len(text) <= 63
    assert text.split(":")[4] == policy_chain(PolicyId(LONG), "egress")[6:14]
    assert prefix(INVALID.origin, "deny").startswith("hw:-:deny:-:-:")
    assert prefix(ANTI_SPOOF.origin, "deny").startswith("hw:e:deny:-:-:")


def test_a_log_rule_is_one_limited_line_that_counts() -> None:
    """It logs what it matches and lets it go on."""
    rule = ResolvedRule(id="r", action="log", protocol=6)
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, tier="t", ingress=(rule,))
    (origin,) = rule_origins(policy.id, "t", "ingress", [rule])
    (line,) = render_policy(policy, "ingress", Family.V4, SETTINGS, {})
    assert plain(line) == f'-p 6 {LIMIT} "{prefix(origin, "log")}"'
    assert line == f"-p 6 {log_action(origin, 'log', LOUD)}"
    assert line.endswith(f':{origin.identity}"')


def test_a_denied_packet_is_logged_before_it_is_dropped_and_counted_once() -> None:
    """The log line goes along with the drop, which counts."""
    why = Denial("tier-end", "ingress", tier="t")
    log, drop = denial(why, LOUD, "-p 6")
    assert plain(log) == f'-p 6 {LIMIT} "{prefix(why.origin, "deny")}"'
    assert plain(drop) == "-p 6 -j DROP"
    assert (log.endswith(':also"'), drop.endswith(':also"')) == (True, False)
    assert deny_actions(why.origin, LogSettings()) == denial(why, LogSettings())
    assert [plain(line) for line in denial(why, LogSettings())] == ["-j DROP"]


def test_every_way_to_be_denied_is_logged() -> None:
    """Tiers, profiles, anti-spoofing, invalid connections, and what workloads may not send to the host."""
    tier = TierPolicies(name="t", ingress=(PolicyId("gnp/p"),))
    made = PolicyClass(1, ClassKey((tier,), ()))
    lines = [
        line
        for chains in (
            render_class(made, "ingress", SETTINGS, set()),
            render_class(made, "egress", SETTINGS, set()),
            static_chains(Family.V4, SETTINGS)["raw"],
            static_chains(Family.V4, SETTINGS)["filter"],
        )
        for chain in chains.values()
        for line in chain
    ]
    logged = {found[1] for line in lines if (found := re.search(r'prefix "(\S+)"', line))}
    assert logged == {
        prefix(why.origin, "deny")
        for why in (
            Denial("tier-end", "ingress", tier="t"),
            Denial("profiles-end", "egress"),
            ANTI_SPOOF,
            INVALID,
            REVOKED,
            Denial("to-host", "egress"),
            FOREIGN_ERROR,
            EARLY_ERROR,
        )
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"log_group": -1},
        {"log_group": 65536},
        {"log_burst": 0},
        {"log_burst": 10_001},
        {"log_rate": "0/second"},
        {"log_rate": "10001/second"},
        {"log_rate": "10"},
        {"log_rate": "10/day"},
        {"log_rate": "10/sec"},
        {"log_rate": "-1/second"},
        {"log_rate": "10/second -j ACCEPT"},
        {"log_rate": "\u0661/second"},
        {"log_rate": "10/second\n"},
        {"log_rate": "1/hour", "log_burst": 24},
    ],
)
def test_what_the_kernel_would_not_take_is_refused_at_start(fields: dict[str, object]) -> None:
    """One sentence that names the setting."""
    with pytest.raises(ConfigError, match="log_"):
        DataplaneSettings(**fields).check()  # type: ignore[arg-type]
    with pytest.raises(LogSettingsError):
        _ = DataplaneSettings(**fields).log  # type: ignore[arg-type]


def test_the_settings_reach_the_rules() -> None:
    """What the operator says is what the lines say; denials are logged unless told otherwise."""
    given = DataplaneSettings(log_group=7, log_rate="3/minute", log_burst=9)
    given.check()
    assert given.log == LOUD
    assert DataplaneSettings().log == LogSettings(denied=True)
