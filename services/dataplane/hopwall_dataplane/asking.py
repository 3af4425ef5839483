"""The task that fetches a snapshot from calc whenever one is asked for, until one comes."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hopwall_model import codec, topics
from hopwall_model.updates import HostBatch, SnapshotRequest
from hopwall_runtime import clock
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

Listener = Callable[[HostBatch, str], None]

_TIMEOUT_S = 10.0
_PAUSE_S = 0.5
#: Some of calc's heartbeats. A calc that has begun anew says nothing to a host that nobody declares and that has
#: nothing any more; what it had would stand for ever.
_SILENCE_S = 30.0
_SILENCE = "silence"

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
    #: When calc was heard last; infinite before it is listened to.
    _heard_at: float = math.inf

    def begin(self) -> None:
        """Ask for the first time: listeners stand."""
        self._heard_at = clock.monotonic()
        self._asked.set()

    def hearing(self, listener: Listener) -> Listener:
        """Return the listener, with which it is noted that calc is heard."""

        def heard(message: HostBatch, subject: str) -> None:
            self._heard_at = clock.monotonic()
            listener(message, subject)

        return heard

    def again(self, reason: str) -> None:
        """Ask again, unless that is under way."""
        if self._asked.is_set() and self._reason != _SILENCE:
            return
        log.info("asking calc for a snapshot: %s", reason)
        self._reason = reason
        self._asked.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._until_asked()
            request = SnapshotRequest(host=self.host, reason=self._reason, missing=self.missing())
            subject = topics.snapshot_subject(self.host)
            try:
                body = await self.link.request_chunked(subject, request, timeout_s=_TIMEOUT_S)
                snapshot = _decode_batch(body)
                if snapshot.host != self.host:
                    raise codec.CodecError(f"what came is of host {snapshot.host}")
            except (Unavailable, codec.CodecError) as error:
                log.info("no snapshot yet: %s", error)
                if self._reason == _SILENCE:
                    self._asked.clear()  # calc is away, which is no reason to ask for more
                await asyncio.sleep(_PAUSE_S)
                continue
            self._asked.clear()
            self.deliver(snapshot)

    async def _until_asked(self) -> None:
        """Wait until a snapshot is asked for; long silence asks, too."""
        while not self._asked.is_set():
            left_s = self._heard_at + _SILENCE_S - clock.monotonic()
            if left_s <= 0:
                self._heard_at = clock.monotonic()
                if self.link.connected:
                    self.again(_SILENCE)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s if left_s < math.inf else None):
                    await self._asked.wait()
