"""The agent on a real kernel, with a real NATS and a calc that says what the test wants."""

import asyncio
import functools
import itertools
import re
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from hopwall_dataplane.watch.codec import generation_message, parse_generation
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    NeedSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.swept import live, until_swept

pytestmark = [pytest.mark.kernel, pytest.mark.nats]
R = TypeVar("R")
Scenario = Callable[[CalcStandIn, AgentProcess], Awaitable[R]]

PEERS = SetId("s:peers")


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host: an uplink with an address and a default route, and two workload interfaces."""
    with Netns("agent") as ns:
        for line in (
            "link add eth0 type veth peer name fabric0",
            "link set eth0 up",
            "link set fabric0 up",
            "addr add 172.18.203.125/24 dev eth0",
            "addr add fd00:203::125/64 dev eth0 nodad",
            "route add default via 172.18.203.1",
            "link add tapa type veth peer name va",
            "link set tapa up",
            "link set va up",
        ):
            ns.run(["ip", *line.split()])
        yield ns


def sh(command: str) -> str:
    """Run a command in the scenario's namespace."""
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.05)


def save(backend: str, counters: str = "") -> str:
    """Return what both families' tables hold."""
    return sh(f"iptables-{backend}-save {counters}") + sh(f"ip6tables-{backend}-save {counters}")


def rule(action: str = "allow", **source: object) -> ResolvedRule:
    """Return a rule on the source."""
    return ResolvedRule(id="r", action=action, source=Entity(**source))  # type: ignore[arg-type]


def endpoint(name: str, *addresses: str, policies: tuple[str, ...] = ("gnp/p",)) -> EndpointSet:
    """Return an endpoint on tap<name> with these policies each way."""
    ids = tuple(PolicyId(p) for p in policies)
    tier = TierPolicies(name="default", ingress=ids, egress=ids)
    return EndpointSet(
        id=EndpointId(f"d/{name}"), interface=f"tap{name}", addresses=addresses, tiers=(tier,)
    )


def policy(calc: CalcStandIn, name: str, *rules: ResolvedRule) -> PolicySet:
    """Return the next version of a policy that has these rules each way."""
    before = calc.pieces.get(PolicySet(id=PolicyId(name), version=0).scope)
    return PolicySet(
        id=PolicyId(name),
        version=calc.next_version(),
        previous=before.version if before else 0,
        ingress=rules,
        egress=rules,
    )


async def first_state(calc: CalcStandIn) -> None:
    """Say a policy by a set, one local endpoint of both families and one remote address."""
    peers = SetBucket(id=PEERS, version=calc.next_version(), members=("10.65.0.0/16", "fd65::/64"))
    routes = RoutesBucket(
        host="h2",
        version=calc.next_version(),
        gateway_v4="172.18.203.126",
        gateway_v6="fd00:203::126",
        cidrs=("10.65.0.21/32", "fd65::21/128"),
    )
    await calc.say(
        pieces=(peers, policy(calc, "gnp/p", rule(sets=(PEERS,))), routes),
        endpoints=(endpoint("a", "10.65.0.24/32", "fd65::24/128"),),
    )


def run(host: Netns, tmp_path: Path, backend: str, scenario: Scenario[R]) -> R:
    """Run a scenario inside the host."""
    return host.python(run_scenario, scenario, tmp_path, "--backend", backend)


def counted(saved: str) -> list[tuple[str, int]]:
    """Return each rule with its packet counter."""
    found = re.findall(r"^\[(\d+):\d+\] (.*)$", saved, re.M)
    return [(text, int(packets)) for packets, text in found]


# ---------------------------------------------------------------- what stands


async def _stands(calc: CalcStandIn, _agent: AgentProcess) -> dict[str, str]:
    await first_state(calc)
    await calc.applied()
    return {
        "routes": sh("ip route") + sh("ip -6 route"),
        "local": sh("ip route show table local"),
        "sets": sh("ipset save"),
        "proxy_arp": Path("/proc/sys/net/ipv4/conf/tapa/proxy_arp").read_text(),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "v4": sh("iptables-nft-save"),
        "v4-legacy": sh("iptables-legacy-save"),
    }


def test_everything_a_host_needs_stands_in_the_kernel(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Routes, sets, chains and sysctls of both families are there once the status says so."""
    seen = run(host, tmp_path, backend, _stands)
    assert "10.65.0.24 dev tapa proto 80 scope link" in seen["routes"]
    assert "10.65.0.21 via 172.18.203.126 dev eth0 proto 80" in seen["routes"]
    assert "fd65::21 via fd00:203::126 dev eth0 proto 80" in seen["routes"]
    assert "default via 172.18.203.1 dev eth0" in seen["routes"]
    assert "local 169.254.1.1 dev lo proto 80" in seen["local"]
    assert re.search(r"add hw4-from 10.65.0.24,tapa skbmark 0x400/0x1ffc00", seen["sets"])
    assert re.search(r"add hw4-to 10.65.0.24 skbmark 0x200000/0xffe00000", seen["sets"])
    assert re.search(r"add hw6-s-\w+ fd65::/64", seen["sets"])
    assert (seen["proxy_arp"], seen["forward"]) == ("1\n", "1\n")
    text = seen["v4"] if backend == "nft" else seen["v4-legacy"]
    assert "-A FORWARD" in text
    assert "-g hw-antispoof" in text


# ---------------------------------------------------------------- restart


async def _restart(calc: CalcStandIn, agent: AgentProcess) -> tuple[str, str, str, str, float]:
    await first_state(calc)
    await calc.applied()
    backend = "nft" if "hw-FORWARD" in sh("iptables-nft-save") else "legacy"
    tables, sets = save(backend, "-c"), sh("ipset save")
    agent.kill()
    calc.forget()
    agent.start()
    await calc.applied()
    with urllib.request.urlopen("http://127.0.0.1:9099/metrics") as answer:
        metrics = answer.read().decode()
    ops = re.search(r"^hopwall_int_dataplane_ops_total (\S+)", metrics, re.M)
    assert ops is not None
    return tables, save(backend, "-c"), sets, sh("ipset save"), float(ops[1])


def test_a_killed_agent_comes_back_and_writes_nothing(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """A process without memory recognises all of it: no op, no counter reset, the same sets."""
    tables, tables_after, sets, sets_after, ops = run(host, tmp_path, backend, _restart)
    lines, lines_after = counted(tables), counted(tables_after)
    assert [text for text, _ in lines_after] == [text for text, _ in lines]
    assert all(now >= was for (_, now), (_, was) in zip(lines_after, lines, strict=True))
    assert any(was > 0 for _, was in lines)
    assert sorted(sets_after.splitlines()) == sorted(sets.splitlines())
    assert ops == 0


# ---------------------------------------------------------------- joining a class


async def _join(calc: CalcStandIn, _agent: AgentProcess) -> tuple[str, str, str]:
    await first_state(calc)
    await calc.applied()
    sh("ip link add tapb type veth peer name vb")
    sh("ip link set tapb up")
    before = await until_swept(lambda: sh("iptables-nft-save"))
    await calc.say(endpoints=(endpoint("b", "10.65.0.25/32"),))
    await calc.until(lambda s: s.revision >= calc.revision and not s.waiting)
    return before, sh("iptables-nft-save"), sh("ip route") + sh("ipset save")


def test_a_workload_that_joins_a_known_class_needs_no_iptables_transaction(
    host: Netns, tmp_path: Path
) -> None:
    """Two set elements and a route; the tables stay as they are."""
    before, after, rest = run(host, tmp_path, "nft", _join)
    strip = re.compile(r"^#.*$|\[\d+:\d+\]", re.M)
    assert strip.sub("", before) == strip.sub("", after)
    assert "add hw4-from 10.65.0.25,tapb" in rest
    assert "10.65.0.25 dev tapb proto 80" in rest


# ---------------------------------------------------------------- links


async def _links(calc: CalcStandIn, _agent: AgentProcess) -> list[str]:
    seen = []
    await first_state(calc)
    await calc.say(endpoints=(endpoint("late", "10.65.0.30/32"),))
    status = await calc.until(lambda s: s.revision >= calc.revision and bool(s.waiting))
    seen.append(status.waiting[0].reason)
    sh("ip link add taplate type veth peer name vlate")
    sh("ip link set taplate up")
    await calc.until(lambda s: not s.waiting)
    seen.append(sh("ip route show 10.65.0.30"))
    sh("ip link set taplate down")
    await calc.until(lambda s: bool(s.waiting))
    seen.append(sh("ip route show 10.65.0.30"))
    sh("ip link set taplate up")
    await calc.until(lambda s: not s.waiting)
    seen.append(sh("ip route show 10.65.0.30"))
    sh("ip link set taplate down")
    sh("ip link set taplate name other")
    sh("ip link set other up")
    await calc.until(lambda s: bool(s.waiting))
    seen.append(sh("ip route show 10.65.0.30"))
    return seen


def test_routes_follow_links_that_appear_flap_and_get_renamed(host: Netns, tmp_path: Path) -> None:
    """A route stands while the endpoint's own interface is up, and at no other time."""
    seen = run(host, tmp_path, "nft", _links)
    assert seen[0] == "Interface taplate does not exist on host h1."
    assert "dev taplate proto 80" in seen[1]
    assert seen[2] == ""
    assert "dev taplate proto 80" in seen[3]
    assert seen[4] == ""


# ---------------------------------------------------------------- drift and foreign things


async def _drift(calc: CalcStandIn, _agent: AgentProcess) -> tuple[str, str, list[str], str]:
    sh("iptables-nft -A FORWARD -s 192.0.2.1 -j ACCEPT")
    sh("ip route add 10.65.0.0/16 dev tapa")
    sh("ipset create foreign hash:ip")
    await first_state(calc)
    await calc.applied()
    before = await until_swept(lambda: sh("iptables-nft-save -t filter"))
    handles = _handles()
    sh("iptables-nft -I FORWARD 1 -s 192.0.2.2 -j ACCEPT")
    sh("iptables-nft -F hw-known")
    sh("ip route del 10.65.0.21")
    sh("ipset del hw4-to 10.65.0.24")
    await calc.until(lambda s: s.drift_repaired >= 4)
    await eventually(lambda: len(calc.drifts) >= 4)
    everything = sh("ip route") + sh("ipset save")
    # What is right is not written anew: its lines are the very same ones.
    assert {c: h for c, h in handles.items() if c != "hw-known"}.items() <= _handles().items()
    return before, sh("iptables-nft-save -t filter"), [d.object for d in calc.drifts], everything


def test_drift_is_repaired_and_reported_and_foreign_things_stay(
    host: Netns, tmp_path: Path
) -> None:
    """What others changed of ours comes back at the refresh; what is theirs stays as it was."""
    before, after, drifts, rest = host.python(
        run_scenario, _drift, tmp_path, "--backend", "nft", "--refresh-s", "1"
    )
    count = re.compile(r"^#.*$|\[\d+:\d+\]", re.M)
    wanted = count.sub("", before).replace(
        "-A FORWARD -s 192.0.2.1/32",
        "-A FORWARD -s 192.0.2.2/32 -j ACCEPT\n-A FORWARD -s 192.0.2.1/32",
    )
    assert count.sub("", after) == wanted
    assert sorted(drifts) == ["chain", "jump", "route", "set"]
    assert "10.65.0.21 via" in rest
    assert "10.65.0.0/16 dev tapa" in rest
    assert "add hw4-to 10.65.0.24" in rest
    assert "create foreign" in rest


def _handles() -> dict[str, list[str]]:
    """Return the handles of all lines of our chains in filter."""
    found: dict[str, list[str]] = {}
    for line in sh("nft -a list table ip filter").splitlines():
        if line.startswith("\tchain "):
            chain = line.split()[1]
        elif line.startswith("\t\t") and "hook" not in line and chain.startswith("hw-"):
            found.setdefault(chain, []).append(line.rpartition(" handle ")[2])
    return found


async def _fight(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[int], list[str], float]:
    await first_state(calc)
    await calc.applied()
    for tool in ("iptables-nft-save", "ip6tables-nft-save"):
        await until_swept(functools.partial(sh, tool))
    line = "FORWARD -s 192.0.2.2 -j ACCEPT"
    n_put, generation = 0, _generation()
    counts = []
    # Until it is called a fight, however slow the machine; then for some seconds more, and long enough to be one.
    begun_at = time.monotonic()
    told_at = 0.0
    while time.monotonic() < (told_at + 5.0 if told_at and n_put > 100 else begun_at + 90.0):
        n_put += 1
        sh(f"iptables-nft -D {line}") if n_put > 1 else None
        sh(f"iptables-nft -I {line}")
        await asyncio.sleep(0.02)
        if not told_at and calc.statuses[-1].refused:
            told_at = time.monotonic()
            counts.append(_generation() - generation - (2 * n_put - 1))
    # Two transactions of the other program's each time, less the first; one of ours to a repair.
    counts.append(_generation() - generation - (2 * n_put - 1))
    fought = [r.object for r in calc.statuses[-1].refused]
    before = _spent()
    sh(f"iptables-nft -D {line}")
    return [n_put, *counts, _slow_repairs(time.monotonic() - told_at)], fought, before


def _slow_repairs(for_s: float) -> int:
    """Return how many repairs come in a time, from when a fight is told: ever later, up to ten seconds apart."""
    apart = itertools.chain((0.0, 1.0, 2.0, 4.0, 8.0), itertools.repeat(10.0))
    return sum(1 for at in itertools.takewhile(lambda at: at <= for_s, itertools.accumulate(apart)))


def _generation() -> int:
    with NetlinkSocket(NETLINK_NETFILTER) as one:
        answer = one.ask(generation_message())
        assert isinstance(answer, bytes)
        return parse_generation(answer)


def _spent() -> float:
    with urllib.request.urlopen("http://127.0.0.1:9099/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.search(r"^hopwall_watch_seconds_total (\S+)$", text, re.M)
    assert found is not None
    return float(found[1])


def test_a_fight_over_the_first_place_is_slowed_down_and_told(host: Netns, tmp_path: Path) -> None:
    """Who puts his line before ours again and again is answered some times at once, then slowly, and is named."""
    (n_put, first, both, slow), fought, spent_s = host.python(
        run_scenario, _fight, tmp_path, "--backend", "nft", "--refresh-s", "3600"
    )
    assert n_put > 100
    assert 15 <= first <= 25
    assert both <= first + slow
    assert fought == ["jump v4 filter FORWARD"]
    assert spent_s < 0.2


# ---------------------------------------------------------------- removal, suspicion, missed messages


async def _removal(calc: CalcStandIn, _agent: AgentProcess) -> str:
    await first_state(calc)
    await calc.applied()
    await calc.remove("d/a")
    await calc.applied()
    await eventually(lambda: "hw-cf" not in sh("iptables-nft-save -t filter"))
    return sh("iptables-nft-save -t filter") + sh("ipset save") + sh("ip route")


def test_a_removed_endpoint_leaves_nothing_of_its_class(host: Netns, tmp_path: Path) -> None:
    """Route, elements, class chains and the policy chains only it used are gone."""
    left = run(host, tmp_path, "nft", _removal)
    assert "hw-cf" not in left
    assert "hw-pe-" not in left
    assert "10.65.0.24" not in left
    assert "10.65.0.21 via" in left


async def _missed(calc: CalcStandIn, _agent: AgentProcess) -> str:
    await first_state(calc)
    await calc.applied()
    # The shared piece is never published: only the batch names it.
    fresh = policy(calc, "gnp/p", rule("deny"))
    calc.pieces[fresh.scope] = fresh
    await calc.say(endpoints=())
    calc.number += 1
    calc.revision += 1
    await calc._publish([NeedSet(scope=fresh.scope, version=fresh.version)])
    await calc.applied()
    return sh("iptables-nft-save -t filter")


def test_a_missed_shared_piece_is_fetched(host: Netns, tmp_path: Path) -> None:
    """A batch that names a version nobody delivered ends in a snapshot, not in an old rule."""
    text = run(host, tmp_path, "nft", _missed)
    assert re.search(r"-A hw-pi-\w+ .*-j DROP", text)
    assert not re.search(r"-A hw-pi-\w+ .*-j ACCEPT", live(text))


# ---------------------------------------------------------------- one route's trouble


async def _unreachable(calc: CalcStandIn, _agent: AgentProcess) -> tuple[str, str, str]:
    await first_state(calc)
    far = RoutesBucket(
        host="h9", version=calc.next_version(), gateway_v4="192.0.2.9", cidrs=("10.65.0.99/32",)
    )
    sh("ip route del default")
    await calc.say(pieces=(far,))
    status = await calc.applied()
    without = sh("ip route show 10.65.0.99")
    sh("ip route add 192.0.2.0/24 dev eth0")
    await calc.until(lambda s: not s.refused)
    return status.refused[0].object, without, sh("ip route show 10.65.0.99")


def test_a_gateway_out_of_reach_holds_up_its_own_route_only(host: Netns, tmp_path: Path) -> None:
    """The host goes on and names the route; when there is a way to the gateway, the route stands."""
    flags = ("--backend", "nft", "--heartbeat-s", "0.5")
    named, without, stands = host.python(run_scenario, _unreachable, tmp_path, *flags)
    assert named == "route 10.65.0.99/32"
    assert without == ""
    assert "10.65.0.99 via 192.0.2.9" in stands
