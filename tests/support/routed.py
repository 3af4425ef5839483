"""Many workloads of a lab's host with nobody behind them: an interface each, and so a route each.

They are in no block, so each is announced by itself.
"""

from collections.abc import Iterable

from hopwall_cli.lab import netns
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload


def routed(host: str, count: int) -> list[Workload]:
    """Return this many workloads of a host."""
    return [
        Workload(
            name=f"b{number}",
            host=host,
            ipv4=f"10.65.200.{number}",
            ipv6=f"fd65::c8:{number:x}",
            interface=f"tapb{number}",
            profiles=("open",),
        )
        for number in range(1, count + 1)
    ]


def routes_of(*workloads: Workload) -> set[str]:
    """Return workloads' addresses as networks."""
    return {net for one in workloads for net in (f"{one.ipv4}/32", f"{one.ipv6}/128")}


async def wire(lab: Lab, workloads: Iterable[Workload]) -> None:
    """Make the interfaces of workloads of one host; nothing is declared."""
    made = list(workloads)
    lines = [
        line
        for port in (workload.port for workload in made)
        for line in (
            f"link add {port} type veth peer name {port[3:]}",
            f"link set {port[3:]} up",
            f"link set {port} up",
        )
    ]
    await netns.batch(lab.namespace(made[0].host), lines)


async def unwire(lab: Lab, workloads: Iterable[Workload]) -> None:
    """Remove the interfaces of workloads of one host."""
    made = list(workloads)
    lines = [f"link del {workload.port}" for workload in made]
    await netns.batch(lab.namespace(made[0].host), lines)
