"""Flows of the host itself, through a real agent: what a host endpoint comes to deny ends, and nothing else."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hopwall_model.updates import HostEndpointId, HostEndpointSet, PolicyId, TierPolicies
from tests.dataplane.conntrack.test_revocation import ALL, KEEP, Talks, policy
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.talk import Talk

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

HOST, REMOTE = ("192.0.2.1", "fd00:2::1"), ("192.0.2.2", "fd00:2::2")
CUT, KEPT, SAFE = 7000, 7001, 22


class HostTalks(Talks):
    """Flows between the host and a remote machine, begun by either."""

    def __init__(self, host: str, remote: str) -> None:
        """Start them."""
        self.cut: list[tuple[str, Talk]] = []
        self.kept: list[tuple[str, Talk]] = []
        ways = [(address, host, remote) for address in HOST]
        ways += [(address, remote, host) for address in REMOTE]
        for address, serving, calling in ways:
            flows = [(p, port) for p in ("tcp", "udp") for port in (CUT, KEPT)]
            if serving == host:
                flows.append(("tcp", SAFE))
            for protocol, port in flows:
                ends = self.cut if port == CUT else self.kept
                for space, role in ((serving, "serve"), (calling, "call")):
                    name = f"{role} {protocol} {address} {port}"
                    ends.append((name, Talk(space, role, protocol, address, port)))
            self.cut.append((f"icmp {address}", Talk(calling, "call", "icmp", address)))


@pytest.fixture
def spaces() -> Iterator[tuple[Netns, Netns]]:
    """Make a host and a remote machine, joined by a wire; the host has an interface besides."""
    with ExitStack() as stack:
        host, remote = (stack.enter_context(Netns(name)) for name in ("fhost", "fremote"))
        host.run(f"ip link add eth0 type veth peer name r0 netns {remote.name}".split())
        host.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"])
        for ns, dev, addresses in ((host, "eth0", HOST), (remote, "r0", REMOTE)):
            ns.run(["ip", "link", "set", dev, "up"])
            ns.run(["ip", "addr", "add", f"{addresses[0]}/24", "dev", dev])
            ns.run(["ip", "addr", "add", f"{addresses[1]}/64", "dev", dev, "nodad"])
        yield host, remote


def closed(*policies: str) -> HostEndpointSet:
    """Return a host endpoint with these policies each way."""
    names = tuple(PolicyId(p) for p in policies)
    tiers = (TierPolicies(name="t", ingress=names, egress=names),) if names else ()
    return HostEndpointSet(id=HostEndpointId("h"), interface="eth0", tiers=tiers)


def test_what_a_new_host_endpoint_denies_ends_and_what_it_allows_goes_on(
    spaces: tuple[Netns, Netns], tmp_path: Path, backend: str
) -> None:
    """Both ways begun, both families: cut within a second, failsafe untouched; a policy opens it again."""
    host, remote = spaces

    async def scenario(calc: CalcStandIn, _agent: AgentProcess) -> list[str]:
        await calc.say(pieces=(policy(calc, "gnp/h", *KEEP),))
        await calc.applied()
        with HostTalks(host.name, remote.name) as talks:
            await talks.flowing(talks.cut + talks.kept)
            await calc.say(host_endpoints=(closed("gnp/h"),))
            await calc.applied()
            await talks.silent()
            await calc.say(pieces=(policy(calc, "gnp/h", ALL),))
            await calc.applied()
            await talks.flowing(talks.cut)
            return await talks.lost()

    assert host.python(run_scenario, scenario, tmp_path, "--backend", backend) == []
