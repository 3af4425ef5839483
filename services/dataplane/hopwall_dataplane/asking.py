"""The task that fetches a snapshot from calc whenever one is asked for, until one comes."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from hopwall_model import codec, topics
from hopwall_model.updates import HostBatch, SnapshotRequest
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_PAUSE_S = 0.5

_decode_batch = codec.decoder(HostBatch)


@dataclass(slots=True)
class Asking:
    """What one host asks calc for, and why."""

    host: str
    link: Link
    deliver: Callable[[HostBatch], None]
    #: Names that calc may be able to account for, at the time of asking.
    missing: Callable[[], tuple[str, ...]]
    _reason: str = "start"
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Ask for the first time: listeners stand."""
        self._asked.set()

    def again(self, reason: str) -> None:
        """Ask again, unless that is under way."""
        if not self._asked.is_set():
            log.info("asking calc for a snapshot: %s", reason)
            self._reason = reason
            self._asked.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._asked.wait()
            request = SnapshotRequest(host=self.host, reason=self._reason, missing=self.missing())
            subject = topics.snapshot_subject(self.host)
            try:
                body = await self.link.request_chunked(subject, request, timeout_s=_TIMEOUT_S)
                snapshot = _decode_batch(body)
            except (Unavailable, codec.CodecError) as error:
                log.info("no snapshot yet: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            self._asked.clear()
            self.deliver(snapshot)
