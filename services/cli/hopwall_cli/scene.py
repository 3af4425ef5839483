"""The scene of the demo: four workloads of two customers on three hosts, and what must come out. No I/O."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from hopwall_cli.lab.bgp import OUTSIDE4, Topology
from hopwall_cli.lab.routes import Route
from hopwall_cli.lab.topology import Workload, resource

Matrix = Mapping[tuple[str, str], bool]
OPEN_PROFILE = "open"
#: The customer of each workload. Each has workloads on two hosts, and h3 has workloads of both.
CUSTOMERS = {"vm21": "a", "vm22": "a", "vm23": "b", "vm24": "b"}

WORKLOADS = (
    Workload(
        name="vm21",
        host="h2",
        ipv4="10.65.0.21",
        labels={"customer": "a"},
        profiles=(OPEN_PROFILE,),
    ),
    Workload(
        name="vm22",
        host="h3",
        ipv4="10.65.0.22",
        labels={"customer": "a"},
        profiles=(OPEN_PROFILE,),
        routing="subnet",
    ),
    Workload(
        name="vm23",
        host="h3",
        ipv4="10.65.0.23",
        labels={"customer": "b"},
        profiles=(OPEN_PROFILE,),
        kind="tap",
    ),
    Workload(
        name="vm24",
        host="h1",
        ipv4="10.65.0.24",
        labels={"customer": "b"},
        profiles=(OPEN_PROFILE,),
        kind="tap",
        routing="subnet",
        interface="tapa429fb36-04",
    ),
)

_NONE = "0.0.0.0"  # noqa: S104 - how `route -n` writes "none"
_ONE = "255.255.255.255"
#: The routing table of h1, once all workloads are declared.
ROUTES = (
    Route(_NONE, "172.18.203.1", _NONE, "UG", "eth0"),
    Route("10.65.0.0", _NONE, "255.255.0.0", "U", "ns-db03ab89-b4"),
    Route("10.65.0.21", "172.18.203.126", _ONE, "UGH", "eth0"),
    Route("10.65.0.22", "172.18.203.129", _ONE, "UGH", "eth0"),
    Route("10.65.0.23", "172.18.203.129", _ONE, "UGH", "eth0"),
    Route("10.65.0.24", _NONE, _ONE, "UH", "tapa429fb36-04"),
    Route("172.18.203.0", _NONE, "255.255.255.0", "U", "eth0"),
)

#: Two workloads with addresses of their host's block, and where the second one moves to.
BLOCK_HOST, MOVED_TO = "h2", "h3"
BLOCK_WORKLOADS = ("vm31", "vm32")

#: The addresses a workload may try as its next hop; all must be answered with the host's address.
NEXT_HOPS = {
    "vm21": ("169.254.1.1", "10.65.0.1", "10.65.0.24"),
    "vm22": ("169.254.1.1", "10.65.0.1", "10.65.0.23"),
    "vm24": ("169.254.1.1", "10.65.0.1", "10.65.0.21"),
}


def table(topology: Topology) -> tuple[tuple[Route, ...], dict[str, str]]:
    """Return the routing table of h1 in a topology, and what of it is learnt: network → next hop."""
    routes: tuple[Route, ...] = ROUTES
    if topology == "fabric":
        outside = IPv4Network(OUTSIDE4)
        told = str(outside.network_address), "172.18.203.1", str(outside.netmask), "UG", "eth0"
        routes = (*ROUTES, Route(*told))
    learnt = [route for route in routes if "G" in route.flags and route.destination != _NONE]
    return routes, {
        str(IPv4Network((route.destination, route.genmask))): route.gateway for route in learnt
    }


def block_of(address: str) -> str:
    """Return the block (of the size that pools have by default) in which an address is."""
    return str(IPv4Network((address.partition("/")[0], 26), strict=False))


def isolation() -> list[dict[str, Any]]:
    """Return the policies that let each customer reach itself only."""
    return [_only_itself(customer) for customer in sorted(set(CUSTOMERS.values()))]


def _only_itself(customer: str) -> dict[str, Any]:
    selector = f"customer == '{customer}'"
    spec = {
        "order": 100,
        "selector": selector,
        "types": ["Ingress", "Egress"],
        "ingress": [{"action": "Allow", "source": {"selector": selector}}],
        "egress": [{"action": "Allow", "destination": {"selector": selector}}],
    }
    return resource("GlobalNetworkPolicy", f"customer-{customer}", spec)


def exception(*, allowed: bool) -> dict[str, Any]:
    """Return the policy that is flipped: all customers reach each other, or it says nothing."""
    selector = "has(customer)"
    spec: dict[str, Any] = {"order": 1, "selector": selector, "types": ["Ingress", "Egress"]}
    if allowed:
        spec["ingress"] = [{"action": "Allow", "source": {"selector": selector}}]
        spec["egress"] = [{"action": "Allow", "destination": {"selector": selector}}]
    return resource("GlobalNetworkPolicy", "exception", spec)


def expected(*, isolated: bool) -> dict[tuple[str, str], bool]:
    """Return who must reach whom."""
    return {
        (src, dst): not isolated or CUSTOMERS[src] == CUSTOMERS[dst]
        for src in CUSTOMERS
        for dst in CUSTOMERS
        if src != dst
    }


def title(name: str) -> str:
    """Return a workload as the matrix names it: customer, last number of its address, host."""
    workload = next(w for w in WORKLOADS if w.name == name)
    return f"{CUSTOMERS[name].upper()} .{workload.ipv4.rpartition('.')[2]} {workload.host}"


def matrix_text(names: Sequence[str], found: Matrix, wanted: Matrix) -> str:
    """Return who reaches whom, a row per sender; what is not as wanted is marked."""
    titles = [title(name) for name in names]
    width = max(len(text) for text in titles) + 2
    lines = [" " * (width + 5) + "".join(f"to {text}".ljust(width + 4) for text in titles)]
    for name, text in zip(names, titles, strict=True):
        cells = []
        for other in names:
            if name == other:
                cells.append(".")
                continue
            said = "yes" if found[name, other] else "no"
            good = found[name, other] == wanted[name, other]
            cells.append(said if good else f"{said} WRONG")
        row = "".join(cell.ljust(width + 4) for cell in cells)
        lines.append(f"from {text.ljust(width)}{row}".rstrip())
    return "\n".join(line.rstrip() for line in lines)


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which this share of all lies (nearest rank)."""
    ranked = sorted(samples)
    return ranked[max(0, min(len(ranked) - 1, round(share * len(ranked) + 0.5) - 1))]
