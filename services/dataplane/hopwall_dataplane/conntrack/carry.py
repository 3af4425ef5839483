"""Which flows of a workload that moves are made known to its new host.

A host that has never seen a connection takes its next packet for the first of a new one, in whichever direction
it goes; a policy that allows the connection in the other direction only would end it. So the flows are carried
along: those that are established, in the sense of the protocol, and neither translated, expected by another
(their master is not known there), nor revoked. The new host takes only what its own policy would let begin now.

Pure.
"""

import ipaddress
from collections.abc import Callable, Container, Iterable

from hopwall_dataplane.conntrack.flow import Flow, is_plain, text_of
from hopwall_model.flows import CarriedFlow
from hopwall_model.protocols import TCP, UDP

#: How many flows of one workload are carried at most.
MAX_FLOWS = 50_000


def carried(flow: Flow, *, established: bool, revoked: bool) -> CarriedFlow | None:
    """Return a flow as it travels; None for one that stays behind."""
    if not is_plain(flow) or not established or revoked or flow.protocol not in (TCP, UDP):
        return None
    return CarriedFlow(
        flow.protocol,
        text_of(flow.source),
        text_of(flow.destination),
        flow.source_port,
        flow.destination_port,
    )


def taken(
    flows: Iterable[CarriedFlow], addresses: Container[bytes], is_denied: Callable[[Flow], bool]
) -> list[Flow]:
    """Return the flows that are made known here: of these (packed) addresses, and allowed to begin now.

    Who sends something else than flows of the protocols above is not believed.
    """
    found = []
    for one in flows:
        flow = _flow(one)
        if flow is None or not (flow.source in addresses or flow.destination in addresses):
            continue
        if not is_denied(flow):
            found.append(flow)
    return found[:MAX_FLOWS]


def _flow(one: CarriedFlow) -> Flow | None:
    ports = (one.source_port, one.destination_port)
    if one.protocol not in (TCP, UDP) or not all(0 < port < 65536 for port in ports):
        return None
    try:
        source, destination = map(ipaddress.ip_address, (one.source, one.destination))
    except ValueError:
        return None
    if source.version != destination.version or destination.is_multicast:
        return None
    return Flow(
        version=source.version,
        protocol=one.protocol,
        source=source.packed,
        destination=destination.packed,
        source_port=one.source_port,
        destination_port=one.destination_port,
        icmp_type=None,
        icmp_code=None,
        mark=0,
        ends=(source.packed, destination.packed, destination.packed, source.packed),
        entry=b"",
    )
