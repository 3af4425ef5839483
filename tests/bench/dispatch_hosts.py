"""Hosts for the dispatch bench: namespaces with rules and two workloads on the wire.

Ours is the product itself (`open_kernel`, its drivers, its fold), fed as calc feeds it. The others get their
chains through the same driver and with the same comments, so only the way differs.
"""

import asyncio
import socket
import statistics
import subprocess
import time
from collections.abc import Sequence
from ipaddress import IPv6Address

from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.backend import choose
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.static import FORWARD
from hopwall_dataplane.iptables.table import Jump, TableState
from hopwall_dataplane.iptables.transaction import Applied, ChainWrite, KernelEdit, Transaction
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    TierPolicies,
    Update,
)
from tests.bench.dispatch_ways import WAYS, Endpoint, address, ends, joining, linear, surroundings
from tests.bench.dispatch_ways import endpoints as endpoints_of

#: The interfaces of our host: workloads with an odd number are on the first, the others on the second.
OURS_INTO, OURS_OUT = "tapa", "tapb"
#: How many lines of a kind are measured together.
N_LINES = 20
_N_JOINS = 25
_N_JOINS_OF_OTHERS = 7
#: Between transactions, so that none waits for what the one before has freed.
_PACE_S = 0.03
_ALLOW = ResolvedRule(id="r", action="allow")


def address6(number: int) -> str:
    """Return the IPv6 address of endpoint `number` of our host."""
    return str(IPv6Address("fd65::") + number + 1)


# ---------------------------------------------------------------- ours


def stand_ours(kind: str, n: int, n_classes: int) -> float:
    """Let the product program the namespace this process is in; return the ms (first quartile) a further workload takes."""
    return asyncio.run(_stand_ours(kind, n, n_classes))


async def _stand_ours(kind: str, n: int, n_classes: int) -> float:
    kernel = await open_kernel(DataplaneSettings(host="bench", backend=kind))
    try:
        kernel.desired.set_links(
            {t: LinkState(socket.if_nametoindex(t), up=True) for t in (OURS_INTO, OURS_OUT)}
        )
        updates: list[Update] = [
            PolicySet(id=_policy(c), version=1, ingress=(_ALLOW,), egress=(_ALLOW,))
            for c in range(n_classes)
        ]
        updates += [_endpoint(i, n_classes) for i in range(n)]
        await _turn(kernel, updates, full=True)
        times = []
        for number in range(n, n + _N_JOINS):
            began_at = time.perf_counter()
            await _turn(kernel, [_endpoint(number, n_classes)])
            times.append((time.perf_counter() - began_at) * 1000)
    finally:
        await kernel.close()
    return statistics.quantiles(times, n=4)[0]


async def _turn(kernel: Kernel, updates: Sequence[Update], *, full: bool = False) -> None:
    """Do what the agent's loop does with a complete step."""
    kernel.desired.apply(Step("e", 1, full=full, updates=tuple(updates)))
    if kernel.stale:
        await kernel.resync()
    turn = await kernel.apply()
    assert not turn.held_by
    assert not kernel.refused
    assert not kernel.desired.refusals()


def _policy(number: int) -> PolicyId:
    return PolicyId(f"gnp/p{number}")


def _endpoint(number: int, n_classes: int) -> EndpointSet:
    ids = (_policy(number % n_classes),)
    return EndpointSet(
        id=EndpointId(f"bench/{number}"),
        interface=OURS_INTO if number % 2 else OURS_OUT,
        addresses=(f"{address(number)}/32", f"{address6(number)}/128"),
        tiers=(TierPolicies(name="default", ingress=ids, egress=ids),),
    )


# ---------------------------------------------------------------- the other ways


def stand_way(kind: str, n: int, way: str) -> float:
    """Load one of the other ways where this process is; return the ms (first quartile) a further workload takes."""
    return asyncio.run(_stand_way(kind, n, way))


async def _stand_way(kind: str, n: int, way: str) -> float:
    backend = await choose("nft" if kind == "nft" else "legacy", families=(Family.V4,))
    restore = Restore(Family.V4, backend)
    try:
        everybody = endpoints_of(n)
        marks = layout()
        chains = surroundings(marks) | ends(everybody, marks) | WAYS[way](everybody)
        jumps = (Jump("FORWARD", FORWARD),)
        load = plan_table("filter", chains, jumps, TableState()).now
        assert load is not None
        assert await restore.apply(load) == Applied()
        times = []
        for number in range(n, n + _N_JOINS_OF_OTHERS):
            transaction = _join(everybody, joining(n, number), way)
            await asyncio.sleep(_PACE_S)
            began_at = time.perf_counter()
            assert await restore.apply(transaction) == Applied()
            times.append((time.perf_counter() - began_at) * 1000)
    finally:
        await restore.close()
    return statistics.quantiles(times, n=4)[0]


def _join(everybody: list[Endpoint], one: Endpoint, way: str) -> Transaction:
    """Add one endpoint to the list and return the smallest transaction that adds it to the kernel."""
    own = [ChainWrite(name, body, new=True) for name, body in ends([one], layout()).items()]
    if WAYS[way] is linear:
        lines = {root: bodies[0] for root, bodies in linear([one]).items()}
        edits = [KernelEdit(r, (f"-I {r} 1 {line}",), ()) for r, line in lines.items()]
        return Transaction("filter", tuple(own), tuple(edits))
    before = WAYS[way](everybody)
    everybody.append(one)
    after = WAYS[way](everybody)
    own += [
        ChainWrite(name, body, new=name not in before)
        for name, body in after.items()
        if before.get(name) != body
    ]
    return Transaction("filter", tuple(own))


# ---------------------------------------------------------------- the floors


def stand_bare(n: int) -> None:
    """Give the namespace this process is in the routes of our host, and nothing else."""
    for flag, what, length in (("-4", address, 32), ("-6", address6, 128)):
        text = "".join(
            f"route add {what(i)}/{length} dev {OURS_INTO if i % 2 else OURS_OUT}\n"
            for i in range(n)
        )
        subprocess.run(["ip", flag, "-batch", "-"], input=text, text=True, check=True)


def stand_known(kind: str, n: int) -> None:
    """The least a stateful firewall does: established packets are accepted, the others looked at once."""
    stand_bare(n)
    for tool in ("iptables", "ip6tables"):
        line = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        subprocess.run([f"{tool}-{kind}", *line.split()], check=True)


def stand_lines(kind: str, n: int, line: str) -> None:
    """Add lines to the least that a stateful firewall does."""
    stand_known(kind, n)
    lines = "\n".join([f"-A FORWARD {line}".rstrip()] * N_LINES)
    text = f"*filter\n{lines}\nCOMMIT\n"
    subprocess.run([f"iptables-{kind}-restore", "--noflush"], input=text, text=True, check=True)
