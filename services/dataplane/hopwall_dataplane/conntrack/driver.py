"""The only code that touches tracked flows.

It refuses to touch any bit of a flow's mark but those it is told. Synchronous: a call takes microseconds
per flow, and one part of a dump is about a hundred flows.
"""

import errno
import os
from collections.abc import Container, Generator, Mapping, Sequence

from hopwall_dataplane.conntrack.codec import (
    answered_message,
    creation_message,
    dump_message,
    flows_in,
    is_picked_up,
    is_plain_rule,
    local_message,
    op_message,
    parse_answer,
    parse_local,
    parse_way,
    question_message,
    rules_message,
    way_message,
)
from hopwall_dataplane.conntrack.flow import (
    DeleteFlow,
    Flow,
    FlowOp,
    HostAddresses,
    MarkFlow,
    is_plain,
)
from hopwall_dataplane.conntrack.hosts import WayTo
from hopwall_dataplane.conntrack.listing import Listing
from hopwall_dataplane.netlink.codec import Failure
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from hopwall_dataplane.outcome import Done, Outcome, Retry

_DONE = Done()


class _Any:
    """Contains every address."""

    def __contains__(self, _address: object) -> bool:
        return True


ANY_ADDRESS = _Any()


class ConntrackDriver:
    """Reads the tracked flows of both families part by part, and changes single ones.

    Owner: the one task that owns the dataplane.
    """

    def __init__(self) -> None:
        """Open the sockets in the current network namespace."""
        self._writing = NetlinkSocket(NETLINK_NETFILTER)
        #: Of the last walk, for the next one: to close a socket waits for all processors (4 ms, seen 50).
        self._reading: NetlinkSocket | None = None
        self._routes = NetlinkSocket(NETLINK_ROUTE)
        self._listing = Listing()

    def close(self) -> None:
        """Close the sockets; the flows stay."""
        self._writing.close()
        self._routes.close()
        self._listing.close()
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def read(self, watched: Container[bytes]) -> Generator[tuple[list[Flow], int]]:
        """Walk the table: per part, the flows of watched (packed) addresses, and how many were looked at.

        The table may change meanwhile: what is not there at the end may be in no part.

        Errors: `OSError` when the kernel refuses.
        Cost:   0.5 ms where there are few flows and none of these (`listing`). Else the kernel goes through all
                places of its table with locks (10 ms for 262,144), and copies every entry; see `codec.flows_in`.
        """
        if self._listing.has_none_of(watched):
            return
        reading, self._reading = self._reading or NetlinkSocket(NETLINK_NETFILTER), None
        try:
            seq = reading.start(dump_message())
            ended = False
            while not ended:
                flows, n_seen, ended = flows_in(reading.receive(), seq, watched)
                yield flows, n_seen
        except BaseException:
            reading.close()  # a walk that was left goes on in the kernel, and no other may begin on its socket
            raise
        if self._reading is None:
            self._reading = reading
        else:
            reading.close()

    def apply(self, ops: Sequence[FlowOp], bits: int) -> list[Outcome]:
        """Carry out ops in order and return what became of each; a flow that is gone is done with."""
        outcomes: list[Outcome] = [_DONE] * len(ops)
        failures = self._writing.send([op_message(op, bits) for op in ops]) if ops else {}
        for index, failure in failures.items():
            if failure.errno != errno.ENOENT:
                said = failure.text or os.strerror(failure.errno)
                outcomes[index] = Retry(f"a tracked flow could not be changed: {said}")
        return outcomes

    def create(self, flows: Sequence[Flow]) -> int:
        """Make entries for flows that were seen elsewhere; return how many now are there.

        What the kernel refuses is left out: its next packet is a first one.
        """
        failures = self._writing.send([creation_message(flow) for flow in flows]) if flows else {}
        standing = [flows[i] for i, f in failures.items() if f.errno == errno.EEXIST]
        n_failed = len(failures) - len(standing)
        return len(flows) - n_failed - sum(not self._correct(flow) for flow in standing)

    def _correct(self, flow: Flow) -> bool:
        """Let an entry that packets from the middle of a flow have made be what was seen elsewhere.

        One in the other direction is made anew, answered or not: stragglers that this host passed on began it, and
        the workload's next packet answers it. Policy may deny that direction, and then every packet of the flow. In
        the flow's own direction what has been answered stays as it is, and so does what is translated.
        """
        answer = self._writing.ask(question_message(flow))
        found = None if isinstance(answer, Failure) else parse_answer(answer)
        if found is not None and not is_plain(found):
            return True
        if found is not None and found.source == flow.source:
            return not is_picked_up(found) or not self._writing.send([answered_message(flow)])
        if found is not None:
            self.apply([DeleteFlow(found)], 0)
        return not self._writing.send([creation_message(flow)])

    def clear(self, bits: int) -> int:
        """Clear these bits on every flow that carries them all; return how many did.

        Errors: `OSError` when the kernel refuses.
        """
        parts = self.read(ANY_ADDRESS)
        ops = [
            MarkFlow(flow, revoked=False)
            for flows, _ in parts
            for flow in flows
            if flow.mark & bits == bits
        ]
        for outcome in self.apply(ops, bits):
            if isinstance(outcome, Retry):
                raise OSError(outcome.reason)
        return len(ops)

    def host_addresses(self) -> HostAddresses:
        """Return what the host takes for its own addresses now.

        Errors: `OSError` when the kernel refuses.
        """
        found = (
            parse_local(body)
            for version in (4, 6)
            for _, body in self._routes.dump(local_message(version))
        )
        return HostAddresses.of(one for one in found if one is not None)

    def ways(self, interfaces: Mapping[int, str]) -> WayTo:
        """Return what tells the interface to an address, and remembers; `interfaces` is index → name.

        Errors: `OSError` when the kernel refuses, here or later.
        """
        plain = {
            version: all(
                is_plain_rule(body) for _, body in self._routes.dump(rules_message(version))
            )
            for version in (4, 6)
        }
        known: dict[bytes, str | None] = {}

        def way_to(address: bytes) -> str | None:
            if address not in known:
                answer = self._routes.ask(way_message(address))
                index = 0 if isinstance(answer, Failure) else parse_way(answer)
                name = "" if index == 0 else interfaces.get(index or 0)
                known[address] = name if not name or plain[4 if len(address) == 4 else 6] else None
            return known[address]

        return way_to
