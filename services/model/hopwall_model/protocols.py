"""Protocol names and numbers, and which protocols have ports.

Source: IANA protocol numbers; names as in Calico's Rule.protocol, where case does not matter.
"""

TCP = 6
UDP = 17
ICMP = 1
ICMPV6 = 58
SCTP = 132
UDPLITE = 136

NUMBER_BY_NAME = {
    "TCP": TCP,
    "UDP": UDP,
    "ICMP": ICMP,
    "ICMPv6": ICMPV6,
    "SCTP": SCTP,
    "UDPLite": UDPLITE,
}
NAME_BY_NUMBER = {number: name for name, number in NUMBER_BY_NAME.items()}

#: What iptables' multiport match takes (iptables-extensions(8)), and Calico names.
WITH_PORTS = frozenset({TCP, UDP, SCTP, UDPLITE})

_CANONICAL = {name.lower(): name for name in NUMBER_BY_NAME}


def canonical_protocol(value: int | str) -> int | str:
    """Return the protocol as Calico writes it: a name in its usual case, or the number given.

    Errors: `ValueError` with a sentence.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 3:
        value = int(value)  # Calico takes the number as text too
    if isinstance(value, str):
        name = _CANONICAL.get(value.lower())
        if name is None:
            known = ", ".join(NUMBER_BY_NAME)
            message = f"{value[:32]!r} is not a known protocol; use one of {known}, or a number."
            raise ValueError(message)
        return name
    if not 0 <= value <= 255:
        raise ValueError("A protocol number is from 0 to 255.")
    return value


def number_of(protocol: int | str) -> int:
    """Return the number of a protocol given by name or number.

    Errors: `ValueError` with a sentence, as `canonical_protocol`.
    """
    canonical = canonical_protocol(protocol)
    return canonical if isinstance(canonical, int) else NUMBER_BY_NAME[canonical]


def has_ports(number: int) -> bool:
    """Tell whether rules may match ports of this protocol."""
    return number in WITH_PORTS
