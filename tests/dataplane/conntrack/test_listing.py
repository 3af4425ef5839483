"""The kernel's text of tracked flows: believed when it is whole, and only for who is in none."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_dataplane.conntrack.driver import ANY_ADDRESS
from hopwall_dataplane.conntrack.listing import PATH, Listing, addresses_in
from tests.support.netns import Netns

LINES = (
    b"ipv4     2 udp      17 29 src=10.65.0.24 dst=192.0.2.1 sport=5000 dport=81 [UNREPLIED] src=10.65.0.25"
    b" dst=10.65.0.24 sport=80 dport=5000 mark=0 zone=0 use=2\n"
    b"ipv6     10 icmpv6   58 29 src=fd65:0000:0000:0000:0000:0000:0000:0024 dst=fd65:0000:0000:0000:0000:0000:0000:0025"
    b" type=128 code=0 id=1 src=fd65:0000:0000:0000:0000:0000:0000:0025 dst=fd65:0000:0000:0000:0000:0000:0000:0024"
    b" type=129 code=0 id=1 mark=0 zone=0 use=2\n"
)


def packed(address: str) -> bytes:
    """Return an address as the kernel writes it in netlink."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def test_all_addresses_of_both_directions_are_read() -> None:
    """What a flow was translated to counts, too."""
    expected = ("10.65.0.24", "192.0.2.1", "10.65.0.25", "fd65::24", "fd65::25")
    assert addresses_in(LINES) == {packed(address) for address in expected}


def test_without_a_listing_nothing_is_sure(tmp_path: Path) -> None:
    """A kernel that has none is walked."""
    assert not Listing(str(tmp_path / "absent")).has_none_of(frozenset())


@pytest.fixture
def ns() -> Iterator[Netns]:
    """Make a namespace that tracks flows between addresses of its own."""
    with Netns("list") as made:
        made.run(["ip", "addr", "add", "10.65.0.24/32", "dev", "lo"])
        made.run(
            ["iptables-nft", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"]
        )
        yield made


def told(n_flows: int) -> tuple[bool, bool, bool]:
    """Open a listing, make flows; tell whether it says that there are none of these: ours, others', any."""
    listing = Listing()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("10.65.0.24", 0))
        for port in range(2000, 2000 + n_flows):
            end.sendto(b"x", ("10.65.0.24", port))
    ours, others = {packed("10.65.0.24")}, {packed("10.65.0.99")}
    found = tuple(listing.has_none_of(watched) for watched in (ours, others, ANY_ADDRESS))
    listing.close()
    return found[0], found[1], found[2]


@pytest.mark.kernel
@pytest.mark.skipif(not Path(PATH).exists(), reason="this kernel lists no flows")
@pytest.mark.parametrize(
    ("n_flows", "expected"),
    [(0, (True, True, True)), (3, (False, True, False)), (200, (False, False, False))],
)
def test_it_says_none_only_of_who_is_in_none(
    ns: Netns, n_flows: int, expected: tuple[bool, bool, bool]
) -> None:
    """Of a table that takes more than one read it says nothing."""
    assert ns.python(told, n_flows) == expected
