"""The reconcile loop of one host: wait → fold → gate → read what is stale → apply → report.

One task owns desired, actual and the drivers; messages, link changes and timers only put something in the
inbox and wake it. Nothing but the wall is written before the first state is in: the last-good one on disk, or a
snapshot. A snapshot that takes away much of what the host has, unexplained, is not obeyed (`guard`).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.asking import Asking
from hopwall_dataplane.bgp.speaker import Speaker
from hopwall_dataplane.counting import answer_rules
from hopwall_dataplane.drift import Found
from hopwall_dataplane.feed import Feed, Step
from hopwall_dataplane.guard import Guard
from hopwall_dataplane.hindrance import Hindrance
from hopwall_dataplane.host_endpoints import Way
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.lastgood.keeper import Keeper
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.moves.arrivals import Arrivals
from hopwall_dataplane.outcome import Turn
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.poison import Poison
from hopwall_dataplane.progress import Progress
from hopwall_dataplane.report import MAX_NAMED, capped, same, shortened
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_dataplane.subscriptions import Subscriptions
from hopwall_dataplane.watch.watch import Watch
from hopwall_model import codec, topics
from hopwall_model.counts import RulesRequest
from hopwall_model.release import Released, ReleaseRequest
from hopwall_model.status import Drift, HostStatus, LastGood, Moved
from hopwall_model.updates import HostBatch, SharedUpdate
from hopwall_runtime import clock
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

#: A batch whose shared pieces are still missing after this time asks for a snapshot.
_PATIENCE_S = 0.25
#: After a restart calc is waited for so long before the state on disk is taken instead.
_SILENCE_S = 5.0
#: Back-off of what could not be done: from, to.
_RETRY_S = (0.1, 5.0)
#: While a snapshot is held back, calc is asked again no sooner than after this time.
_HELD_PAUSE_S = 5.0


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
    #: None where damage by others is found at the refresh only.
    watch: Watch | None = None
    feed: Feed = field(default_factory=Feed)
    keeper: Keeper = field(default_factory=Keeper)
    guard: Guard = field(default_factory=Guard)
    poison: Poison = field(default_factory=Poison)
    progress: Progress = field(default_factory=Progress)
    _inbox: deque[HostBatch | SharedUpdate] = field(default_factory=deque)
    _links: Mapping[str, LinkState] | None = None
    _ways: tuple[Way, ...] = ()
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _retry_s: float = 0.0
    _retry_at: float = 0.0
    _impatient_at: float = 0.0
    #: When calc is asked again for a snapshot instead of one that is held back; 0 when none is.
    _held_until: float = 0.0
    #: Subscriptions stand: NATS has been reached once.
    _joined: bool = False
    _last_good: LastGood | None = None
    _reported: HostStatus | None = None
    arrivals: Arrivals = field(init=False)
    asking: Asking = field(init=False)
    hindrance: Hindrance = field(init=False)
    scopes: Subscriptions = field(init=False)
    _slow: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Be ready to hear workloads arrive, and to ask."""
        host, desired = self.settings.host_name, self.kernel.desired
        self.arrivals = Arrivals(host, desired, self._wake.set)
        self.hindrance = Hindrance(self._slow.set, lambda: self.kernel.waits_for)
        self.scopes = Subscriptions(self.link, self._on_message)
        self.asking = Asking(host, self.link, self._on_message, lambda: self.guard.missing)

    # ------------------------------------------------------------ in

    def on_links(self, links: Mapping[str, LinkState], ways: tuple[Way, ...] = ()) -> None:
        """Take the present interfaces, and how this host reaches NATS by them."""
        self._links, self._ways = links, ways
        self._wake.set()

    def look_again(self) -> None:
        """Wake the loop: what it reports may have changed."""
        self._wake.set()

    def _on_message(self, message: HostBatch | SharedUpdate, _subject: str = "") -> None:
        self._inbox.append(message)
        self._wake.set()

    async def _on_reconnect(self) -> None:
        self.arrivals.tell_again()
        self._reported = None  # the server may keep it no more
        self.asking.again("reconnect")

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Run until cancelled; the kernel is left as it is."""
        await self.kernel.resync()
        if self.settings.wall:
            await self.kernel.build_wall()
        async with asyncio.TaskGroup() as tasks:
            recalled = tasks.create_task(
                self.keeper.recall(self._may_be_of), name="last-good state"
            )
            tasks.create_task(self._fall_back(recalled), name="fall-back")
            tasks.create_task(self._join(), name="bus")
            tasks.create_task(self.keeper.run(), name="last-good")
            tasks.create_task(self.asking.run(), name="snapshots")
            tasks.create_task(self._keep_refreshing(), name="refresh")
            tasks.create_task(self._keep_reporting(), name="heartbeat")
            tasks.create_task(self._keep_telling(), name="hindrances")
            if self.speaker is not None:
                tasks.create_task(self.speaker.run(), name="bgp")
            if self.watch is not None:
                tasks.create_task(self.watch.run(self.look_again), name="watch")
            await asyncio.wait([recalled])  # what calc says comes over it, never under it
            self.feed.succession.recalls(*self.keeper.obeyed, clock.monotonic())
            while True:
                await self._wait()
                await self._turn()
                await self._look_on()

    @property
    def _stands(self) -> bool:
        return self.kernel.as_of.stands or bool(self.kernel.desired.classes.remembered)

    def _may_be_of(self, digest: str) -> bool:
        return not self._stands or self.kernel.as_of.is_of(digest)

    async def _fall_back(self, recalled: asyncio.Task[Step | None]) -> None:
        """Take what is recalled for what is wanted until calc is heard: after a boot at once, else after silence."""
        step = await recalled
        if step is not None and self._stands:
            await asyncio.sleep(_SILENCE_S)
        if step is None or self.progress.armed:
            return
        log.warning(
            "enforcing the last-good state of epoch %s at revision %d until calc is heard",
            step.epoch,
            step.revision,
        )
        since = clock.now_text()
        self._last_good = LastGood(epoch=step.epoch, revision=step.revision, since=since)
        self._take(step)
        self.kernel.as_of.want(self.keeper.mirror.digest)
        self._wake.set()

    async def _join(self) -> None:
        """Reach NATS, however long it takes, and listen for ever."""
        host, hear = self.settings.host_name, self.asking.hearing(self._on_message)
        await self.link.connect(self.settings)
        await self.link.subscribe(topics.HOST_BATCH, topics.host_batch_subject(host), hear)
        self.link.on_reconnect(self._on_reconnect)
        await self.link.serve_chunked(topics.RULES, topics.rules_subject(host), self._on_rules)
        release = topics.release_subject(host)
        await self.link.serve_chunked(topics.RELEASE, release, self._on_release)
        await self.arrivals.serve()
        self._joined = True
        self.asking.begin()
        await self.link.watch()

    async def _wait(self) -> None:
        """Wait until there is something to look at, or until something is due."""
        now = clock.monotonic()
        moves = self.kernel.desired.moves.due_at
        ends = (self._retry_at, self._impatient_at, self._held_until, moves)
        due = [at - now for at in ends if at]
        sweep = self.kernel.sweep_in_s
        if sweep is not None and not self._retry_at:
            due.append(sweep)
        if self.progress.armed:
            looks = [self.kernel.look_in_s]
            if self.watch is not None:
                looks.append(self.watch.due_in_s)
            due += [at for at in looks if at is not None]
        try:
            async with asyncio.timeout(max(0.0, min(due)) if due else None):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _turn(self) -> None:
        self._fold()
        if self._joined:
            await self.scopes.follow(self.feed.needed)
        if not self.progress.armed:
            await self._mend_wall()
            await self._report(force=False)
            return
        try:
            with self.hindrance.turn():
                await self._read_again()
                with self.metrics.apply_seconds.time():
                    turn = await self.kernel.apply()
        except OSError as error:
            self.kernel.stale |= set(Stale)
            turn = Turn(held_by=f"the kernel cannot be read: {error}")
        self._note(turn)
        self.arrivals.listen()
        await self.arrivals.tell(self._publish)
        self.arrivals.welcome()
        await self._look()
        await self._report(force=False)
        if self.kernel.sweep_in_s == 0 and not turn.held_by:
            await self.kernel.sweep()

    async def _read_again(self) -> None:
        """Read what is stale or in doubt, and tell what others changed.

        Errors: OSError when the kernel cannot be read.
        """
        doubts = Doubts() if self.watch is None else self.watch.take()
        self.kernel.doubt(doubts)
        self.metrics.doubts.inc(bool(doubts))
        began = clock.monotonic()
        found = await self.kernel.resync() if self.kernel.stale or self.kernel.doubted else []
        if self.watch is not None:
            found = self.watch.took(doubts, found, clock.monotonic() - began)
        await self._drifted(found)

    async def _mend_wall(self) -> None:
        """Close what others opened, as long as there is no state to enforce."""
        if not self.settings.wall or not self.kernel.stale & {Stale.TABLES, Stale.SETS}:
            return
        try:
            with self.hindrance.turn():
                await self._drifted(await self.kernel.resync())
                await self.kernel.build_wall()
        except OSError as error:
            self._note(Turn(held_by=f"the wall cannot be mended: {error}"))
            self.kernel.stale |= set(Stale)
        else:
            self._retry_s = self._retry_at = 0.0
            self.hindrance.ended("")

    async def _look(self) -> None:
        """Look at the flows for a moment, if there is cause: what is reported is true of them too."""
        flows = self.kernel.flows
        if flows is not None and self.kernel.look_in_s == 0:
            await asyncio.sleep(0)  # what was told goes out first
            flows.step()
        self.progress.look(0 if flows is None else flows.n_done)

    async def _look_on(self) -> None:
        """Go on as long as there are no news, and report how far that brings the host."""
        while self.progress.armed and not self._wake.is_set() and self.kernel.look_in_s == 0:
            await self._look()
            await self._report(force=False)

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
                if not self._admitted(message):
                    continue
                found = self.feed.on_batch(message)
            else:
                found = self.feed.on_shared(message)
            for one in found:
                if isinstance(one, Step):
                    self._take(one)
                    self._heard(one)
                elif not self._held_until:
                    self.asking.again(one.reason)
        self._grow_impatient()
        if self._held_until and clock.monotonic() >= self._held_until:
            self._held_until = clock.monotonic() + _HELD_PAUSE_S
            self.asking.again("held")
        self.arrivals.fold(clock.monotonic())

    def _grow_impatient(self) -> None:
        """Ask for a snapshot when the pieces that a batch names stay away."""
        waits = bool(self.feed.waiting_for)
        if not waits:
            self._impatient_at = 0.0
        elif not self._impatient_at:
            self._impatient_at = clock.monotonic() + _PATIENCE_S
        elif clock.monotonic() >= self._impatient_at:
            self._impatient_at = 0.0
            self.asking.again(f"missed {self.feed.waiting_for}")

    def _take(self, step: Step) -> None:
        error = self.poison.apply(self.kernel.desired, step, self.keeper.mirror)
        if error is not None:
            log.error(
                "revision %d: what the agent fails on is left out", step.revision, exc_info=error
            )
            self.kernel.stale |= set(Stale)
        if self.speaker is not None:
            self.speaker.fold(step)
        self.progress.goal = (step.epoch, step.revision)
        self.progress.armed = self.progress.armed or step.full

    def _heard(self, step: Step) -> None:
        """Keep what calc said; from now on its word is what is enforced."""
        self.keeper.fold(step)
        self.kernel.as_of.want(self.keeper.mirror.digest)
        self._last_good = None
        self.progress.in_sync = self.progress.in_sync or step.full
        if step.full:
            self.arrivals.tell_again()  # a calc that has just begun may not know

    def _admitted(self, snapshot: HostBatch) -> bool:
        """Tell whether a batch may be applied; a snapshot that may not is asked for again."""
        obeyed = self.feed.obeys(snapshot, clock.monotonic())
        if not obeyed and snapshot.full:
            self.asking.again("deposed")
        if not obeyed or not snapshot.full:
            return obeyed
        before = self.guard.held
        known, kernel = self.keeper.mirror, self.kernel.desired.addresses_in_kernel
        if self.guard.admits(known, kernel, snapshot, self.feed.epoch):
            self._held_until = 0.0
            if before is not None:
                log.warning("the snapshot of epoch %s is obeyed", snapshot.epoch)
            return True
        held = self.guard.held
        assert held is not None
        if before is None or before.epoch != held.epoch:
            # At once, as calc may account for what is missing.
            log.warning("%s", held.reason)
            self.asking.again("missing")
        self._held_until = clock.monotonic() + _HELD_PAUSE_S
        return False

    async def _on_rules(self, request: RulesRequest, _subject: str) -> bytes:
        return await answer_rules(self.kernel, request)

    def _on_release(self, request: ReleaseRequest, _subject: str) -> bytes:
        failure = self.guard.release(request.epoch)
        if not failure:
            log.warning("an operator lets the snapshot of epoch %s through", request.epoch)
            self.asking.again("released")
        return codec.encode(Released(host=self.settings.host_name, failure=failure))

    # ------------------------------------------------------------ what became of it

    def _note(self, turn: Turn) -> None:
        self.metrics.ops.inc(turn.n_ops)
        self.metrics.turns.inc()
        self.hindrance.ended(turn.held_by)
        if turn.held_by:
            self.metrics.failures.inc()
            self._retry_s = min(max(self._retry_s * 2, _RETRY_S[0]), _RETRY_S[1])
            self._retry_at = clock.monotonic() + self._retry_s
            log.warning("not all is applied, again in %.1f s: %s", self._retry_s, turn.held_by)
            return
        self._retry_s = self._retry_at = 0.0
        flows = self.kernel.flows
        # Who waits for a migration to be programmed may move the workload at once: its source is to yield by then.
        if not self.kernel.desired.moves.waiting():
            self.progress.apply(0 if flows is None else flows.n_owed)

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

    @property
    def why_not_ready(self) -> str | None:
        """Say why this host is not to be relied on; None when it is."""
        hindered = self.hindrance.text or self._flows_fault or None
        return hindered if self.progress.in_sync else self._why_not_in_sync

    @property
    def _flows_fault(self) -> str:
        return "" if self.kernel.flows is None else self.kernel.flows.fault

    @property
    def _why_not_in_sync(self) -> str:
        """Say what is enforced while calc has not been heard."""
        bus = "calc has not answered yet" if self.link.connected else "no bus"
        if self.guard.held is not None:
            bus = f"a snapshot is held back: {self.guard.held.reason}"
        if (kept := self._last_good) is None:
            stays = "; the kernel keeps another state than the disk's" * self.keeper.is_other
            return f"no snapshot from calc yet ({bus}){stays}"
        return (
            f"enforcing last-good of revision {kept.revision} / epoch {kept.epoch} since {kept.since}, "
            f"{bus}"
        )

    def status(self) -> HostStatus:
        """Say what this host's kernel enforces."""
        desired = self.kernel.desired
        waiting = desired.waiting()
        refused = shortened(self.kernel.refused)
        refused += (*desired.refusals(), *self.poison.refusals())
        if self.speaker is not None:
            refused += self.speaker.refusals
        refused += () if self.watch is None else self.watch.refusals
        return HostStatus(
            host=self.settings.host_name,
            epoch=self.progress.epoch,
            revision=self.progress.revision,
            received=self.feed.received,
            in_sync=self.progress.in_sync,
            at=clock.now_text(),
            refused=capped(refused, len(waiting)),
            waiting=waiting[:MAX_NAMED],
            drift_repaired=self.progress.n_drift,
            rejected_messages=self.link.rejected_messages,
            version=self.version,
            bgp=None if self.speaker is None else self.speaker.status,
            last_good=self._last_good,
            held=self.guard.held,
            not_kept=self.keeper.fault,
            held_up=self.hindrance.text or self._flows_fault,
        )

    async def _report(self, *, force: bool) -> None:
        status, before = self.status(), self._reported
        if not force and before is not None and same(status, before):
            return
        if await self._publish(topics.host_status_subject(status.host), status):
            self._reported = status

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

    # ------------------------------------------------------------ tasks beside the loop

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh_s)
            self.kernel.stale |= set(Stale)
            self.kernel.unpark_all()
            self._wake.set()

    async def _keep_telling(self) -> None:
        """Report what hinders a turn while it lasts."""
        while True:
            await self._slow.wait()
            self._slow.clear()
            await self._report(force=False)

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            await self._report(force=True)
            self.arrivals.tell_again()
            if self.kernel.desired.routes.parked:
                self.kernel.stale.add(Stale.ROUTES)
                self._wake.set()
