"""When tracked flows are looked at: after policy changed in the kernel, in steps, and not all the time.

A step takes milliseconds and the agent's loop goes on between two of them. A change that comes while the
table is walked is answered by another walk. Two walks are apart by as long as the last one took, and by several
times that if it was a long one, so that even a huge table costs a modest share of the processor; the last change is
always followed by a walk, and counts as enforced only then.
"""

import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

from hopwall_dataplane.conntrack.driver import ANY_ADDRESS, ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow, FlowOp, HostAddresses, MarkFlow
from hopwall_dataplane.conntrack.hosts import WayTo
from hopwall_dataplane.conntrack.judging import judgement_of
from hopwall_dataplane.conntrack.plan import plan_flows
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.outcome import Done
from hopwall_dataplane.residents import Touched
from hopwall_runtime import clock

log = logging.getLogger(__name__)

#: How long a step may keep the loop.
_STEP_S = 0.005
#: A walk begins no sooner than so many times the last one's work after its end: of a short one, and of what a long
#: one worked beyond that. Somebody waits for it.
_REST, _LONG_REST = 1.0, 4.0
_SHORT_S = 0.05
#: After a walk that failed.
_AFTER_FAILURE_S = 5.0


@dataclass(slots=True)
class _Walk:
    """One walk over the table."""

    touched: Touched
    host: HostAddresses
    ways: WayTo
    parts: Iterator[tuple[list[Flow], int]]
    n_seen: int = 0
    busy_s: float = 0.0


@dataclass(slots=True)
class Revocation:
    """Makes each flow's mark say what policy says of the flow now.

    Owner: the agent's one task.
    """

    desired: Desired
    driver: ConntrackDriver
    metrics: Metrics
    #: Told of each flow that ended because its address left.
    on_ended: Callable[[Flow], None] = lambda _: None
    _walk: _Walk | None = None
    _next_at: float = 0.0
    #: Why flows cannot be looked at; "" when they can.
    fault: str = ""
    #: How many walks have begun; up to which of them all is done that they were to do.
    _n_begun: int = 0
    n_done: int = 0

    @property
    def n_owed(self) -> int:
        """How far `n_done` must come until every flow was looked at that is to be, by what is applied now."""
        return self._n_begun + bool(self.desired.touched)

    @property
    def due_in_s(self) -> float | None:
        """Seconds until there is something to do; None when nothing is."""
        if self._walk is not None:
            return 0.0
        if not self.desired.touched:
            return None
        return max(0.0, self._next_at - clock.monotonic())

    def is_ending(self, addresses: Set[bytes]) -> bool:
        """Tell whether flows of these (packed) addresses are still to be ended, as the addresses left once."""
        walked = self._walk.touched.left if self._walk is not None else frozenset()
        return not addresses.isdisjoint(walked | self.desired.residents.leaving)

    def step(self) -> None:
        """Do what is due, for some milliseconds; to be called only when the kernel's tables and sets are right."""
        if self.due_in_s != 0.0:
            return
        began_at = clock.monotonic()
        try:
            walk = self._walk or self._begin()
            ended = walk is None or self._go_on(walk, began_at + _STEP_S)
        except OSError as error:
            self._fail(error)
            return
        if walk is not None:
            walk.busy_s += clock.monotonic() - began_at
        if ended:
            self._end(walk)

    def _begin(self) -> _Walk | None:
        """Begin a walk; None where nobody's flows can be concerned."""
        touched = self.desired.take_touched()
        self._n_begun += 1
        if not touched:
            return None
        watched = ANY_ADDRESS if touched.hosts else touched.addresses | touched.left
        names = {index: name for name, index in self.desired.link_indices.items()}
        ways = self.driver.ways(names)
        self._walk = _Walk(touched, self.driver.host_addresses(), ways, self.driver.read(watched))
        return self._walk

    def _go_on(self, walk: _Walk, until: float) -> bool:
        """Take parts of the table for a while; return whether that was the last."""
        desired = self.desired
        judge = judgement_of(desired, walk.host, walk.ways)
        bits = desired.settings.marks.revoked
        while clock.monotonic() < until:
            part = next(walk.parts, None)
            if part is None:
                return True
            flows, n_seen = part
            walk.n_seen += n_seen
            self._write(plan_flows(flows, judge.is_denied, walk.touched.left, bits), bits)
        return False

    def _write(self, ops: list[FlowOp], bits: int) -> None:
        for op, outcome in zip(ops, self.driver.apply(ops, bits), strict=True):
            if not isinstance(outcome, Done):
                raise OSError(outcome.reason)
            if not isinstance(op, MarkFlow):
                self.metrics.flows_deleted.inc()
                self.on_ended(op.flow)
            elif op.revoked:
                self.metrics.flows_revoked.inc()
            else:
                self.metrics.flows_restored.inc()

    def _end(self, walk: _Walk | None) -> None:
        self._walk = None
        self.fault = ""
        self.n_done = self._n_begun
        if walk is not None:
            self.metrics.flows_seen.inc(walk.n_seen)
            self.metrics.walk_seconds.observe(walk.busy_s)
            beyond_s = max(0.0, walk.busy_s - _SHORT_S)
            rest_s = _REST * (walk.busy_s - beyond_s) + _LONG_REST * beyond_s
            self._next_at = clock.monotonic() + rest_s

    def _fail(self, error: OSError) -> None:
        """Look at everything again, later: what left must not be forgotten either."""
        if not self.fault:
            log.error("flows that policy denies may go on: %s; trying again", error)
        self.fault = f"Flows that policy denies may go on; it is tried again: {error}"
        self.metrics.failures.inc()
        if self._walk is not None:
            for address in self._walk.touched.left:
                self.desired.residents.leave(address)
            self.desired.hosts.touched = self.desired.hosts.touched or self._walk.touched.hosts
        self._walk = None
        self.desired.touch_all()
        self._next_at = clock.monotonic() + _AFTER_FAILURE_S

    def close(self) -> None:
        """Let go of the driver; the flows stay as they are."""
        self._walk = None
        self.driver.close()
