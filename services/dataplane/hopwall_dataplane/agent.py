"""The reconcile loop of one host: wait → fold → gate → read what is stale → apply → report.

One task owns desired, actual and the drivers; messages, link changes and timers only put something in the
inbox and wake it. Nothing is written before the first snapshot is in, and a snapshot that would empty a host
that is not empty is asked for again before it is believed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from msgspec import structs

from hopwall_dataplane.bgp.speaker import Speaker
from hopwall_dataplane.drift import Found
from hopwall_dataplane.feed import AskAgain, Feed, Step
from hopwall_dataplane.host_endpoints import Way
from hopwall_dataplane.kernel import Kernel, Stale, Turn
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.moves.carrier import Carrier
from hopwall_dataplane.moves.ears import Ears
from hopwall_dataplane.moves.neighbours import forget
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RulesRequest
from hopwall_model.status import Drift, HostStatus, Moved, MovedHere, Refusal
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    HostBatch,
    Scope,
    SharedUpdate,
    SnapshotRequest,
)
from hopwall_runtime import clock
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

#: A batch whose shared pieces are still missing after this time asks for a snapshot.
_PATIENCE_S = 0.25
#: Back-off of what could not be done: from, to.
_RETRY_S = (0.1, 5.0)
#: What a status names at most of refused and of waiting objects: it must fit one message.
_MAX_NAMED = 2000
_MAX_REASON = 500
#: How often, and how far apart, an emptying snapshot must repeat itself before it is believed.
_CONFIRMATIONS = 3
_CONFIRM_PAUSE_S = 2.0

_decode_batch = codec.decoder(HostBatch)


@dataclass(slots=True)
class _Progress:
    """How far this host has come, as its status will say."""

    epoch: str = ""
    revision: int = 0
    #: What `revision` becomes once all that was handed on is in the kernel.
    goal: int = 0
    in_sync: bool = False
    n_drift: int = 0


@dataclass
class Agent:
    """One host's agent.

    Shape: `_inbox` holds messages in order of arrival; its size is bounded by what calc sends between two
           snapshots, and a snapshot replaces it.
    """

    settings: DataplaneSettings
    link: Link
    kernel: Kernel
    metrics: Metrics
    version: str
    #: None where BGP is nothing to this host.
    speaker: Speaker | None = None
    #: None where flows are not carried along.
    carrier: Carrier | None = None
    feed: Feed = field(default_factory=Feed)
    progress: _Progress = field(default_factory=_Progress)
    _inbox: deque[HostBatch | SharedUpdate] = field(default_factory=deque)
    _links: Mapping[str, LinkState] | None = None
    _ways: tuple[Way, ...] = ()
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ask: asyncio.Event = field(default_factory=asyncio.Event)
    _ask_reason: str = "start"
    _ended: dict[Scope, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    _retry_s: float = 0.0
    _retry_at: float = 0.0
    _impatient_at: float = 0.0
    _emptied: int = 0
    _confirm_at: float = 0.0
    _reported: HostStatus | None = None
    _ears: Ears = field(init=False)
    _signs: list[EndpointId] = field(default_factory=list)
    #: What calc was last told of arrivals; None when it must be told again.
    _told: tuple[MovedHere, ...] | None = None

    def __post_init__(self) -> None:
        """Be ready to hear workloads arrive."""
        self._ears = Ears(self._on_sign)

    # ------------------------------------------------------------ in

    def on_links(self, links: Mapping[str, LinkState], ways: tuple[Way, ...] = ()) -> None:
        """Take the present interfaces, and how this host reaches NATS by them."""
        self._links, self._ways = links, ways
        self._wake.set()

    def look_again(self) -> None:
        """Wake the loop: what it reports may have changed."""
        self._wake.set()

    def _on_sign(self, endpoint_id: EndpointId) -> None:
        self._signs.append(endpoint_id)
        self._wake.set()

    def _on_message(self, message: HostBatch | SharedUpdate, _subject: str) -> None:
        self._inbox.append(message)
        self._wake.set()

    async def _on_reconnect(self) -> None:
        self._told = None
        self._ask_again("reconnect")

    def _ask_again(self, reason: str) -> None:
        if not self._ask.is_set():
            log.info("asking calc for a snapshot: %s", reason)
            self._ask_reason = reason
            self._ask.set()

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Run until cancelled; the kernel is left as it is."""
        subject = topics.host_batch_subject(self.settings.host_name)
        await self.link.subscribe(topics.HOST_BATCH, subject, self._on_message)
        self.link.on_reconnect(self._on_reconnect)
        rules = topics.rules_subject(self.settings.host_name)
        await self.link.serve_chunked(topics.RULES, rules, self._answer_rules)
        if self.carrier is not None:
            await self.carrier.serve()
        await self.kernel.resync()
        self._ask.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_asking(), name="snapshots")
            tasks.create_task(self._keep_refreshing(), name="refresh")
            tasks.create_task(self._keep_reporting(), name="heartbeat")
            if self.speaker is not None:
                tasks.create_task(self.speaker.run(), name="bgp")
            while True:
                await self._wait()
                await self._turn()
                await self._look()

    async def _wait(self) -> None:
        """Wait until there is something to look at, or until something is due."""
        now = clock.monotonic()
        ends = self.kernel.desired.moves.due_at
        due = [at - now for at in (self._retry_at, self._impatient_at, ends) if at]
        sweep = self.kernel.sweep_in_s
        if sweep is not None and not self._retry_at:
            due.append(sweep)
        look = self.kernel.look_in_s if self.progress.in_sync else None
        if look is not None:
            due.append(look)
        try:
            async with asyncio.timeout(max(0.0, min(due)) if due else None):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _turn(self) -> None:
        self._fold()
        await self._subscribe()
        if not self.progress.in_sync:
            return
        try:
            if self.kernel.stale:
                await self._drifted(await self.kernel.resync())
            with self.metrics.apply_seconds.time():
                turn = await self.kernel.apply()
        except OSError as error:
            self.kernel.stale |= set(Stale)
            turn = Turn(held_by=f"the kernel cannot be read: {error}")
        self._note(turn)
        self._ears.listen(self.kernel.desired.expected())
        await self._tell_arrivals()
        self._welcome()
        await self._report(force=False)
        if self.kernel.sweep_in_s == 0 and not turn.held_by:
            await self.kernel.sweep()

    async def _look(self) -> None:
        """Look at the flows as long as there is cause and no news."""
        while self.progress.in_sync and not self._wake.is_set() and self.kernel.look_in_s == 0:
            assert self.kernel.flows is not None
            self.kernel.flows.step()
            await asyncio.sleep(0)

    def _fold(self) -> None:
        """Fold everything that waits into desired: no I/O, no awaits."""
        desired = self.kernel.desired
        if self._links is not None:
            desired.set_links(self._links, self._ways)
            self._links = None
            # A link that went down took its routes along, whatever we believe.
            self.kernel.stale.add(Stale.ROUTES)
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, HostBatch):
                if not self._believable(message):
                    continue
                found = self.feed.on_batch(message)
            else:
                found = self.feed.on_shared(message)
            for one in found:
                if isinstance(one, AskAgain):
                    self._ask_again(one.reason)
                    continue
                self._take(one)
        self._fold_signs()
        waits = bool(self.feed.waiting_for)
        if not waits:
            self._impatient_at = 0.0
        elif not self._impatient_at:
            self._impatient_at = clock.monotonic() + _PATIENCE_S
        elif clock.monotonic() >= self._impatient_at:
            self._impatient_at = 0.0
            self._ask_again(f"missed {self.feed.waiting_for}")

    def _fold_signs(self) -> None:
        """Let the workloads that were heard arrive, and migrations that have converged be over."""
        desired = self.kernel.desired
        signs, self._signs = self._signs, []
        for endpoint_id in signs:
            if desired.arrive(endpoint_id):
                log.info("workload of endpoint %s has arrived here", endpoint_id)
        desired.tick(clock.monotonic())

    def _take(self, step: Step) -> None:
        self.kernel.desired.apply(step)
        if self.speaker is not None:
            self.speaker.fold(step)
        self.progress.goal = step.revision
        self.progress.in_sync = self.progress.in_sync or step.full

    def _believable(self, batch: HostBatch) -> bool:
        """Tell whether a snapshot may be applied: one that empties this host must repeat itself."""
        if not batch.full:
            return True
        empties = not any(isinstance(update, EndpointSet) for update in batch.updates)
        if not empties or batch.epoch == self.feed.epoch or not self.kernel.desired.has_endpoints:
            self._emptied = 0
            return True
        now = clock.monotonic()
        if now < self._confirm_at:
            return False  # asked for another reason, too soon to say more than the last one did
        self._emptied += 1
        self._confirm_at = now + _CONFIRM_PAUSE_S
        if self._emptied >= _CONFIRMATIONS:
            log.warning("the empty snapshot repeated itself %d times: believed", self._emptied)
            self._emptied = 0
            return True
        log.warning("a new epoch's snapshot has no endpoint for this host: asking again")
        asyncio.get_running_loop().call_later(_CONFIRM_PAUSE_S, self._ask_again, "confirm empty")
        return False

    async def _subscribe(self) -> None:
        needed = self.feed.needed
        for scope in sorted(needed - self._ended.keys()):
            subject = topics.shared_subject(scope)
            self._ended[scope] = await self.link.subscribe(topics.SHARED, subject, self._on_message)
        for scope in sorted(self._ended.keys() - needed):
            await self._ended.pop(scope)()

    # ------------------------------------------------------------ what became of it

    def _note(self, turn: Turn) -> None:
        self.metrics.ops.inc(turn.n_ops)
        self.metrics.turns.inc()
        if turn.held_by:
            self.metrics.failures.inc()
            self._retry_s = min(max(self._retry_s * 2, _RETRY_S[0]), _RETRY_S[1])
            self._retry_at = clock.monotonic() + self._retry_s
            log.warning(
                "not all is applied, trying again in %.1f s: %s", self._retry_s, turn.held_by
            )
            return
        self._retry_s = self._retry_at = 0.0
        self.progress.epoch = self.feed.epoch
        self.progress.revision = self.progress.goal

    async def _drifted(self, found: list[Found]) -> None:
        self.progress.n_drift += len(found)
        self.metrics.drift.inc(len(found))
        host = self.settings.host_name
        for one in found:
            log.warning("drift: %s %s: %s; repairing", one.object, one.name, one.detail)
            note = Drift(
                host=host,
                object=one.object,
                name=one.name,
                detail=one.detail,
                at=clock.now_text(),
            )
            await self._publish(topics.drift_subject(host), note)

    def status(self) -> HostStatus:
        """Say what this host's kernel enforces."""
        desired = self.kernel.desired
        waiting = desired.waiting()
        refused = [
            Refusal(object=name, reason=reason[:_MAX_REASON])
            for name, reason in sorted(self.kernel.refused.items())
        ]
        refused += desired.refusals()
        if self.speaker is not None:
            refused += self.speaker.refusals
        if (unnamed := max(len(refused), len(waiting)) - _MAX_NAMED) > 0:
            text = f"{unnamed} or more further objects are refused or wait: see the host's log."
            refused = [Refusal(object="status", reason=text), *refused[:_MAX_NAMED]]
        return HostStatus(
            host=self.settings.host_name,
            epoch=self.progress.epoch,
            revision=self.progress.revision,
            received=self.feed.received,
            in_sync=self.progress.in_sync,
            at=clock.now_text(),
            refused=tuple(refused),
            waiting=waiting[:_MAX_NAMED],
            drift_repaired=self.progress.n_drift,
            rejected_messages=self.link.rejected_messages,
            version=self.version,
            bgp=None if self.speaker is None else self.speaker.status,
        )

    async def _report(self, *, force: bool) -> None:
        status = self.status()
        before = self._reported
        if not force and before is not None and _same(status, before):
            return
        if await self._publish(topics.host_status_subject(status.host), status):
            self._reported = status

    def _welcome(self) -> None:
        """Do what else follows for the workloads that have arrived, whose routes stand now."""
        fresh = self.kernel.desired.moves.take_fresh()
        for arrival in fresh.values():
            forget(arrival.interface, arrival.move.addresses)
        if self.carrier is not None:
            self.carrier.fetch({endpoint_id: one.move for endpoint_id, one in fresh.items()})
            self.carrier.expect(self.kernel.desired.moves.targets())

    async def _tell_arrivals(self) -> None:
        """Tell calc whose workloads are here now, for it to let everybody know."""
        arrived = self.kernel.desired.moves.arrived()
        if arrived == self._told:
            return
        moved = Moved(host=self.settings.host_name, arrived=arrived)
        if await self._publish(topics.moved_subject(moved.host), moved):
            self._told = arrived

    async def _publish(self, subject: str, value: Drift | HostStatus | Moved) -> bool:
        """Say something to whoever listens; what cannot be said now is no reason to stop working."""
        if not self.link.connected:
            return False
        try:
            await self.link.publish(subject, value)
        except Unavailable as error:
            log.warning("%s", error)
            return False
        return True

    async def _answer_rules(self, request: RulesRequest, _subject: str) -> bytes:
        host, at = self.settings.host_name, clock.now_text()
        try:
            rules = await self.kernel.rule_counts(request)
        except OSError as error:  # TimeoutError is one
            reason = f"The tables of host {host} cannot be read: {error}."
            return codec.encode(HostRules(host=host, at=at, failure=reason))
        return codec.encode(HostRules(host=host, at=at, rules=rules))

    # ------------------------------------------------------------ tasks beside the loop

    async def _keep_asking(self) -> None:
        """Fetch a snapshot whenever one is asked for, until one comes."""
        host = self.settings.host_name
        while True:
            await self._ask.wait()
            request = SnapshotRequest(host=host, reason=self._ask_reason)
            try:
                body = await self.link.request_chunked(
                    topics.snapshot_subject(host), request, timeout_s=10
                )
                snapshot = _decode_batch(body)
            except (Unavailable, codec.CodecError) as error:
                log.info("no snapshot yet: %s", error)
                await asyncio.sleep(0.5)
                continue
            self._ask.clear()
            self._inbox.append(snapshot)
            self._wake.set()

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh_s)
            self.kernel.stale |= set(Stale)
            self.kernel.unpark_all()
            self._wake.set()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            await self._report(force=True)
            if self._told:
                self._told = None  # a calc that has just begun may not know
                self._wake.set()
            if self.kernel.desired.routes.parked:
                self.kernel.stale.add(Stale.ROUTES)
                self._wake.set()


def _same(a: HostStatus, b: HostStatus) -> bool:
    """Tell whether two statuses differ in nothing but their time and what was rejected."""
    return _lasting(a) == _lasting(b)


def _lasting(status: HostStatus) -> HostStatus:
    return structs.replace(status, at="", rejected_messages=0)
