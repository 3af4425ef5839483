"""Joins events and audits into one answer: what is to be read again now.

It refuses to read, compare and repair: the agent's loop does, and tells what came of it, which sets the pace.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hopwall_dataplane.drift import Found
from hopwall_dataplane.iptables.table import TableKey
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_dataplane.watch.audit import LegacyAudit, SetsAudit, SettingsAudit, pause_s
from hopwall_dataplane.watch.codec import Writer
from hopwall_dataplane.watch.events import Concerns, EventMonitor
from hopwall_dataplane.watch.pace import Pace
from hopwall_model.status import Refusal
from hopwall_runtime import clock

log = logging.getLogger(__name__)

#: After a look that failed.
_RETRY_S = 5.0

#: What a finding is about → the subsystem whose reading found it.
_SUBSYSTEM = {
    "set": Stale.SETS,
    "chain": Stale.TABLES,
    "table": Stale.TABLES,
    "jump": Stale.TABLES,
    "route": Stale.ROUTES,
    "sysctl": Stale.SYSCTLS,
}


@dataclass(slots=True)
class _Audit:
    """One kind of look, and when it comes next."""

    name: str
    look: Callable[[], Doubts]
    at: float = 0.0


class Watch:
    """Says what of a kernel is to be read again, and when.

    Owner: the agent's loop.
    """

    def __init__(self, kernel: Kernel, *, legacy: bool, metrics: Metrics | None = None) -> None:
        """Open the sockets; events are kept from now on.

        Errors: `OSError` when the kernel gives no events.
        """
        self._kernel = kernel
        self._wake: Callable[[], None] = lambda: None
        self._doubts = Doubts()
        self._notes: list[Found] = []
        self._paces: defaultdict[Stale | TableKey, Pace] = defaultdict(Pace)
        self._writer: Writer | None = None
        self._metrics = metrics or Metrics()
        restores = kernel.restores.values()
        self._events = EventMonitor(
            Concerns(
                writers=lambda: [writer for r in restores for writer in r.writers],
                n_commits=lambda: sum(r.n_commits for r in restores),
                routes=lambda: kernel.desired.routes.desired,
                workloads=lambda: kernel.interfaces.indices,
                portid=kernel.routes.portid,
            ),
            nft=not legacy,
        )
        kernel.hush = self._events.hush
        self._sets = SetsAudit()
        self._settings = SettingsAudit()
        self._audits = [_Audit("sets", self._sets.look), _Audit("sysctls", self._settings.look)]
        self._legacy = LegacyAudit(kernel.restores) if legacy else None
        if self._legacy is not None:
            self._audits.append(_Audit("tables", self._legacy.look))

    async def run(self, wake: Callable[[], None]) -> None:
        """Watch until cancelled; `wake` is called when there is something to take."""
        self._wake = wake
        self._events.start(asyncio.get_running_loop(), self.on_news)
        while True:
            audit = min(self._audits, key=lambda one: one.at)
            await asyncio.sleep(max(0.0, audit.at - clock.monotonic()))
            await self._run_audit(audit)

    def close(self) -> None:
        """Close the sockets."""
        self._events.close()
        self._sets.close()
        self._settings.close()
        if self._legacy is not None:
            self._legacy.close()

    # ------------------------------------------------------------ what is due

    def on_news(self, doubts: Doubts, notes: list[Found]) -> None:
        """Take what is in doubt, and what others did that is not ours to put right."""
        now = clock.monotonic()
        self._doubts.add(doubts)
        self._notes += notes
        for part in doubts.parts:
            self._paces[part].ask(now)
        if self._events.last_writer is not None:
            self._writer = self._events.last_writer
        self._wake()

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something is to be read again; None when nothing is."""
        now = clock.monotonic()
        due = [d for pace in self._paces.values() if (d := pace.due_in_s(now)) is not None]
        return 0.0 if self._notes else min(due, default=None)

    def take(self) -> Doubts:
        """Return what is to be read again now."""
        now = clock.monotonic()
        taken = Doubts()
        for part, pace in self._paces.items():
            if pace.due_in_s(now) == 0.0:
                pace.took()
                taken.add(self._doubts.take(part))
        return taken

    def took(self, doubts: Doubts, found: Iterable[Found], cost_s: float) -> list[Found]:
        """Note what a reading of these found, and return what is to be told of it."""
        found = list(found)
        now = clock.monotonic()
        for part in doubts.parts:
            self._paces[part].read(now, cost_s, [f.label for f in found if _is_about(f, part)])
        notes, self._notes = self._notes, []
        told = [self._with_writer(one) for one in found]
        if doubts.tables or Stale.TABLES in doubts.whole:
            self._writer = self._events.last_writer = None
        return told + notes

    @property
    def refusals(self) -> list[Refusal]:
        """What others change again and again, so that it is put right ever more slowly."""
        now = clock.monotonic()
        return [
            Refusal(
                object=name,
                reason=f"Another program changed it {n} times within a minute, and each time it was put "
                "right; from now on that takes up to 10 s: find that program and stop it.",
            )
            for pace in self._paces.values()
            for name, n in sorted(pace.fights(now).items())
        ]

    def _with_writer(self, one: Found) -> Found:
        """Add who wrote last, where the kernel tells: nf_tables names the process of a transaction."""
        if self._writer is None or _SUBSYSTEM.get(one.object) is not Stale.TABLES:
            return one
        writer = f"last foreign writer: {self._writer.name}, process {self._writer.pid}"
        return Found(one.object, one.name, f"{one.detail} ({writer})")

    # ------------------------------------------------------------ audits

    async def _run_audit(self, audit: _Audit) -> None:
        try:
            doubts, cost_s = await asyncio.to_thread(_timed, audit.look)
        except OSError as error:
            log.warning("the %s could not be looked at: %s", audit.name, error)
            audit.at = clock.monotonic() + _RETRY_S
            return
        self._metrics.watch_seconds.inc(cost_s)
        audit.at = clock.monotonic() + pause_s(cost_s)
        if doubts:
            self.on_news(doubts, [])


def _is_about(found: Found, part: Stale | TableKey) -> bool:
    """Tell whether a finding came of reading this part."""
    subsystem = _SUBSYSTEM.get(found.object)
    if isinstance(part, Stale):
        return subsystem is part
    return subsystem is Stale.TABLES and f"{found.name} ".startswith(f"{part[0]} {part[1]} ")


def _timed(look: Callable[[], Doubts]) -> tuple[Doubts, float]:
    """Look, and say what it took of a core."""
    began = time.thread_time()
    found = look()
    return found, time.thread_time() - began
