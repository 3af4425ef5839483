"""The addresses this host lives by: no workload may have them here, whatever anybody declares.

A route to the bus or to the gateway through a workload would cut the host off from those who could undo it.
"""

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

_NATS_PORT = 4222
_ROUTES = Path("/proc/net/route")


def nats_addresses(
    nats_urls: Iterable[str], *, resolve: bool = True
) -> tuple[tuple[str, int], ...]:
    """Return the bus's servers as (bare address, port), sorted.

    Blocks while names are resolved: call it at start. A name that does not resolve is left out; without `resolve` all.
    """
    found: set[tuple[str, int]] = set()
    for url in nats_urls:
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        if parts.hostname:
            port = parts.port or _NATS_PORT
            found |= {(address, port) for address in _addresses(parts.hostname, resolve=resolve)}
    return tuple(sorted(found))


def reserved_cidrs(nats: Iterable[tuple[str, int]], link_local_gateway: str) -> frozenset[str]:
    """Return the bus's addresses, the default gateways and our own link-local one, as /32 and /128."""
    found = {link_local_gateway} if link_local_gateway else set()
    found |= {address for address, _ in nats}
    found |= set(_default_gateways(_ROUTES.read_text().splitlines()[1:]))
    return frozenset(f"{ip}/128" if ":" in ip else f"{ip}/32" for ip in found)


def _addresses(host: str, *, resolve: bool) -> set[str]:
    flags = 0 if resolve else socket.AI_NUMERICHOST
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, flags=flags)}
    except (OSError, UnicodeError):  # the latter of what can be no name at all, as "a..b"
        return set()


def _default_gateways(rows: Iterable[str]) -> Iterable[str]:
    """Yield the gateways of the default routes. Source: proc(5), /proc/net/route (little-endian hex)."""
    for row in rows:
        fields = row.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[2] != "00000000":
            yield socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
