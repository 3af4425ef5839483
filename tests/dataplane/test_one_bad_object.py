"""One object of each kind that the kernel or its tools really refuse: it is closed and named, all else stands.

What makes them refuse: a match and a target that this machine's iptables does not have, a sysctl that cannot be
written, a member no set of this kind holds, a route in whose place another stands, a gateway out of reach.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_model.status import HostStatus
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    Nat,
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
from tests.support.odd_tools import own_mounts, wrap_iptables

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu/xtables")
#: The match that a rule on protocol 0 needs, and the target of translations.
_HIDDEN = ("libxt_u32.so", "libxt_DNAT.so")
#: What the second workload's translation says, either way.
_TO_B = "--to-(destination|source) (10.65.0|198.51.100).25"
_SYSCTL = "/proc/sys/net/ipv4/conf/tapb/proxy_arp"


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host: an uplink, three workloads' interfaces, and a foreign route."""
    with Netns("badone") as ns:
        for name in ("eth0", "eth1", "tapa", "tapb", "tapc"):
            ns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"peer-{name}"])
            ns.run(["ip", "link", "set", name, "up"])
        ns.run(["ip", "addr", "add", "172.18.203.125/24", "dev", "eth0"])
        ns.run(["ip", "route", "add", "10.65.0.77/32", "dev", "eth0"])
        yield ns


def sh(command: str) -> str:
    """Run a command in the scenario's namespace."""
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def endpoint(name: str, address: str, policy: str = "gnp/good", **more: object) -> EndpointSet:
    """Return an endpoint of one policy each way."""
    ids = (PolicyId(policy),)
    return EndpointSet(
        id=EndpointId(f"d/{name}"),
        interface=f"tap{name}",
        addresses=(address,),
        tiers=(TierPolicies(name="default", ingress=ids, egress=ids),),
        **more,  # type: ignore[arg-type]
    )


def policy(calc: CalcStandIn, name: str, *rules: ResolvedRule) -> PolicySet:
    """Return a policy with these rules each way."""
    return PolicySet(id=PolicyId(name), version=calc.next_version(), ingress=rules, egress=rules)


async def _all_at_once(calc: CalcStandIn, _agent: AgentProcess) -> tuple[HostStatus, str, str]:
    subprocess.run(["mount", "--bind", _SYSCTL, _SYSCTL], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", _SYSCTL], check=True)
    allow = ResolvedRule(id="a", action="allow")
    by_set = ResolvedRule(id="s", action="deny", source=Entity(sets=(SetId("s:bad"),)))
    pieces = (
        SetBucket(id=SetId("s:bad"), version=calc.next_version(), members=("0.0.0.0/0",)),
        policy(calc, "gnp/good", allow),
        policy(calc, "gnp/line", ResolvedRule(id="l", action="allow", protocol=0), allow),
        policy(calc, "gnp/set", by_set, allow),
        RoutesBucket(
            host="h2",
            version=calc.next_version(),
            gateway_v4="172.18.203.126",
            cidrs=("10.65.0.77/32", "10.65.0.78/32"),
        ),
        RoutesBucket(
            host="h3", version=calc.next_version(), gateway_v4="192.0.2.9", cidrs=("10.65.0.79/32",)
        ),
    )
    nat = Nat("198.51.100.7/32", "10.65.0.24/32")
    host_tier = TierPolicies(name="default", ingress=(PolicyId("gnp/line"),))
    await calc.say(
        pieces=pieces,
        endpoints=(
            endpoint("a", "10.65.0.24/32", nats=(nat,)),
            endpoint("b", "10.65.0.25/32", "gnp/line"),
            endpoint("c", "10.65.0.26/32", "gnp/set"),
        ),
        host_endpoints=(
            HostEndpointSet(id=HostEndpointId("up"), interface="eth1", tiers=(host_tier,)),
        ),
    )
    status = await calc.applied()
    tables = sh("iptables-nft-save") + sh("iptables-legacy-save")
    return status, tables, sh("ip route") + sh("ipset save")


def poor_machine(folder: Path, *flags: str) -> tuple[HostStatus, str, str]:
    """Run the scenario where iptables lacks two of its libraries."""
    own_mounts()
    for name in _HIDDEN:
        subprocess.run(["mount", "--bind", "/dev/null", str(_LIBRARIES / name)], check=True)
    return run_scenario(_all_at_once, folder, *flags)


def test_each_is_named_with_its_reason_and_the_rest_is_applied(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Nothing waits for what cannot be done, and what cannot be done lets nothing through."""
    status, tables, rest = host.python(poor_machine, tmp_path, "--backend", backend)
    refused = {one.object: one.reason for one in status.refused}
    assert set(refused) == {
        "policy gnp/line",
        "set s:bad",
        "route 10.65.0.77/32",
        "route 10.65.0.79/32",
        "sysctl net/ipv4/conf/tapb/proxy_arp",
        "nat 198.51.100.7/32 of endpoint d/a",
    }
    assert all(refused.values())
    assert "u32" in refused["policy gnp/line"]
    for good in ("10.65.0.24 dev tapa", "10.65.0.78 via 172.18.203.126", "add hw4-to 10.65.0.26"):
        assert good in rest
    assert {name: lets_by(tables, name) for name in ("gnp/line", "gnp/set", "gnp/good")} == {
        "gnp/line": False,
        "gnp/set": False,
        "gnp/good": True,
    }


async def _one_translation(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[str], str]:
    nats = [Nat(f"198.51.100.{n}/32", f"10.65.0.{n}/32") for n in (24, 25, 26)]
    others = [Nat(f"fd03::{n}/128", f"fd65::{n}/128") for n in (24, 25, 26)]
    await calc.say(
        pieces=(policy(calc, "gnp/good", ResolvedRule(id="a", action="allow")),),
        endpoints=tuple(
            structs.replace(
                endpoint(name, nat.internal, nats=(nat, other)),
                addresses=(nat.internal, other.internal),
            )
            for name, nat, other in zip("abc", nats, others, strict=True)
        ),
    )
    status = await calc.applied()
    tables = sh("iptables-nft-save -t nat") + sh("iptables-legacy-save -t nat")
    return [one.object for one in status.refused], tables


def odd_iptables(folder: Path, *flags: str) -> tuple[list[str], str]:
    """Run the scenario where iptables reads one address as one that there cannot be."""
    own_mounts()
    for multi in ("nft", "legacy"):
        wrap_iptables(folder, multi, f"sed -u -E 's/{_TO_B}/--to-\\1 256.0.0.1/'")
    return run_scenario(_one_translation, folder, *flags)


def test_a_translation_that_is_refused_harms_no_other(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Its endpoint's status names it; all others are translated, both ways."""
    refused, tables = host.python(odd_iptables, tmp_path, "--backend", backend)
    assert refused == ["nat 198.51.100.25/32 of endpoint d/b"]
    for number in (24, 26):
        assert f"--to-destination 10.65.0.{number}" in tables
        assert f"--to-source 198.51.100.{number}" in tables
    assert "--to-destination 10.65.0.25" not in tables
    assert "--to-source 198.51.100.25" not in tables


def lets_by(tables: str, name: str) -> bool:
    """Tell whether a policy's chains do anything but drop and log."""
    starts = tuple(f"-A {policy_chain(PolicyId(name), d)} " for d in ("egress", "ingress"))
    lines = [line for line in tables.splitlines() if line.startswith(starts)]
    assert lines, name
    return any("-j DROP" not in line and "-j NFLOG" not in line for line in lines)
