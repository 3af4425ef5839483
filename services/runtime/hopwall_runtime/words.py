"""Reading single words of the events stream, asked of the server itself.

Called by `link`, and so an importer of nats. Keeps nothing.
"""

from typing import Any

from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from hopwall_model import topics
from hopwall_model.codec import CodecError
from hopwall_runtime.appender import Unavailable
from hopwall_runtime.follower import Record, Unreadable


async def last(js: Any, subject: str, *, connected: bool = True) -> Record | Unreadable | None:
    """Return the last word on a subject; None: never written.

    Errors: Unavailable.
    """
    return await _read(js, subject, 0, connected)


async def first_after(
    js: Any, subject: str, revision: int, *, connected: bool = True
) -> Record | Unreadable | None:
    """Return the first word on a subject behind a revision that is still kept; None: there is none.

    Errors: Unavailable.
    """
    return await _read(js, subject, revision + 1, connected)


async def _read(js: Any, subject: str, start: int, connected: bool) -> Record | Unreadable | None:
    if not connected:
        raise Unavailable(f"cannot read {subject}: NATS is not connected")
    stream = topics.EVENTS_STREAM
    try:
        message: RawStreamMsg
        if start:
            message = await js.get_msg(stream, seq=start, subject=subject, next=True)
        else:
            message = await js.get_last_msg(stream, subject)
    except NotFoundError:
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"cannot read {subject}: {error}") from error
    revision = int(message.seq or 0)
    try:
        event = topics.event_on(message.subject or subject, message.data or b"")
    except CodecError:
        return Unreadable(revision)
    return Record(revision=revision, event=event, headers=dict(message.headers or {}))
