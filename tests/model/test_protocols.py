"""Protocols by name and number."""

import pytest

from hopwall_model.protocols import canonical_protocol, has_ports, number_of


@pytest.mark.parametrize(
    ("given", "canonical", "number", "ports"),
    [
        ("TCP", "TCP", 6, True),
        ("tcp", "TCP", 6, True),
        ("Udp", "UDP", 17, True),
        ("icmp", "ICMP", 1, False),
        ("icmpV6", "ICMPv6", 58, False),
        ("sctp", "SCTP", 132, True),
        ("udplite", "UDPLite", 136, True),
        (6, 6, 6, True),
        (4, 4, 4, False),
        (255, 255, 255, False),
        ("17", 17, 17, True),
        (0, 0, 0, False),
        ("0", 0, 0, False),
    ],
)
def test_known_protocols(given: int | str, canonical: int | str, number: int, ports: bool) -> None:
    """Names are known in any case, numbers stay numbers, and few have ports."""
    assert canonical_protocol(given) == canonical
    assert number_of(given) == number
    assert has_ports(number) is ports


@pytest.mark.parametrize("given", ["", "256", "6 ", "٦", "all", "any", "tcp ", "İCMP", -1, 256])
def test_what_names_no_single_protocol_is_refused(given: int | str) -> None:
    """A word as "all" is every protocol to iptables: a rule for one must not become one for all."""
    with pytest.raises(ValueError, match=r"\.$"):
        number_of(given)
