"""A routing table as `route -n` shows it, made from `ip -j route`. No I/O."""

import ipaddress
import json
from typing import Any

from msgspec import Struct

HEADING = ("Destination", "Gateway", "Genmask", "Flags", "Iface")


class Route(Struct, frozen=True, order=True):
    """One line of the table."""

    destination: str
    gateway: str
    genmask: str
    flags: str
    interface: str


def parse(text: str) -> tuple[Route, ...]:
    """Return the IPv4 routes that `ip -4 -j route show` printed.

    Shape:  the default route first, then by destination.
    """
    routes = [_route(item) for item in json.loads(text or "[]")]
    return tuple(sorted(routes, key=_place))


def learnt(text: str) -> dict[str, str]:
    """Return the routes of either family that `ip -j route show` printed: network → next hop or ""."""
    return {
        str(ipaddress.ip_network(item["dst"])): str(item.get("gateway", ""))
        for item in json.loads(text or "[]")
    }


def _place(route: Route) -> tuple[int, int, Route]:
    destination = int(ipaddress.IPv4Address(route.destination))
    return destination, int(ipaddress.IPv4Address(route.genmask)), route


def _route(item: dict[str, Any]) -> Route:
    text = "0.0.0.0/0" if item["dst"] == "default" else str(item["dst"])
    network = ipaddress.IPv4Network(text)
    gateway = str(item.get("gateway", "0.0.0.0"))  # noqa: S104 - how `route -n` writes "none"
    refused = item.get("type") in {"unreachable", "blackhole", "prohibit"}
    flags = "!" if refused else "U"
    flags += "G" if "gateway" in item else ""
    flags += "H" if network.prefixlen == 32 else ""
    return Route(
        destination=str(network.network_address),
        gateway=gateway,
        genmask=str(network.netmask),
        flags=flags,
        interface=str(item.get("dev", "-")),
    )


def render(routes: tuple[Route, ...]) -> str:
    """Return the table as text, one line per route under a heading."""
    rows = [HEADING, *((r.destination, r.gateway, r.genmask, r.flags, r.interface) for r in routes)]
    widths = (16, 16, 16, 6, 0)
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
