"""Keeping the store in order: old tombstones go, history gives way before the store is full, and what the server
says of itself is said to people.

Shell. A tombstone is purged when it is older than the newest event by `tombstone_hours`, both by the server's clock.
Nothing can come back or be lost by it (decision 23):

- first an event says up to which revision tombstones may be missing, and only then they go; a watcher that knows less
  is sent to list again, also by a process that starts later;
- the purge takes a subject's messages up to the tombstone and none after, so what was written anew stays;
- a follower either has seen the tombstone or begins with a snapshot, in which the resource is not;
- who creates the resource again expects no message, and a write that expects the tombstone is planned again.
"""

import asyncio
import logging
from datetime import timedelta

from hopwall_api.agent import Api
from hopwall_api.problems import ApiProblem
from hopwall_api.writer import Source
from hopwall_model import topics
from hopwall_model.events import PURGE, Event, TombstonesPurged
from hopwall_model.resources import Key
from hopwall_runtime import sync_check
from hopwall_runtime.link import Unavailable
from hopwall_runtime.streams import fitting_history
from hopwall_runtime.sync_check import Syncs

log = logging.getLogger(__name__)

EVERY_S = 60.0
_AT_ONCE = 1000
_SOURCE = Source(actor="hopwall-api", request_id="purge-of-tombstones")


class Upkeep:
    """What one API process does beside its requests."""

    def __init__(self, api: Api, *, tombstone_hours: float, monitor_url: str) -> None:
        """Take the API, how long removals are remembered, and where the server's monitoring page is."""
        self._api = api
        self._age = timedelta(hours=tombstone_hours)
        self._monitor_url = monitor_url
        self._checked = ""
        self._said: Syncs | None = None

    async def run(self) -> None:
        """Look after everything once a minute, for ever."""
        while True:
            for step in (
                self.check_sync,
                self.fit_history,
                self.give_back_claims,
                self.purge_tombstones,
            ):
                try:
                    await step()
                except (Unavailable, ApiProblem) as error:
                    log.info("upkeep: %s; it is tried again", error)
            await asyncio.sleep(EVERY_S)

    async def check_sync(self) -> None:
        """Say loudly when the connected server acknowledges before it syncs; ask each server once."""
        server_id, host = self._api.link.server
        if not server_id or self._checked == server_id:
            return
        found, why = await sync_check.syncs(self._monitor_url, server_id, host)
        self._api.syncs = found
        if found == "late":
            log.error(
                "nats-server %s: %s. A power cut loses what was acknowledged. Set `sync_interval:"
                " always` in its jetstream block.",
                host,
                why,
            )
        elif found == "unknown" and self._said != "unknown":
            log.warning("it is not known whether nats-server %s syncs always: %s", host, why)
        self._said = found
        if found != "unknown":
            self._checked = server_id

    async def fit_history(self) -> None:
        """Let older values of resources go when room is scarce, before the store refuses writes.

        Errors: Unavailable.
        """
        usage = await self._api.link.upkeep.usage()
        n = fitting_history(usage)
        if n == usage.history:
            return
        log.warning(
            "the events stream holds %d of %d bytes: each resource keeps %d values now, not %d",
            usage.used,
            usage.limit,
            n,
            usage.history,
        )
        await self._api.link.upkeep.set_history(n)

    async def give_back_claims(self) -> None:
        """Give back what a replica that died had claimed over others' blocks.

        Errors: ApiProblem.
        """
        store = self._api.store
        await self._api.news.until(lambda: store.in_sync, EVERY_S)
        if store.in_sync and store.restoring is None:
            await self._api.ipam.claims.give_back()

    async def purge_tombstones(self) -> int:
        """Take old tombstones out of the stream; return how many.

        Errors: Unavailable; ApiProblem when the mark cannot be stored.
        """
        store = self._api.store
        if not store.in_sync or store.restoring is not None:
            return 0
        due = await self._due()
        if not due:
            return 0
        revision = due[-1][1]

        def decide(last: Event | None) -> Event:
            before = last.revision if isinstance(last, TombstonesPurged) else 0
            return TombstonesPurged(revision=max(before, revision))

        await self._api.writer.mark(PURGE, decide, _SOURCE)
        for key, last in due:
            await self._api.link.upkeep.purge_removed(topics.event_subject(key), last)
        log.info("%d old tombstones are purged, up to revision %d", len(due), revision)
        return len(due)

    async def _due(self) -> list[tuple[Key, int]]:
        """Return the tombstones that are old enough, the oldest first."""
        newest = await self._api.link.upkeep.stored_at()
        due: list[tuple[Key, int]] = []
        if newest is None:
            return due
        for key, last in self._api.store.tombstones(_AT_ONCE):
            at = await self._api.link.upkeep.stored_at(last)
            if at is not None and at > newest - self._age:
                break
            due.append((key, last))
        return due
