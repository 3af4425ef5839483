"""The shell: events in from the link, updates out to it. Decides when, never what.

Nothing is published before every stored event has been taken in. Events that wait together are flushed
together. Starting again begins a new epoch, and so does a stream that is not the one followed before,
or that has lost something; following the same stream again from its snapshot does not.
"""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from hopwall_calc.graph import Graph
from hopwall_calc.metrics import Metrics
from hopwall_calc.ruling import Ruling
from hopwall_calc.sequencer import Output
from hopwall_calc.settings import CalcSettings
from hopwall_model import codec, topics
from hopwall_model.events import Event, RestoreBegun, RestoreEnded
from hopwall_model.status import CalcStatus, Moved
from hopwall_model.updates import HostBatch, SnapshotRequest
from hopwall_runtime import clock
from hopwall_runtime.follower import CaughtUp, Followed, Record, Reset
from hopwall_runtime.health import serve_health
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

#: Larger bodies are not published: the host asks for a snapshot, which travels in chunks.
MAX_BODY_BYTES = 768 * 1024
#: After this time what was reported is repeated, with all hosts: for whoever begins to listen later.
_REPEAT_S = 1.0
#: Hosts that asked and are not known yet hear heartbeats too, up to this many.
MAX_STRANGERS = 10_000
#: The answer of who stands by: the one that rules answers the same request.
_LEFT_TO_ANOTHER = b""


class CalcService:
    """One run of the service."""

    def __init__(self, settings: CalcSettings, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._metrics = Metrics()
        self._ruling = Ruling(link, self._take_over, lambda: self._graph.revision)
        self._graph = Graph("", routing=settings.routing)
        self._store = ""
        self._stream_id: str | None = None
        self._stream_changed = False
        self._resyncing = False
        #: A restore has begun and not ended: what was taken in is a mixture.
        self._restoring = False
        self._in_sync = False
        self._revision_at_reset = 0
        self._status: CalcStatus | None = None
        #: There is something to repeat.
        self._reported = asyncio.Event()
        #: What came in and is not folded yet.
        self._inbox: list[Followed] = []
        self._said: list[Moved] = []
        self._wake = asyncio.Event()
        #: Hosts that asked for a snapshot: some may be known to nobody yet.
        self._strangers: set[str] = set()

    async def run(self) -> None:
        """Follow the events until cancelled."""
        await self._link.connect(self._settings)
        health = self._settings.health_listen
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._link.watch(), name="link")
                await self._ensure_streams()
                await self._ruling.follow()
                await self._follow_arrivals()
                async with serve_health(health, self._not_ready, self._metrics.registry):
                    tasks.create_task(self._heartbeat(), name="heartbeat")
                    tasks.create_task(self._keep_repeating(), name="repeats")
                    tasks.create_task(self._follow(), name="events")
                    tasks.create_task(self._ruling.watch(), name="ruling")
                    await self._work()
        finally:
            await self._link.close()

    def _not_ready(self) -> str | None:
        if not self._link.connected:
            return "NATS is not connected"
        if self._restoring:
            return "a restore has begun and has not ended"
        return None if self._in_sync else "the stored events are still being read"

    async def _ensure_streams(self) -> None:
        while True:
            try:
                await self._link.ensure_streams()
            except Unavailable as error:
                log.warning("cannot make the streams: %s; trying again", error)
                await asyncio.sleep(0.5)
            else:
                return

    # ------------------------------------------------------------ in

    async def _follow(self) -> None:
        async for items in self._link.follow():
            self._inbox += items
            self._wake.set()

    async def _follow_arrivals(self) -> None:
        """Learn which workloads hosts say have arrived, before anything is computed: routes must not go back."""
        pattern = topics.MOVED.pattern
        await self._link.subscribe(topics.MOVED, pattern, self._on_moved)
        self._link.on_reconnect(self._catch_up_arrivals)
        await self._catch_up_arrivals()

    async def _catch_up_arrivals(self) -> None:
        spoken = {moved.host for moved in self._said}
        try:
            async for moved, subject in self._link.last_status(topics.MOVED):
                if moved.host not in spoken:
                    self._on_moved(moved, subject)
        except Unavailable as error:
            log.warning("who has arrived where is not known until hosts say it again: %s", error)

    def _on_moved(self, moved: Moved, subject: str) -> None:
        # A host's credential lets it speak on its own subject only.
        if subject != topics.moved_subject(moved.host):
            log.warning("ignored what %s says of host %s", subject, moved.host)
            return
        self._said.append(moved)
        self._wake.set()

    async def _work(self) -> None:
        """Take in what has come, flush, and begin again: one flush at a time."""
        serving: Callable[[], Awaitable[None]] | None = None
        while True:
            await self._wake.wait()
            self._wake.clear()
            items, self._inbox = self._inbox, []
            said, self._said = self._said, []
            for moved in said:
                self._graph.on_moved(moved)
            self._take(items)
            await self._recall()
            if self._resyncing or self._restoring or self._stream_id is None:
                continue
            await self._flush()
            if serving is None:
                serving = await self._link.serve_chunked(
                    topics.SNAPSHOT, topics.SNAPSHOT.pattern, self._snapshot
                )

    def _take(self, items: Sequence[Followed]) -> None:
        for item in items:
            if isinstance(item, Reset):
                self._on_reset(item)
            elif isinstance(item, CaughtUp):
                self._on_caught_up(item.revision)
            else:
                assert isinstance(item, Record)
                self._on_event(item.event, item.revision)

    def _on_event(self, event: Event, revision: int) -> None:
        self._metrics.events.inc()
        if isinstance(event, RestoreBegun | RestoreEnded):
            self._on_restore(event)
        self._graph.on_event(event, revision)

    async def _recall(self) -> None:
        """Look up what the stream said last of those that are not understood, and whose absence may open."""
        for key in sorted(self._graph.left_out.wanted, key=str):
            subject = topics.event_subject(key)
            while True:
                try:
                    event = await self._link.last_good(subject, self._graph.understands)
                except Unavailable as error:
                    log.warning("cannot look up %s: %s; trying again", subject, error)
                    await asyncio.sleep(0.5)
                else:
                    self._graph.recall(key, event)
                    break

    def _on_restore(self, event: RestoreBegun | RestoreEnded) -> None:
        """Hold the hosts where they are while a restore is under way; its end makes one step of all of it."""
        began = isinstance(event, RestoreBegun)
        if began != self._restoring:
            word = "begun: hosts stay as they are until it ends" if began else "ended"
            log.warning("a restore has %s", word)
        self._restoring = began
        if not began and not self._resyncing:
            self._settle_epoch()

    def _on_reset(self, reset: Reset) -> None:
        # Nothing that is loaded becomes garbage: collecting meanwhile only costs (frozen after it).
        gc.disable()
        if not self._resyncing:
            self._revision_at_reset = self._graph.revision
        self._resyncing = True
        self._restoring = False
        self._graph.begin_resync()
        self._store = reset.store
        if self._stream_id is None:
            self._graph.new_epoch(self._ruling.begin(self._store))
        self._stream_changed |= self._stream_id not in (None, reset.stream_id)
        self._stream_id = reset.stream_id

    def _on_caught_up(self, revision: int) -> None:
        n_lost = self._graph.end_resync(revision)
        if self._stream_changed or n_lost or revision < self._revision_at_reset:
            log.warning(
                "the events stream is not the one followed before (it ends at %d, and was at %d; %d resources"
                " are gone without an event that removed them): a new epoch begins",
                revision,
                self._revision_at_reset,
                n_lost,
            )
            self._stream_changed = True
        self._resyncing = False
        self._reported.set()
        if not self._restoring:
            self._settle_epoch()

    def _settle_epoch(self) -> None:
        """Begin a new epoch if the stream asks for one. Only now: until the flush that follows, hosts are
        answered from the old epoch.
        """
        if self._stream_changed:
            self._graph.new_epoch(self._ruling.begin(self._store))
        self._stream_changed = False

    def _take_over(self) -> None:
        """Begin an epoch, as nobody else is heard: the next flush says so."""
        if not self._stream_changed:
            log.warning("the calc that ruled is not heard any more: this one takes over")
        self._stream_changed = True
        if not self._resyncing and not self._restoring:
            self._settle_epoch()
            self._wake.set()

    # ------------------------------------------------------------ out

    async def _flush(self) -> None:
        with self._metrics.update_time.time():
            output = self._graph.flush()
        await self._report_failures()
        if not gc.isenabled():
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            gc.enable()
        self._in_sync = True
        if output is None:
            return
        if self._settings.validate:
            self._check()
        # No repeat and no heartbeat tells of a revision whose status was never sent.
        if await self._ruling.rules():
            await self._publish(output)
        self._measure()

    def _check(self) -> None:
        differing = self._graph.differences()
        if differing:
            raise RuntimeError(f"recomputing gives something else for {', '.join(differing)}")

    async def _report_failures(self) -> None:
        for failure in self._graph.take_failures():
            self._metrics.failures.inc()
            await self._link.reject(f"{failure.where} {failure.key}", failure.reason)

    async def _publish(self, output: Output) -> None:
        for update in output.shared:
            body = codec.encode(update)
            # Too large for a message: the need that follows names a version the host never got, so it
            # asks for a snapshot.
            if len(body) <= MAX_BODY_BYTES:
                await self._send("shared", topics.shared_subject(update.piece.scope), body)
        for batch in output.batches:
            await self._send_batch(batch)
        self._status = CalcStatus(
            epoch=self._graph.sequencer.epoch,
            first=output.first,
            revision=output.revision,
            at=clock.now_text(),
            hosts=output.hosts,
            rejected_messages=self._link.rejected_messages,
            moves_nobody=self._graph.moves_nobody(),
            left_out=self._graph.left_out.named(),
        )
        await self._send_status(self._status)
        self._reported.set()

    async def _send_batch(self, batch: HostBatch) -> None:
        body = codec.encode(batch)
        if len(batch.updates) > 1 and len(body) > MAX_BODY_BYTES:
            body = codec.encode(self._graph.sequencer.skip(batch.host))
        await self._send("batch", topics.host_batch_subject(batch.host), body)

    async def _send_status(self, status: CalcStatus) -> None:
        await self._send("status", topics.CALC_STATUS.pattern, codec.encode(status))

    async def _send(self, kind: str, subject: str, body: bytes) -> None:
        try:
            await self._link.publish_encoded(subject, body)
        except Unavailable as error:
            # Numbers and versions say what is missing; the host asks for it.
            log.warning("%s", error)
        else:
            self._metrics.messages.labels(kind).inc()

    def _snapshot(
        self, request: SnapshotRequest, subject: str
    ) -> bytes | Awaitable[bytes | None] | None:
        # A host's credential lets it ask on its own subject only: it must not get another's state there.
        if subject != topics.snapshot_subject(request.host):
            return None
        speaks = self._ruling.may_speak_at_once
        if speaks is None:
            return self._snapshot_later(request)
        return self._snapshot_of(request) if speaks else _LEFT_TO_ANOTHER

    async def _snapshot_later(self, request: SnapshotRequest) -> bytes:
        return self._snapshot_of(request) if await self._ruling.rules() else _LEFT_TO_ANOTHER

    def _snapshot_of(self, request: SnapshotRequest) -> bytes:
        log.info("host %s asks for a snapshot: %s", request.host, request.reason)
        if len(self._strangers) < MAX_STRANGERS:
            self._strangers.add(request.host)
        return codec.encode(self._graph.snapshot(request.host, request.missing))

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            # Of a stream that is in doubt nothing is repeated: it may not hold these revisions any more.
            if not self._in_sync or not self._link.settled or not await self._ruling.may_speak():
                continue
            sequencer = self._graph.sequencer
            for host in sorted(
                {*sequencer.hosts(), *self._graph.nodes.hosts.out, *self._strangers}
            ):
                body = codec.encode(sequencer.heartbeat(host))
                await self._send("heartbeat", topics.host_batch_subject(host), body)
            await self._repeat()

    async def _keep_repeating(self) -> None:
        """Repeat what was reported soon after it, and after the stream was read again: the last status may be gone."""
        while True:
            await self._reported.wait()
            await asyncio.sleep(_REPEAT_S)
            self._reported.clear()
            if self._link.settled and await self._ruling.may_speak():
                await self._repeat()

    async def _repeat(self) -> None:
        """Say the last status again, with all hosts that it may be of use to know of."""
        sequencer = self._graph.sequencer
        if self._status is not None and self._status.epoch == sequencer.epoch:
            await self._send_status(replace(self._status, all_hosts=tuple(sequencer.hosts())))

    def _measure(self) -> None:
        nodes, metrics = self._graph.nodes, self._metrics
        metrics.revision.set(self._graph.revision)
        metrics.cluster["workload_endpoints"].set(len(nodes.workload_endpoints.out))
        metrics.cluster["host_endpoints"].set(len(nodes.host_endpoints.out))
        metrics.cluster["pools"].set(len(nodes.pools.out))
        metrics.cluster["policies"].set(len(nodes.declared_policies.out))
        metrics.cluster["profiles"].set(len(nodes.declared_profiles.out))
        metrics.cluster["hosts"].set(len(nodes.hosts.out))
        metrics.cluster["sets"].set(len(nodes.sets.members))
        for node in self._graph.engine.nodes:
            metrics.node_updates.labels(node.name, "incremental").set(node.n_handled)
            metrics.node_updates.labels(node.name, "recompute").set(node.n_recomputed)
