"""The running state of the API: the link, what is folded from it, and the tasks that fold.

Shell. One task follows the stream; statuses are folded where they arrive.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from hopwall_api.ipam.desk import Desk
from hopwall_api.news import News
from hopwall_api.outcomes import HDR_KEY, HDR_REQUEST_HASH, KEEP_S, Memory, Written
from hopwall_api.progress import Progress, Target, Tracker
from hopwall_api.store import Store, shown
from hopwall_api.writer import Writer
from hopwall_model import topics
from hopwall_model.epochs import Succession
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Key
from hopwall_model.status import CalcStatus, HostStatus
from hopwall_runtime import clock
from hopwall_runtime.follower import SILENT_S, CaughtUp, Followed, Record, Reset
from hopwall_runtime.link import Link, Unavailable
from hopwall_runtime.sync_check import Syncs

log = logging.getLogger(__name__)

STALE_LOOK_S = 1.0


class Api:
    """Everything a request may look at."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.store = Store()
        self.tracker = Tracker()
        self.memory = Memory()
        #: Rings when the store or the tracker has changed, for whoever waits until a change is in force, or for changes:
        #: many, and for long.
        self.news = News()
        #: Rings for who waits until reads show what is stored: requests that are being worked at.
        self.folded = News()
        self.writer = Writer(link, self.store, self.folded)
        self.ipam = Desk(link, self.store, self.writer, self.folded)
        #: Idempotency keys of requests that are being carried out now.
        self.busy_keys: set[str] = set()
        self.stopping = False
        #: Watches take a place for as long as they last: others must find some.
        self.n_watchers = 0
        self.max_watchers = 2048
        #: Whether the server syncs before it acknowledges.
        self.syncs: Syncs = "unknown"
        #: When each host was last heard, on the monotonic clock.
        self.heard_at: dict[str, float] = {}
        self._spoken: set[str] = set()
        #: Whom of several calcs to believe.
        self.succession = Succession()

    def not_ready(self) -> str | None:
        """Return why the API cannot serve now, or None."""
        if self.stopping:
            return "The API is stopping."
        if not self.store.in_sync:
            return "The events stream is not read yet."
        if not self.link.connected:
            return "NATS is not connected."
        return None

    def stale_s(self) -> int | None:
        """Return how many seconds old what reads show may be; None while the stream is surely followed."""
        silent_s = self.link.silent_s
        heard = self.link.connected and self.link.settled and silent_s <= SILENT_S
        if not self.store.in_sync or heard:
            return None
        return int(silent_s)

    async def ring_stale(self) -> None:
        """Wake who waits when what reads show comes to be old, or is not any more; for ever."""
        was = False
        while True:
            await asyncio.sleep(STALE_LOOK_S)
            now = self.stale_s() is not None
            if now != was:
                was = now
                self.news.ring()

    def progress(self, targets: Sequence[Target]) -> Progress:
        """Return how far writes have come; as unknown while the stream is in doubt."""
        return self.tracker.progress(targets, sure=self.link.settled)

    def stop(self) -> None:
        """Let everyone who waits go home."""
        self.stopping = True
        self.news.ring()

    # ------------------------------------------------------------ folding

    async def follow_events(self) -> None:
        """Fold the stream for ever."""
        named: dict[Key, str] = {}
        async for items in self.link.follow():
            self.fold(items)
            faults = self.ipam.view.faults
            for key, fault in faults.items():
                if named.get(key) != fault:
                    await self.link.reject(topics.event_subject(key), fault)
            named = dict(faults)

    def fold(self, items: list[Followed]) -> None:
        """Fold what the stream delivered, then ring once."""
        for item in items:
            match item:
                case Reset(stream_id):
                    self.store.begin(stream_id)
                case Record():
                    self.store.fold(item.revision, item.event)
                    self._gather(item)
                case CaughtUp(revision):
                    lineage = self.store.lineage
                    self.store.caught_up(revision)
                    if self.store.lineage != lineage:
                        # Another history: what was promised of the old one cannot be shown.
                        log.error("the events stream is not the one that was read before")
                        self.writer.stored = 0
                        self.tracker.forget()
        self.ipam.view.follow(self.store)
        self.folded.ring()
        self.news.ring()

    def _gather(self, record: Record) -> None:
        key = record.headers.get(HDR_KEY)
        if not key or not isinstance(record.event, ResourceSet | ResourceRemoved):
            return
        if self.store.within_restore(record.revision):
            return  # it was not acknowledged, and is not to be when it is asked again
        form, _, request_hash = record.headers.get(HDR_REQUEST_HASH, "").partition("-")
        left = KEEP_S - _age_s(record.headers)
        if left <= 0:
            return
        written = _written(record)
        self.memory.gather(
            key,
            request_hash,
            written,
            form="many" if form == "many" else "one",
            until=clock.monotonic() + left,
        )

    async def follow_statuses(self) -> None:
        """Subscribe to the statuses and learn the last ones, again after each reconnect; for ever.

        Errors: Unavailable.
        """
        doubt = asyncio.Event()

        async def on_reconnect() -> None:
            doubt.set()

        self.link.on_reconnect(on_reconnect)
        await self.link.subscribe(topics.CALC_STATUS, topics.CALC_STATUS.pattern, self._on_calc)
        await self.link.subscribe(topics.HOST_STATUS, topics.HOST_STATUS.pattern, self._on_host)
        while True:
            doubt.clear()
            await self.make_streams()
            await self.catch_up_statuses()
            await doubt.wait()

    async def make_streams(self) -> None:
        """Make the streams that are missing, trying until NATS takes it."""
        while True:
            try:
                return await self.link.ensure_streams()
            except Unavailable as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(0.5)

    async def catch_up_statuses(self) -> None:
        """Fold the last status of each sender, unless it has spoken meanwhile."""
        self._spoken.clear()
        try:
            async for calc, _ in self.link.last_status(topics.CALC_STATUS):
                if "" not in self._spoken:
                    self._fold_calc(calc)
            async for host, subject in self.link.last_status(topics.HOST_STATUS):
                own = subject == topics.host_status_subject(host.host)
                if own and host.host not in self._spoken:
                    self.tracker.fold_host(host)
                    self.heard_at[host.host] = clock.monotonic()
        except Unavailable as error:
            log.warning("the last statuses are not known until they are sent again: %s", error)
        self.news.ring()

    def _on_calc(self, status: CalcStatus, _: str) -> None:
        self._spoken.add("")
        self._fold_calc(status)
        self.news.ring()

    def _fold_calc(self, status: CalcStatus) -> None:
        # One that was deposed and does not know it yet says nothing of what hosts are to do.
        if self.succession.obeys(status.epoch, status.revision, clock.monotonic()):
            self.tracker.fold_calc(status, self.store.revision)

    def _on_host(self, status: HostStatus, subject: str) -> None:
        # A host's credential lets it speak on its own subject only: it must not speak of another there.
        if subject != topics.host_status_subject(status.host):
            log.warning("%s bears a status of host %s; it is not believed", subject, status.host)
            return
        self._spoken.add(status.host)
        self.tracker.fold_host(status)
        self.heard_at[status.host] = clock.monotonic()
        self.news.ring()


def _written(record: Record) -> Written:
    event = record.event
    if not isinstance(event, ResourceSet):
        return Written(key=event.key, word="removed", revision=record.revision, resource=None)
    resource = shown(event.resource, record.revision).resource
    created = resource.metadata.generation == 1
    return Written(
        key=event.key,
        word="created" if created else "configured",
        revision=record.revision,
        resource=resource,
    )


def _age_s(headers: Mapping[str, str]) -> float:
    """Return how long ago the event was written, by the clocks of two machines; unknown is old."""
    try:
        written = datetime.fromisoformat(headers["ce-time"])
        return (datetime.fromisoformat(clock.now_text()) - written).total_seconds()
    except (KeyError, ValueError, TypeError):
        return KEEP_S
