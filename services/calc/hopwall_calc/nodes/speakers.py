"""speakers: how each host speaks BGP: its own declaration over its configuration over that of all."""

from collections.abc import Iterable
from ipaddress import IPv4Address

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import NodeInput
from hopwall_calc.intake_bgp import BgpConfigInput, Severity
from hopwall_model.bgp import Advertisement
from hopwall_model.bgp_specs import (
    BGP_PORT,
    DEFAULT_AS,
    DEFAULT_CONFIGURATION,
    NODE_CONFIGURATION_PREFIX,
)
from hopwall_model.cidr import Cidr, Ip, contains, host_cidr
from hopwall_model.names import digest

#: What is said where nobody declared anything.
UNSAID = BgpConfigInput()


class Speaker(Struct, frozen=True, kw_only=True):
    """A host that takes part in BGP. What others must know of it comes first."""

    as_number: int
    ipv4: str
    ipv6: str
    links: tuple[Cidr, ...]
    #: RFC 4456; "" when it is no reflector.
    cluster_id: str
    listen_port: int
    router_id: str
    severity: Severity
    ignored_interfaces: tuple[str, ...]
    advertisements: tuple[Advertisement, ...]

    def address(self, family: int) -> str:
        """Return its address of a family, "" if it has none."""
        return self.ipv4 if family == 4 else self.ipv6

    def seen(self) -> tuple[object, ...]:
        """Return what others must know of it."""
        return (
            self.as_number,
            self.ipv4,
            self.ipv6,
            self.links,
            self.cluster_id,
            self.listen_port,
        )

    def reaches(self, address: str) -> bool:
        """Tell whether the address is on a link of the host."""
        return any(contains(link, host_cidr(Ip(address))) for link in self.links)


class Speakers(KeyedNode[str, Speaker]):
    """Host → how it speaks."""

    name = "speakers"

    def __init__(
        self,
        declared: KeyedNode[str, NodeInput],
        configurations: KeyedNode[str, BgpConfigInput],
    ) -> None:
        super().__init__()
        self._declared = declared.out
        self._configurations = configurations.out

    def on_declared(self) -> Answer:
        """Mark the changed hosts."""
        return self.mark(self._declared.changed)

    def on_configurations(self) -> Answer:
        """Mark the hosts that a changed configuration is for."""
        changed = self._configurations.changed
        if DEFAULT_CONFIGURATION in changed:
            return self.mark(self._declared)
        return self.mark(name.removeprefix(NODE_CONFIGURATION_PREFIX) for name in changed)

    def keys(self) -> Iterable[str]:
        """Return every declared host."""
        return self._declared

    def compute(self, key: str) -> Speaker | None:
        """Return how the host speaks; None if it does not."""
        host = self._declared.get(key)
        if host is None or not host.speaks:
            return None
        own = self._configurations.get(NODE_CONFIGURATION_PREFIX + key) or UNSAID
        common = self._configurations.get(DEFAULT_CONFIGURATION) or UNSAID
        return Speaker(
            as_number=host.as_number or own.as_number or common.as_number or DEFAULT_AS,
            ipv4=host.ipv4,
            ipv6=host.ipv6,
            links=host.links,
            cluster_id=host.cluster_id,
            listen_port=own.listen_port or common.listen_port or BGP_PORT,
            router_id=host.ipv4 or router_id(key),
            severity=own.severity or common.severity or "info",
            ignored_interfaces=own.ignored_interfaces or common.ignored_interfaces,
            advertisements=own.advertisements or common.advertisements,
        )


def router_id(host: str) -> str:
    """Return the router id of a host without an IPv4 address: 32 bits of its name's digest.

    Source: RFC 6286, 2.1: any number but zero that no other speaker has.
    """
    raw = int.from_bytes(digest(host, 8).encode(), "big")
    return str(IPv4Address(raw % (2**32 - 1) + 1))
