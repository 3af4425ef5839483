"""Identities, log messages and counters of a real agent on a real kernel, both backends, both families."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hopwall_dataplane.iptables.identity import ANTI_SPOOF, Denial, rule_origins
from hopwall_dataplane.iptables.nflog import prefix
from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RuleCount, RulesRequest
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    RoutesBucket,
    TierPolicies,
    Verdict,
)
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.nflog import NflogListener, send_udp

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

P = PolicyId("gnp/p")
MINE = {4: "10.65.0.24", 6: "fd65::24"}
OTHER = {4: "10.65.0.21", 6: "fd65::21"}
BURST = 5
UDP_BYTES = {4: 32, 6: 52}


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with an uplink and one workload's cable, whose far end is va."""
    with Netns("nflog") as ns:
        for line in (
            "link add eth0 type veth peer name fabric0",
            "link set eth0 up",
            "link set fabric0 up",
            "addr add 172.18.203.125/24 dev eth0",
            "addr add fd00:203::125/64 dev eth0 nodad",
            # Else what is allowed ends in errors some seconds later.
            "neigh add 172.18.203.126 lladdr 02:00:00:00:00:fe dev eth0 nud permanent",
            "neigh add fd00:203::126 lladdr 02:00:00:00:00:fe dev eth0 nud permanent",
            "link add tapa address 02:00:00:00:00:0a type veth peer name va",
            "link set tapa up",
            "link set va up",
        ):
            ns.run(["ip", *line.split()])
        yield ns


def to_port(port: int, action: Verdict, number: int) -> ResolvedRule:
    """Return a rule on UDP to a port."""
    destination = Entity(ports=(PortRange(port, port),))
    return ResolvedRule(id=f"gnp/p/e{number}", action=action, protocol=17, destination=destination)


ACTIONS: tuple[Verdict, ...] = ("log", "deny", "allow", "pass")
RULES = tuple(to_port(7000 + n, action, n) for n, action in enumerate(ACTIONS))


def policy(version: int, rules: tuple[ResolvedRule, ...]) -> PolicySet:
    """Return a version of the policy with these egress rules."""
    return PolicySet(id=P, version=version, previous=version - 1, tier="t", egress=rules)


async def declare(calc: CalcStandIn) -> None:
    """Say the policy, the workload of both families, and a way to another host."""
    routes = RoutesBucket(
        host="h2",
        version=calc.next_version(),
        gateway_v4="172.18.203.126",
        gateway_v6="fd00:203::126",
        cidrs=tuple(f"{address}/{32 if n == 4 else 128}" for n, address in OTHER.items()),
    )
    workload = EndpointSet(
        id=EndpointId("d/a"),
        interface="tapa",
        addresses=tuple(f"{address}/{32 if n == 4 else 128}" for n, address in MINE.items()),
        tiers=(TierPolicies(name="t", egress=(P,)),),
    )
    first = calc.next_version()
    await calc.say(pieces=(policy(first, RULES), routes), endpoints=(workload,))
    await calc.applied()


def send(family: int, port: int, n: int, src: str = "") -> None:
    """Send from the workload to a port of the other host's one."""
    source = src or MINE[family]
    size = send_udp("va", "02:00:00:00:00:0a", source, OTHER[family], port, n=n)
    assert size == UDP_BYTES[family]


async def ask(calc: CalcStandIn, request: RulesRequest | None = None) -> dict[str, RuleCount]:
    """Ask the agent for its rules, by identity."""
    subject = topics.rules_subject("h1")
    body = await calc.link.request_chunked(subject, request or RulesRequest(), timeout_s=30)
    answer = codec.decoder(HostRules)(body)
    assert (answer.host, answer.failure) == ("h1", "")
    return {rule.identity: rule for rule in answer.rules}


@dataclass
class Seen:
    """What came of a scenario."""

    prefixes: Counter[str]
    rules: dict[str, RuleCount]
    of_policy: dict[str, RuleCount]
    one: dict[str, RuleCount]


#: What the packets of `_denied` make of messages, as far as the limit goes.
N_LOGGED = 5 + 5 + (BURST + 2) + 5 + 3

LOG_O, DENY_O, ALLOW_O, PASS_O = rule_origins(P, "t", "egress", RULES)
TIER_END = Denial("tier-end", "egress", tier="t")
PROFILES_END = Denial("profiles-end", "egress")


async def _denied(calc: CalcStandIn, _agent: AgentProcess) -> Seen:
    await declare(calc)
    listener = NflogListener(77)
    for family, n in ((4, 3), (6, 2)):
        send(family, 7000, n)
        send(family, 7001, n)
        send(family, 7002, n)
        send(family, 7003, n)
    send(4, 7001, 20)
    send(4, 7001, 3, src="10.65.0.99")
    prefixes = listener.prefixes(at_least=N_LOGGED)
    listener.close()
    return Seen(
        Counter(prefixes),
        await ask(calc),
        await ask(calc, RulesRequest(policy=P)),
        await ask(calc, RulesRequest(identities=(TIER_END.origin.identity,))),
    )


FLAGS = ("--log-group", "77", "--log-rate", "1/minute", "--log-burst", str(BURST))


def test_what_is_denied_is_logged_counted_and_named(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """A message per denied packet as far as the limit goes; counters see them all, in both families."""
    seen = host.python(run_scenario, _denied, tmp_path, "--backend", backend, *FLAGS)
    # The kernel's own packets on the cable (router solicitations, listener reports) are not genuine either.
    assert seen.prefixes.pop(prefix(ANTI_SPOOF.origin, "deny")) >= 3
    assert seen.prefixes == {
        prefix(LOG_O, "log"): 5,
        prefix(TIER_END.origin, "deny"): 5,
        prefix(DENY_O, "deny"): BURST + 2,
        prefix(PROFILES_END.origin, "deny"): 5,
    }
    counted = {o.identity: seen.rules[o.identity] for o in (LOG_O, DENY_O, ALLOW_O, PASS_O)}
    assert [rule.packets for rule in counted.values()] == [5, 25, 5, 5]
    assert counted[DENY_O.identity].bytes == 23 * UDP_BYTES[4] + 2 * UDP_BYTES[6]
    assert [rule.place for rule in counted.values()] == [
        f"rule {n} of egress" for n in (1, 2, 3, 4)
    ]
    assert {rule.policy for rule in counted.values()} == {P}
    end = seen.rules[TIER_END.origin.identity]
    assert (end.place, end.tier, end.packets) == ("end of tier t", "t", 5)
    assert seen.rules[PROFILES_END.origin.identity].packets == 5
    assert seen.rules[ANTI_SPOOF.origin.identity].packets >= 3
    assert set(seen.of_policy) == set(counted)
    assert set(seen.one) == {TIER_END.origin.identity}


async def _quiet(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[str], int]:
    await declare(calc)
    listener = NflogListener(100)
    send(4, 7001, 3)
    send(4, 7000, 1)
    prefixes = listener.prefixes(at_least=1)
    listener.close()
    return prefixes, (await ask(calc))[DENY_O.identity].packets


def test_denials_are_not_logged_when_not_wanted(host: Netns, tmp_path: Path) -> None:
    """Only the Log rule speaks, on the usual group; denials are counted all the same."""
    flags = ("--backend", "nft", "--log-denied", "false")
    prefixes, denied = host.python(run_scenario, _quiet, tmp_path, *flags)
    assert prefixes == [prefix(LOG_O, "log")]
    assert denied == 3


def saved(tool: str) -> str:
    """Return the filter table of one family as whichever backend is in use holds it."""
    texts = [
        subprocess.run(
            [f"{tool}-{kind}-save", "-t", "filter"], capture_output=True, text=True, check=True
        ).stdout
        for kind in ("nft", "legacy")
    ]
    return "".join(texts)


IDENTITY = re.compile(r"-A (\S+) .*--comment \"hw:\S{16}:(\w{10})(?::also)?\"")


async def _rendered(calc: CalcStandIn, agent: AgentProcess) -> list[dict[str, set[str]]]:
    seen = []

    def note() -> None:
        found: dict[str, set[str]] = {}
        for family in ("iptables", "ip6tables"):
            text = saved(family)
            found[family] = {
                identity for chain, identity in IDENTITY.findall(text) if "-pe-" in chain
            }
        seen.append(found)

    await declare(calc)
    note()
    above = to_port(9000, "deny", 0)
    before = calc.pieces[policy(1, ()).scope]
    fresh = calc.next_version()
    changed = PolicySet(
        id=P, version=fresh, previous=before.version, tier="t", egress=(above, *RULES)
    )
    await calc.say(pieces=(changed,))
    await calc.applied()
    note()
    agent.kill()
    calc.forget()
    agent.start()
    await calc.applied()
    note()
    return seen


def test_an_identity_stays_while_rules_come_and_the_agent_goes(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """A rule put above the others, and a restart, leave every identity as it was, in both families."""
    first, after, again = host.python(run_scenario, _rendered, tmp_path, "--backend", backend)
    mine = {origin.identity for origin in (LOG_O, DENY_O, ALLOW_O, PASS_O)}
    assert first == {"iptables": mine, "ip6tables": mine}
    assert all(mine < identities and len(identities) == 5 for identities in after.values())
    assert after["iptables"] == after["ip6tables"]
    assert again == after
