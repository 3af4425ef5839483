"""The task that keeps the last complete state on disk, beside the reconcile loop and never in its way.

What changes is written at most once in `_PAUSE_S`, in a thread, and costs what changed: whole states only at the
start, when as much has been added as the whole takes, and after a fault. A crash loses what came after the last
write; the file is then a little older, never torn.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from hopwall_dataplane.feed import Step
from hopwall_dataplane.lastgood.codec import Unusable
from hopwall_dataplane.lastgood.driver import LastGoodFile
from hopwall_dataplane.lastgood.mirror import Mirror

log = logging.getLogger(__name__)

#: Seconds between two writes, and after one that failed.
_PAUSE_S = 0.1
_RETRY_S = 30.0
#: Updates that may wait to be added; more, and the whole state is written instead.
_MAX_WAITING = 20_000


@dataclass(slots=True)
class Keeper:
    """What this host was told last, in memory and on disk.

    Shape: `_waiting` are the steps that are not on disk; None when the next write is of all of it.
    """

    #: None keeps nothing on disk.
    file: LastGoodFile | None = None
    mirror: Mirror = field(default_factory=Mirror)
    #: Why the state is not on disk; "" when it is, or will be in a moment.
    fault: str = ""
    #: The state on disk was found to be another than the kernel's, and calc was not heard since.
    is_other: bool = False
    _waiting: list[Step] | None = None
    _n_waiting: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self) -> Step | None:
        """Return the state on disk as one step, and hold it; None when there is none to be used."""
        if self.file is None:
            return None
        try:
            loaded = await asyncio.to_thread(self.file.load)
        except (Unusable, OSError) as error:
            self.fault = (
                f"The last-good state in {self.file.path} is not used, as {error}: "
                "what is not programmed already stays closed until calc is heard."
            )
            log.error("%s", self.fault)
            if isinstance(error, Unusable):
                await asyncio.to_thread(self.file.set_aside)
            return None
        if loaded is None:
            return None
        if loaded.n_cut_off:
            log.warning(
                "the last %d lines of %s were cut off: the state before them is used",
                loaded.n_cut_off,
                self.file.path,
            )
        self.mirror = loaded.mirror
        return self.mirror.step()

    async def recall(self, may_be_of: Callable[[str], bool]) -> Step | None:
        """Load the state, and hold it; None also where it is older than the kernel's: it would take back what was closed.

        Shape: `may_be_of` tells whether the kernel is of the state of a digest, or of none.
        """
        step = await self.load()
        if step is None or self.file is None or may_be_of(self.mirror.digest):
            return step
        self.is_other = True
        self.fault = (
            f"The last-good state in {self.file.path} is not used, as the kernel was last given another: "
            "that stays as it is until calc is heard."
        )
        log.warning("%s", self.fault)
        return None

    @property
    def obeyed(self) -> tuple[str, int]:
        """The epoch of the state that is held, and its revision."""
        return self.mirror.epoch, self.mirror.revision

    def fold(self, step: Step) -> None:
        """Take in a step that calc gave; it is written soon."""
        self.mirror.fold(step)
        if self.is_other:
            self.is_other, self.fault = False, ""
        if self.file is None:
            return
        if step.full:
            self._waiting = None
        elif self._waiting is not None:
            self._waiting.append(step)
            self._n_waiting += len(step.updates) + 1
            if self._n_waiting > _MAX_WAITING:
                self._waiting = None
        self._news.set()

    async def run(self) -> None:
        """Write until cancelled; what waits then is written before the end."""
        if self.file is None:
            return
        loop, writing = asyncio.get_running_loop(), None
        try:
            while True:
                await self._news.wait()
                writing = loop.create_task(self._write(), name="last-good write")
                await asyncio.shield(writing)
                await asyncio.sleep(_RETRY_S if self.fault else _PAUSE_S)
        finally:
            if writing is not None and not writing.done():
                await asyncio.wait([writing])  # its thread goes on: nobody may write beside it
            if self._news.is_set():
                await asyncio.shield(self._write())
            self.file.close()

    async def _write(self) -> None:
        assert self.file is not None
        steps, self._waiting, self._n_waiting = self._waiting, [], 0
        self._news.clear()
        try:
            if steps is None or self.file.wants_whole:
                await asyncio.to_thread(self.file.rewrite, self.mirror.step())
            else:
                await asyncio.to_thread(self.file.append, steps)
        except OSError as error:
            reason = (
                f"The last-good state cannot be written to {self.file.path}: {error}. "
                "Until it can, a boot without NATS begins with an older state, or with none."
            )
            if reason != self.fault:
                log.error("%s", reason)
            self.fault = reason
            self._waiting = None
            self._news.set()
        else:
            self.fault = ""
