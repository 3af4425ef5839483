"""Who speaks BGP with whom in a lab, as the resources an operator would declare. No I/O.

The machines of a lab are hosts, which carry workloads, and stand-alone reflectors, which do not: a Node with a
cluster id, an agent and a BIRD, and nothing else.
"""

from collections.abc import Mapping
from typing import Any, Literal

from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.topology import Host, resource

Routing = Literal["direct", "bgp"]
Topology = Literal["mesh", "host-reflector", "reflector", "reflectors", "fabric"]

#: Topology → what it is, in a few words.
TOPOLOGIES: dict[Topology, str] = {
    "mesh": "every host speaks with every other",
    "host-reflector": "h1 is the reflector of all",
    "reflector": "a machine of its own is the reflector",
    "reflectors": "two such machines, and either may die",
    "fabric": "a mesh, and each host speaks with the fabric's router in another AS",
}
#: RFC 4456: reflectors of one cluster tell each other nothing back.
CLUSTER_ID = "244.0.0.1"
#: Last number of the first reflector's addresses.
_FIRST_REFLECTOR = 11

#: The fabric's router, as a peer.
ROUTER = "router"
HOSTS_AS = 64512
ROUTER_AS = 65100
#: What lies behind the fabric's router, and an address of it that answers (RFC 5737, RFC 3849).
OUTSIDE4, OUTSIDE6 = "198.51.100.0/24", "2001:db8:100::/48"
OUTSIDE_ADDRESSES: dict[Literal[4, 6], str] = {4: "198.51.100.1", 6: "2001:db8:100::1"}


def reflectors(topology: Topology) -> tuple[Host, ...]:
    """Return the stand-alone reflectors: rr1, rr2."""
    count = {"reflector": 1, "reflectors": 2}.get(topology, 0)
    return tuple(
        topo.machine(f"rr{index + 1}", _FIRST_REFLECTOR + index, cluster_id=CLUSTER_ID)
        for index in range(count)
    )


def as_declared(host: Host, topology: Topology) -> Host:
    """Return the host as the topology wants it: one of them may be a reflector."""
    if topology == "host-reflector" and host.name == "h1":
        return Host(host.name, host.ipv4, host.ipv6, cluster_id=CLUSTER_ID)
    return host


def declarations(topology: Topology) -> list[dict[str, Any]]:
    """Return what is declared besides the Nodes; it is the same however many hosts there are."""
    meshed = topology in ("mesh", "fabric")
    spec = {"nodeToNodeMeshEnabled": meshed, "asNumber": HOSTS_AS}
    made = [resource("BGPConfiguration", "default", spec)]
    if topology == "fabric":
        made += [_outside_filter(), *(router_peer(family) for family in (4, 6))]
    elif not meshed:
        made.append(reflector_peer())
    return made


def reflector_peer(**more: Any) -> dict[str, Any]:
    """Return the peering of all with the reflectors; `more` is added to its spec."""
    ((label, value),) = topo.REFLECTOR_LABEL.items()
    spec = {"nodeSelector": "all()", "peerSelector": f"{label} == '{value}'", **more}
    return resource("BGPPeer", "reflectors", spec)


def router_peer(family: int, **more: Any) -> dict[str, Any]:
    """Return the peering of all with the fabric's router in a family; `more` is added to its spec."""
    address = f"{topo.PREFIX4}.1" if family == 4 else f"{topo.PREFIX6}1"
    spec = {"peerIP": address, "asNumber": ROUTER_AS, "filters": ["outside"], **more}
    return resource("BGPPeer", f"router-v{family}", spec)


def _outside_filter() -> dict[str, Any]:
    """Return the filter that takes from the router what is outside, and nothing else."""

    def accept(cidr: str) -> list[dict[str, Any]]:
        return [{"action": "Accept", "cidr": cidr, "matchOperator": "Equal"}]

    return resource(
        "BGPFilter", "outside", {"importV4": accept(OUTSIDE4), "importV6": accept(OUTSIDE6)}
    )


def peers(topology: Topology, name: str, machines: Mapping[str, Host]) -> list[str]:
    """Return with whom one machine speaks, reflectors first, once for each family."""
    others = sorted(
        (m for m in machines.values() if m.name != name), key=lambda m: (not m.cluster_id, m.name)
    )
    reflecting = [machine.name for machine in others if machine.cluster_id]
    if machines[name].cluster_id:
        return [machine.name for machine in others]
    if reflecting:
        return reflecting
    return [*(machine.name for machine in others), *([ROUTER] if topology == "fabric" else [])]


def router(hosts_as: int = HOSTS_AS) -> str:
    """Return the configuration of the fabric's router: a BIRD that knows nothing of hopwall.

    It takes a session from any machine of the fabric, tells each what is outside, and reaches the workloads by
    what it is told.
    """
    return f"""\
log stderr {{ info, remote, warning, error, auth, fatal, bug }};
router id {topo.PREFIX4}.1;
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}
protocol static outside4 {{ ipv4; route {OUTSIDE4} blackhole; }}
protocol static outside6 {{ ipv6; route {OUTSIDE6} blackhole; }}
template bgp hosts {{
  local as {ROUTER_AS};
  graceful restart on;
  connect delay time 1;
}}
protocol bgp hosts4 from hosts {{
  neighbor range {topo.PREFIX4}.0/24 as {hosts_as};
  dynamic name "host4_";
  ipv4 {{ import where net ~ [ {topo.POOL4}+ ]; export where proto = "outside4"; }};
}}
protocol bgp hosts6 from hosts {{
  neighbor range {topo.PREFIX6}/64 as {hosts_as};
  dynamic name "host6_";
  ipv6 {{ import where net ~ [ {topo.POOL6}+ ]; export where proto = "outside6"; }};
}}
"""
