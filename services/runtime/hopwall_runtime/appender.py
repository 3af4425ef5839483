"""Storing events: compare-and-set, atomic batches, and what a refusal or a silence of the server means.

Called by `link`, and so an importer of nats. Refuses to guess: who was not answered is told so.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from hopwall_model import topics
from hopwall_runtime import clock

log = logging.getLogger(__name__)

#: Messages in one atomic batch. Source: NATS ADR-50.
MAX_BATCH = 1000
#: Source: NATS server, errors: wrong last sequence; the same in a cluster, for one that is not stored everywhere yet.
_ERR_WRONG_LAST_SEQUENCE = (10071, 10164)
#: Source: NATS server, errors: maximum bytes exceeded; insufficient, and exceeded, storage.
_ERR_FULL = (10077, 10047, 10023, 10028)
#: So long a server may take no write before another is tried.
_PATIENCE_S = 4.0
_HDR_WRITE_ID = "Hopwall-Write-Id"


class LinkError(Exception):
    """The bus did not do what was asked."""


class Unavailable(LinkError):
    """The bus cannot be reached or does not accept writes now; the same call may succeed later."""


class Full(Unavailable):
    """The server has no room for the write; it takes writes again when somebody has made some."""


class Unconfirmed(Unavailable):
    """The server was silent: whether the events were stored is unknown."""


class Conflict(LinkError):
    """Compare-and-set failed: the subject's last sequence is not the one expected. Nothing was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One event to store, if its subject's last message is still `expected` (0: none yet).

    Shape:  `of`: `expected` is the last message of all subjects that match this, its own among them.
    """

    subject: str
    body: bytes
    expected: int
    headers: Mapping[str, str]
    of: str = ""


class Appender:
    """What stores events over one connection."""

    def __init__(self, nc: Any, js: Any) -> None:
        """Take the client's connection."""
        self._nc = nc
        self._js = js
        #: Since when no write was taken; 0 while they are.
        self._refused_since = 0.0

    async def append(self, writes: Sequence[Append]) -> list[int]:
        """Store the events, all or none; return their revisions in order.

        Shape:  one write is one publish; more are one atomic batch (at most MAX_BATCH).
        Errors: Conflict when an expectation fails; Unavailable when the server refuses; Unconfirmed when it is silent. Then
                the outcome is unknown: trying the same writes again (same Nats-Msg-Id) is safe
                and answers with the first try's revisions if it was stored.
        Source: NATS ADR-50 (atomic batch publish).
        """
        begun = clock.monotonic()
        try:
            revisions = await self._append_once(writes)
        except Full:
            raise
        except Unavailable:
            await self._move_on(begun)
            raise
        except Conflict:
            # Ours, come back: an earlier try was stored although its answer was lost.
            stored = await self._revision_if_stored(writes[-1])
            if stored is None:
                raise
            return list(range(stored - len(writes) + 1, stored + 1))
        else:
            self._refused_since = 0.0
            return revisions

    async def _move_on(self, begun: float) -> None:
        """Go to another server when this one has taken no write for a while: it may be cut off from its cluster."""
        self._refused_since = self._refused_since or begun
        waited_s = clock.monotonic() - self._refused_since
        if waited_s > _PATIENCE_S and len(self._nc._server_pool) > 1:
            log.warning("NATS: no write is taken for %.0f s; trying another server", waited_s)
            self._refused_since = 0.0
            await self._nc.force_reconnect()

    async def _append_once(self, writes: Sequence[Append]) -> list[int]:
        try:
            if len(writes) == 1:
                write = writes[0]
                ack = await self._js.publish(
                    write.subject, write.body, headers=cas_headers(write), timeout=5
                )
                return [int(ack.seq)]
            return await self._append_batch(writes)
        except APIError as error:
            if error.err_code in _ERR_WRONG_LAST_SEQUENCE:
                raise Conflict("another write came first") from error
            refused = Full if error.err_code in _ERR_FULL else Unavailable
            raise refused(f"NATS refused the write: {error.description}") from error
        except (NoRespondersError, NoStreamResponseError) as error:
            raise Unavailable("NATS has no events stream that takes writes now") from error
        except (NatsError, TimeoutError) as error:
            raise Unconfirmed(f"NATS did not confirm the write: {error}") from error

    async def _revision_if_stored(self, write: Append) -> int | None:
        """Return the revision of this very write, if it is stored.

        It stands right behind the message it was to replace, whatever came on top of it; where it depended on
        several subjects, that is not said, and the last one is looked at. The server checks the expected sequence before it looks for a duplicate id, so its own
        deduplication never answers a compare-and-set write that is tried again.
        """
        wanted = write.headers.get(topics.HDR_MSG_ID)
        if wanted is None:
            return None
        try:
            if write.of:
                message = await self._js.get_last_msg(topics.EVENTS_STREAM, write.subject)
            else:
                message = await self._js.get_msg(
                    topics.EVENTS_STREAM, seq=write.expected + 1, subject=write.subject, next=True
                )
        except NotFoundError:
            return None  # it was another write of the batch that met the conflict
        except (NatsError, TimeoutError) as error:
            raise Unconfirmed(f"NATS does not say what it stored: {error}") from error
        found = (message.headers or {}).get(_HDR_WRITE_ID)
        return int(message.seq) if found == wanted else None

    async def _append_batch(self, writes: Sequence[Append]) -> list[int]:
        batch_id = self._nc.new_inbox().rpartition(".")[2]
        last = len(writes)
        for index, write in enumerate(writes, start=1):
            headers = cas_headers(write)
            headers[topics.HDR_BATCH_ID] = batch_id
            headers[topics.HDR_BATCH_SEQ] = str(index)
            if index < last:
                await self._nc.publish(write.subject, write.body, headers=headers)
            else:
                headers[topics.HDR_BATCH_COMMIT] = "1"
                ack = await self._js.publish(write.subject, write.body, headers=headers, timeout=10)
        top = int(ack.seq)
        return list(range(top - last + 1, top + 1))


def cas_headers(write: Append) -> dict[str, str]:
    """Return the headers of a write: what it is to replace, and the name by which it is known again."""
    headers = {**write.headers, topics.HDR_EXPECTED_LAST_SUBJECT_SEQ: str(write.expected)}
    if write.of:
        headers[topics.HDR_EXPECTED_OF] = write.of
    # Our own name for the id: a batch may not carry the server's deduplication header.
    if (write_id := headers.pop(topics.HDR_MSG_ID, None)) is not None:
        headers[_HDR_WRITE_ID] = write_id
    return headers
