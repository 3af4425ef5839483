"""Flows between real workloads, through a real agent: what policy comes to deny ends, and nothing else."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import DeleteFlow, Flow
from hopwall_dataplane.marks import layout
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.talk import Talk

pytestmark = [pytest.mark.kernel, pytest.mark.nats]
R = TypeVar("R")
Scenario = Callable[[CalcStandIn, AgentProcess], Awaitable[R]]

ADDRESSES = {"a": ("10.65.0.24", "fd65::24"), "b": ("10.65.0.25", "fd65::25")}
PEERS = SetId("s:peers")
#: What is cut, and what goes on beside it.
CUT, KEPT = 7000, 7001
#: A denied flow is silent within a second (measured: tests/bench); the rest is for a busy machine. It is silent when
#: nothing sent in so long a time came through.
CUT_S, SILENT_S = 15.0, 1.0
#: For forty processes to start, and to find each other.
PATIENCE_S = 60.0
#: A connection that is cut for a moment sends again what was lost, and one that is cut for good never does. UDP, beside
#: it, tells by its numbers of the shortest gap.
_TCP_STALL_S = 10.0
_MIN_TICKS = 20
ALL = ResolvedRule(id="all", action="allow")
KEEP = tuple(
    ResolvedRule(
        id=f"keep{p}",
        action="allow",
        protocol=p,
        destination=Entity(ports=(PortRange(KEPT, KEPT),)),
    )
    for p in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
)


@pytest.fixture
def cloud() -> Iterator[dict[str, Netns]]:
    """Make a host "h" and two workloads behind its tap interfaces, each in a namespace of its own."""
    with ExitStack() as stack:
        spaces = {name: stack.enter_context(Netns(f"flow{name}")) for name in "hab"}
        host = spaces["h"]
        for name, (v4, v6) in ADDRESSES.items():
            ns = spaces[name]
            host.run(f"ip link add tap{name} type veth peer name eth0 netns {ns.name}".split())
            host.run(["ip", "link", "set", f"tap{name}", "up"])
            host.run(["ip", "addr", "add", "fe80::1/64", "dev", f"tap{name}", "nodad"])
            for line in (
                "link set eth0 up",
                f"addr add {v4}/32 dev eth0",
                f"addr add {v6}/128 dev eth0 nodad",
                "route add default via 169.254.1.1 dev eth0 onlink",
                "-6 route add default via fe80::1 dev eth0",
            ):
                ns.run(["ip", *line.split()])
        yield spaces


def run(
    cloud: dict[str, Netns], tmp_path: Path, scenario: Callable[..., Awaitable[R]], *flags: str
) -> R:
    """Run a scenario inside the host; it is told the workloads' namespaces by name."""
    names = {name: ns.name for name, ns in cloud.items()}

    async def told(calc: CalcStandIn, agent: AgentProcess) -> R:
        return await scenario(calc, agent, names)

    return cloud["h"].python(run_scenario, told, tmp_path, *flags)


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


def endpoint(name: str, ingress: str) -> EndpointSet:
    """Return a workload that may send anything, and receives what a policy says."""
    v4, v6 = ADDRESSES[name]
    tier = TierPolicies(name="default", ingress=(PolicyId(ingress),), egress=(PolicyId("gnp/all"),))
    return EndpointSet(
        id=EndpointId(f"d/{name}"),
        interface=f"tap{name}",
        addresses=(f"{v4}/32", f"{v6}/128"),
        tiers=(tier,),
    )


async def open_state(calc: CalcStandIn, *rules: ResolvedRule) -> None:
    """Let a and b do anything, but b receive what these rules say (all, where there are none)."""
    await calc.say(
        pieces=(policy(calc, "gnp/all", ALL), policy(calc, "gnp/b", *(rules or (ALL,)))),
        endpoints=(endpoint("a", "gnp/all"), endpoint("b", "gnp/b")),
    )
    await calc.applied()


class Talks:
    """All flows from a to b: TCP and UDP to both ports, and echo requests, in both families."""

    def __init__(self, spaces: dict[str, str], ports: tuple[int, ...] = (CUT, KEPT)) -> None:
        """Start them."""
        self.cut: list[tuple[str, Talk]] = []
        self.kept: list[tuple[str, Talk]] = []
        for address in ADDRESSES["b"]:
            for port in ports:
                for protocol in ("tcp", "udp"):
                    ends = self.cut if port == CUT else self.kept
                    for space, role in (("b", "serve"), ("a", "call")):
                        talk = Talk(spaces[space], role, protocol, address, port)
                        ends.append((f"{role} {protocol} {address} {port}", talk))
            self.cut.append((f"icmp {address}", Talk(spaces["a"], "call", "icmp", address)))

    def __enter__(self) -> "Talks":
        """Return them."""
        return self

    def __exit__(self, *_args: object) -> None:
        """End them."""
        for _name, talk in (*self.cut, *self.kept):
            talk.close()

    async def flowing(self, talks: list[tuple[str, Talk]]) -> None:
        """Wait until every end of these has heard a tick sent from now on."""
        since = time.monotonic()
        while dumb := [name for name, talk in talks if talk.last_at() < since]:
            assert time.monotonic() < since + PATIENCE_S, f"silent: {dumb}"
            await asyncio.sleep(0.1)

    async def silent(self) -> float:
        """Wait until the flows to be cut are; return from when on nothing that was sent came through."""
        began_at = time.monotonic()
        while True:
            quiet_since = time.monotonic()
            await asyncio.sleep(SILENT_S)
            if not (alive := self.heard_since(quiet_since)):
                return quiet_since
            assert quiet_since < began_at + CUT_S, f"alive: {alive}"

    def heard_since(self, at: float) -> list[str]:
        """Name the ends of flows to be cut that heard anything sent after a moment."""
        return [name for name, talk in self.cut if talk.last_at() > at]

    async def lost(self) -> list[str]:
        """Name the ends of flows to be kept that missed a tick, or waited long for one."""
        until = time.monotonic() + PATIENCE_S
        while any(len(talk.heard()) <= _MIN_TICKS for _, talk in self.kept):
            assert time.monotonic() < until, "too few ticks"
            await asyncio.sleep(0.1)
        found = []
        for name, talk in self.kept:
            steps = [
                (b.heard_at - a.heard_at, b.number - a.number) for a, b in pairwise(talk.heard())
            ]
            if any(wait > _TCP_STALL_S or step != 1 for wait, step in steps):
                found.append(name)
        return found


# ---------------------------------------------------------------- narrowing and widening


async def _narrowed(
    calc: CalcStandIn, agent: AgentProcess, spaces: dict[str, str]
) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = {}
    await open_state(calc)
    with Talks(spaces) as talks:
        await talks.flowing(talks.cut + talks.kept)
        await calc.say(pieces=(policy(calc, "gnp/b", *KEEP),))
        await calc.applied()
        cut_at = await talks.silent()
        agent.kill()
        calc.forget()
        agent.start()
        await calc.applied()
        await asyncio.sleep(1.0)
        seen["alive after restart"] = talks.heard_since(cut_at)
        await talks.flowing(talks.kept)
        await calc.say(pieces=(policy(calc, "gnp/b", ALL),))
        await calc.applied()
        await talks.flowing(talks.cut)
        seen["lost"] = await talks.lost()
    return seen


def test_what_policy_denies_ends_within_a_second_and_goes_on_when_allowed_again(
    cloud: dict[str, Netns], tmp_path: Path, backend: str
) -> None:
    """Only the server's ingress narrows, so each cut flow could be picked up from the other side; none is.

    Flows beside it lose nothing, a restart changes nothing, and the same connections go on afterwards.
    """
    seen = run(cloud, tmp_path, _narrowed, "--backend", backend)
    assert seen == {"alive after restart": [], "lost": []}


# ---------------------------------------------------------------- sets


async def _member_left(
    calc: CalcStandIn, _agent: AgentProcess, spaces: dict[str, str]
) -> list[str]:
    of_a = tuple(f"{address}/{32 if '.' in address else 128}" for address in ADDRESSES["a"])
    peers = SetBucket(id=PEERS, version=calc.next_version(), members=of_a)
    from_peers = ResolvedRule(id="peers", action="allow", source=Entity(sets=(PEERS,)))
    await calc.say(pieces=(peers,))
    await open_state(calc, *KEEP, from_peers)
    with Talks(spaces) as talks:
        await talks.flowing(talks.cut + talks.kept)
        empty = SetBucket(
            id=PEERS, version=calc.next_version(), previous=peers.version, members=("192.0.2.0/24",)
        )
        await calc.say(pieces=(empty,))
        await calc.applied()
        await talks.silent()
        return await talks.lost()


def test_a_member_that_leaves_a_set_loses_its_flows(
    cloud: dict[str, Netns], tmp_path: Path
) -> None:
    """No line changes when a set does, yet what the set allowed ends."""
    assert run(cloud, tmp_path, _member_left) == []


# ---------------------------------------------------------------- what happened while nobody looked


async def _narrowed_unseen(
    calc: CalcStandIn, agent: AgentProcess, spaces: dict[str, str]
) -> list[str]:
    await open_state(calc)
    with Talks(spaces) as talks:
        await talks.flowing(talks.cut + talks.kept)
        agent.kill()
        await calc.say(pieces=(policy(calc, "gnp/b", *KEEP),))
        calc.forget()
        agent.start()
        await calc.applied()
        await talks.silent()
        return await talks.lost()


def test_what_came_to_be_denied_while_the_agent_was_down_ends_when_it_is_up(
    cloud: dict[str, Netns], tmp_path: Path
) -> None:
    """An agent without memory looks at every flow once."""
    assert run(cloud, tmp_path, _narrowed_unseen) == []


# ---------------------------------------------------------------- the option, and why not to delete


def all_flows() -> list[Flow]:
    """Read every flow of the workloads from the kernel."""
    watched = {
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        for addresses in ADDRESSES.values()
        for address in addresses
    }
    driver = ConntrackDriver()
    flows = [flow for part, _ in driver.read(watched) for flow in part]
    driver.close()
    return flows


async def _switched_off(
    calc: CalcStandIn, _agent: AgentProcess, spaces: dict[str, str]
) -> tuple[int, int]:
    bits = layout().revoked
    await open_state(calc)
    with Talks(spaces) as talks:
        await talks.flowing(talks.cut + talks.kept)
        await calc.say(pieces=(policy(calc, "gnp/b", *KEEP),))
        await calc.applied()
        await asyncio.sleep(1.0)
        await talks.flowing(talks.cut + talks.kept)
        n_marked = sum(1 for flow in all_flows() if flow.mark & bits == bits)
        driver = ConntrackDriver()
        driver.apply([DeleteFlow(flow) for flow in all_flows()], bits)
        driver.close()
        streams = [(name, talk) for name, talk in talks.cut if "icmp" not in name]
        await talks.flowing(streams)
        return n_marked, len(streams)


def test_a_denied_flow_goes_on_when_revocation_is_off_even_if_its_entry_is_deleted(
    cloud: dict[str, Netns], tmp_path: Path
) -> None:
    """Off means off; and the other side's next packet makes a deleted flow anew: so flows are marked."""
    n_marked, n_alive = run(cloud, tmp_path, _switched_off, "--revoke-flows", "false")
    assert n_marked == 0
    assert n_alive == 8  # both ends of TCP and UDP in both families


# ---------------------------------------------------------------- addresses that leave


async def _left(calc: CalcStandIn, _agent: AgentProcess, spaces: dict[str, str]) -> tuple[int, int]:
    await open_state(calc)
    with Talks(spaces, ports=(CUT,)) as talks:
        await talks.flowing(talks.cut)
        before = len(all_flows())
    await calc.remove("d/b")
    await calc.applied()
    async with asyncio.timeout(CUT_S):
        while flows := all_flows():
            await asyncio.sleep(0.05)
    return before, len(flows)


def test_an_address_that_leaves_takes_its_flows_along(
    cloud: dict[str, Netns], tmp_path: Path
) -> None:
    """Who gets the address later inherits none of them."""
    before, after = run(cloud, tmp_path, _left)
    assert before == 6  # TCP, UDP and echo in both families
    assert after == 0


# ---------------------------------------------------------------- other people's marks


async def _saved_marks(
    calc: CalcStandIn, _agent: AgentProcess, spaces: dict[str, str], tool: Callable[[str], None]
) -> list[str]:
    tool("-t mangle -A POSTROUTING -j CONNMARK --save-mark")
    await open_state(calc)
    with Talks(spaces) as talks:
        await talks.flowing(talks.cut + talks.kept)
        await asyncio.sleep(1.0)
        return await talks.lost()


def test_others_who_save_whole_marks_cut_nothing(cloud: dict[str, Netns], tmp_path: Path) -> None:
    """The mark is one that no packet carries at the end of its way."""

    def tool(line: str) -> None:
        for name in ("iptables-nft", "ip6tables-nft"):
            Netns.run(cloud["h"], [name, *line.split()])

    async def scenario(calc: CalcStandIn, agent: AgentProcess, spaces: dict[str, str]) -> list[str]:
        return await _saved_marks(calc, agent, spaces, tool)

    assert run(cloud, tmp_path, scenario, "--backend", "nft") == []
