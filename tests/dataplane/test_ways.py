"""How NATS is reached, asked of a real kernel."""

import socket

import pytest

from hopwall_dataplane.host_endpoints import Way
from hopwall_dataplane.ways import ways_to
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel


def ways(*servers: tuple[str, int]) -> tuple[Way, ...]:
    """Ask in the current namespace."""
    return ways_to(servers, dict(socket.if_nameindex()))


def test_the_way_is_what_the_routes_say() -> None:
    """Interface and own address of the route; none for a server here; nothing for one out of reach."""
    with Netns("ways") as ns:
        for line in (
            "link add eth0 type veth peer name far0",
            "link set far0 up",
            "link set eth0 up",
            "addr add 192.0.2.1/24 dev eth0",
            "addr add fd00::1/64 dev eth0 nodad",
            "route add 198.51.100.0/24 via 192.0.2.254",
        ):
            ns.run(["ip", *line.split()])
        servers = (
            ("192.0.2.9", 1),
            ("198.51.100.7", 2),
            ("fd00::9", 3),
            ("127.0.0.1", 4),
            ("192.0.2.1", 5),
            ("203.0.113.1", 6),
        )
        assert ns.python(ways, *servers) == (
            Way("192.0.2.9", 1, "192.0.2.1", "eth0"),
            Way("198.51.100.7", 2, "192.0.2.1", "eth0"),
            Way("fd00::9", 3, "fd00::1", "eth0"),
            Way("127.0.0.1", 4, "127.0.0.1", ""),
            Way("192.0.2.1", 5, "192.0.2.1", ""),
        )
