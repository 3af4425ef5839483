"""What the agent must not be ended, opened or fooled by: bad words, big words, and too few of them."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_model.names import set_name
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
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

pytestmark = [pytest.mark.kernel, pytest.mark.nats]
TIER = TierPolicies(name="default", ingress=(PolicyId("gnp/p"),), egress=(PolicyId("gnp/p"),))


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host: an uplink, and two workloads' interfaces."""
    with Netns("faults") as ns:
        for name in ("eth0", "tapa", "tapb"):
            ns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"peer-{name}"])
            ns.run(["ip", "link", "set", name, "up"])
        ns.run(["ip", "addr", "add", "172.18.203.125/24", "dev", "eth0"])
        yield ns


def sh(command: str) -> str:
    """Run a command in the scenario's namespace."""
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def endpoint(name: str, address: str, interface: str = "") -> EndpointSet:
    """Return an endpoint of the one class there is."""
    return EndpointSet(
        id=EndpointId(f"d/{name}"),
        interface=interface or f"tap{name}",
        addresses=(address,),
        tiers=(TIER,),
    )


def allow_all(calc: CalcStandIn, *rules: ResolvedRule) -> PolicySet:
    """Return policy p: these rules each way, or one that allows everything."""
    rules = rules or (ResolvedRule(id="r", action="allow"),)
    version = calc.next_version()
    before = calc.pieces.get(PolicySet(id=PolicyId("gnp/p"), version=0).scope)
    return PolicySet(
        id=PolicyId("gnp/p"),
        version=version,
        previous=before.version if before else 0,
        ingress=rules,
        egress=rules,
    )


async def _bad_words(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[str], str, str]:
    good, strange = endpoint("a", "10.65.0.24/32"), endpoint("b", "10.65.0.25/32", "eth0")
    masked = endpoint("c", "10.65.0.0/24", "tapb")
    routes = RoutesBucket(
        host="h2",
        version=calc.next_version(),
        gateway_v4="172.18.203.126",
        cidrs=("10.65.0.9/32", "x"),
    )
    await calc.say(pieces=(allow_all(calc), routes), endpoints=(good, strange, masked))
    status = await calc.applied()
    proxy_arp = Path("/proc/sys/net/ipv4/conf/eth0/proxy_arp").read_text()
    return [one.object for one in status.refused], sh("ip route") + sh("ipset save"), proxy_arp


def test_words_that_make_no_sense_close_what_they_speak_of_and_nothing_else(
    host: Netns, tmp_path: Path
) -> None:
    """The agent lives, names each, and programs the rest; the uplink is not taken for a workload's."""
    refused, kernel, proxy_arp = host.python(run_scenario, _bad_words, tmp_path)
    assert refused == ["endpoint d/b", "endpoint d/c", "route x"]
    assert "10.65.0.24 dev tapa" in kernel
    assert "10.65.0.9 via 172.18.203.126" in kernel
    assert "10.65.0.25" not in kernel
    assert "10.65.0.0" not in kernel
    assert proxy_arp == "0\n"


async def _refused_member(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[str], str, str]:
    ids = SetId("s:x")
    deny = ResolvedRule(id="r", action="deny", source=Entity(sets=(ids,)))
    rest = ResolvedRule(id="s", action="allow")
    everything = SetBucket(id=ids, version=calc.next_version(), members=("0.0.0.0/0", "10.0.0.0/8"))
    rules = allow_all(calc, deny, rest)
    await calc.say(pieces=(everything, rules), endpoints=(endpoint("a", "10.65.0.24/32"),))
    status = await calc.applied()
    closed = sh("iptables-nft-save -t filter")
    halves = structs.replace(
        everything,
        version=calc.next_version(),
        previous=everything.version,
        members=("0.0.0.0/1", "128.0.0.0/1"),
    )
    await calc.say(pieces=(halves,))
    await calc.until(lambda s: s.revision >= calc.revision and not s.refused)
    return [one.object for one in status.refused], closed, sh("iptables-nft-save -t filter")


def test_a_member_the_kernel_cannot_hold_closes_what_relies_on_its_set(
    host: Netns, tmp_path: Path
) -> None:
    """A deny by a set that lacks a member must not let that member by; a later good word clears it."""
    refused, closed, after = host.python(
        run_scenario, _refused_member, tmp_path, "--backend", "nft"
    )
    assert refused == ["set s:x"]
    assert set_name("v4", "s:x") not in closed
    assert set_name("v4", "s:x") in after


async def _large(calc: CalcStandIn, _agent: AgentProcess) -> tuple[int, list[str], float]:
    await calc.say(pieces=(allow_all(calc),))
    await calc.applied()
    for n in range(12_000):
        one = endpoint(f"{n}", f"10.66.{n >> 8}.{n & 255}/32")
        calc.endpoints[one.id] = one
    calc.epoch, calc.number = "e2", 1
    began = time.monotonic()
    await calc._publish([])
    status = await calc.applied()
    return len(status.waiting), [one.object for one in status.refused], time.monotonic() - began


def test_a_host_with_very_many_waiting_endpoints_still_reports(host: Netns, tmp_path: Path) -> None:
    """A status fits one message, and says so when it does not name all."""
    waiting, refused, _ = host.python(run_scenario, _large, tmp_path, "--backend", "nft")
    assert waiting == 2000
    assert refused == ["status"]


async def _walled(calc: CalcStandIn, _agent: AgentProcess) -> tuple[str, str, str, str]:
    dual = structs.replace(
        endpoint("a", "10.65.0.24/32"), addresses=("10.65.0.24/32", "fd65::24/128")
    )
    before = Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text()
    await calc.say(pieces=(allow_all(calc),), endpoints=(dual,))
    await calc.applied()
    after = Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text()
    return before, after, sh("ip6tables-nft-save -t raw"), sh("ipset save") + sh("ip -6 route")


def test_without_ipv6_workloads_meet_a_wall_there_and_not_a_hole(
    host: Netns, tmp_path: Path
) -> None:
    """IPv6 that nobody asked for is dropped, not passed by for want of rules."""
    before, after, raw, rest = host.python(
        run_scenario, _walled, tmp_path, "--backend", "nft", "--ipv6", "false"
    )
    assert before == after == "0\n"
    assert "-A hw-PREROUTING -i tap+" in raw
    assert "fd65::24" not in rest
    assert "add hw4-to 10.65.0.24" in rest
