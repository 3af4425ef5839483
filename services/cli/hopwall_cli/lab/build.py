"""Make and remove the kernel's part of a lab: namespaces, cables, addresses. Nothing of the services.

The hosts get what a machine has before the dataplane comes: an address, a default route, no forwarding.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable

from hopwall_cli.child import bound
from hopwall_cli.lab import netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.topology import Host, LabError, Workload

FABRIC_BRIDGE = "br0"
DHCP_INTERFACE = "ns-db03ab89-b4"


async def sweep(lab: str) -> int:
    """Remove every namespace of a lab with the processes inside; return how many there were."""
    found = netns.present(topo.prefix(lab))
    await netns.together(*(netns.delete(name) for name in found))
    return len(found)


async def fabric(lab: str) -> None:
    """Make the network that joins the hosts, with the default gateway in it.

    Linux gives a bridge the least hardware address of its ports, and so another when a port goes, unless it was
    given one itself: the hosts would then send to the old one until they ask again.
    """
    name = topo.fabric_namespace(lab)
    await netns.create(name)
    await netns.batch(
        name,
        [
            f"link add {FABRIC_BRIDGE} address {topo.ROUTER.mac} type bridge forward_delay 0",
            f"link set {FABRIC_BRIDGE} up",
            f"addr add {topo.PREFIX4}.1/24 dev {FABRIC_BRIDGE}",
            f"addr add {topo.PREFIX6}1/64 dev {FABRIC_BRIDGE} nodad",
        ],
    )


async def host(lab: str, machine: Host) -> None:
    """Make a host on the fabric."""
    name = topo.host_namespace(lab, machine.name)
    await netns.create(name)
    port = f"v-{machine.name}"
    await netns.batch(
        topo.fabric_namespace(lab),
        [
            f"link add {port} type veth peer name eth0 address {machine.mac} netns {name}",
            f"link set {port} master {FABRIC_BRIDGE} up",
        ],
    )
    await netns.batch(
        name,
        [
            "link set eth0 up",
            f"addr add {machine.ipv4}/24 dev eth0",
            f"addr add {machine.ipv6}/64 dev eth0 nodad",
            f"route add default via {topo.PREFIX4}.1",
            f"route add ::/0 via {topo.PREFIX6}1",
        ],
    )


async def outside(lab: str, addresses: Iterable[str]) -> None:
    """Give the fabric addresses that lie behind its router."""
    lines = [f"addr add {address} dev lo" for address in addresses]
    await netns.batch(topo.fabric_namespace(lab), lines)


async def unplug(lab: str, machine: str) -> None:
    """Pull a host's cable: what it says from now on nobody hears."""
    await netns.batch(topo.fabric_namespace(lab), [f"link set v-{machine} down"])


async def remove_host(lab: str, machine: str) -> None:
    """Remove a host with its cable; when this returns, one of its name can be made."""
    fabric_name = topo.fabric_namespace(lab)
    await netns.run(["ip", "-n", fabric_name, "link", "del", f"v-{machine}"], check=False)
    await netns.delete(topo.host_namespace(lab, machine))


async def dhcp(lab: str, machine: Host) -> None:
    """Give a host the interface of a DHCP namespace, with the subnet's ordinary route on it."""
    name = topo.dhcp_namespace(lab)
    await netns.create(name)
    await netns.batch(
        topo.host_namespace(lab, machine.name),
        [
            f"link add {DHCP_INTERFACE} type veth peer name eth0 netns {name}",
            f"link set {DHCP_INTERFACE} up",
            f"addr add 10.65.0.2/16 dev {DHCP_INTERFACE}",
        ],
    )
    await netns.batch(name, ["link set eth0 up"])


async def workload(lab: str, machine: Workload) -> Process | None:
    """Make a workload; return the process that holds its TAP device, if it has one."""
    host_name = topo.host_namespace(lab, machine.host)
    name = topo.workload_namespace(lab, machine.name)
    await netns.create(name)
    relay = None
    if machine.kind == "tap":
        relay = await _tap(host_name, machine, name)
    else:
        await netns.batch(
            host_name,
            [
                f"link add {machine.port} type veth "
                f"peer name eth0 address {machine.mac} netns {name}"
            ],
        )
    await netns.batch(host_name, [f"link set {machine.port} up"])
    await netns.batch(name, ["link set eth0 up", *_addresses4(machine)])
    if machine.ipv6:
        await netns.batch(name, _addresses6(machine, await mac_of(host_name, machine.port)))
    return relay


async def mac_of(namespace: str, interface: str) -> str:
    """Return the hardware address of an interface.

    Errors: LabError when it is not there.
    """
    text = await netns.run(["ip", "-n", namespace, "-j", "link", "show", "dev", interface])
    return str(json.loads(text)[0]["address"])


async def remove_workload(lab: str, machine: Workload) -> None:
    """Remove a workload as if it had died: its namespace, and with it the host's end of the cable."""
    await netns.delete(topo.workload_namespace(lab, machine.name))
    host_name = topo.host_namespace(lab, machine.host)
    await netns.run(["ip", "-n", host_name, "link", "del", machine.port], check=False)


def _addresses4(machine: Workload) -> list[str]:
    if machine.routing == "subnet":
        return [
            f"addr add {machine.ipv4}/16 dev eth0",
            f"route add default via {topo.SUBNET_GATEWAY}",
        ]
    return [
        f"addr add {machine.ipv4}/32 dev eth0",
        f"route add default via {topo.LINK_LOCAL_GATEWAY} dev eth0 onlink",
    ]


def _addresses6(machine: Workload, host_mac: str) -> list[str]:
    return [
        f"addr add {machine.ipv6}/128 dev eth0 nodad",
        f"route add ::/0 via {topo.link_local(host_mac)} dev eth0",
    ]


async def _tap(host_name: str, machine: Workload, name: str) -> Process:
    argv = [sys.executable, "-m", "hopwall_cli.lab.tap_relay"]
    relay = await asyncio.create_subprocess_exec(
        *bound([*argv, host_name, machine.port, name, machine.mac]),
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    assert relay.stdout is not None
    assert relay.stderr is not None
    if await relay.stdout.readline() != b"ready\n":
        said = (await relay.communicate())[1].decode(errors="replace").strip()
        raise LabError(f"workload {machine.name} gets no TAP device: {said}")
    return relay
