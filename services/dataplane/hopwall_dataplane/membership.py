"""Whether a set of members holds one side of a packet: what the kernel's set would say.

Pure. Cost: one look-up per prefix length, whatever the size of the set.
"""

import ipaddress

from hopwall_dataplane.judge import Packet, Side
from hopwall_dataplane.members import BucketedMembers


def holds(state: BucketedMembers, packet: Packet, side: Side) -> bool:
    """Tell whether a set holds the address, or the address with protocol and port, of one side."""
    source = side == "source"
    address = packet.source if source else packet.destination
    port = packet.source_port if source else packet.destination_port
    if state.holds(f"{address},{packet.protocol}:{port}"):
        return True
    bits = 128 if ":" in address else 32
    return any(
        state.holds(str(ipaddress.ip_network((address, length), strict=False)))
        for length in range(bits, -1, -1)
    )
