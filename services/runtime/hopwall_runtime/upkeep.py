"""Looking after the events stream: how full it is, how much it keeps, and what may go.

Called by `link`, and so an importer of nats. Keeps nothing.
"""

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

from nats.errors import Error as NatsError

from hopwall_runtime import streams
from hopwall_runtime.appender import Unavailable
from hopwall_runtime.streams import Usage

T = TypeVar("T")


class Upkeep:
    """What is asked of one server about its events stream."""

    def __init__(self, js: Any) -> None:
        self._js = js

    async def usage(self) -> Usage:
        """Return how full the events stream is.

        Errors: Unavailable.
        """
        return await asked(streams.usage(self._js))

    async def set_history(self, n: int) -> None:
        """Keep this many values of each resource; older ones are dropped.

        Errors: Unavailable.
        """
        await asked(streams.set_history(self._js, n))

    async def stored_at(self, revision: int = 0) -> datetime | None:
        """Return when the server stored this message, or the newest; None when there is none.

        Errors: Unavailable.
        """
        return await asked(streams.stored_at(self._js, revision))

    async def purge_removed(self, subject: str, revision: int) -> None:
        """Take a removed resource's messages out of the stream, up to its tombstone at this revision.

        What was written on the subject after the tombstone stays.

        Errors: Unavailable.
        """
        await asked(streams.purge_up_to(self._js, subject, revision))


async def asked(answer: Awaitable[T]) -> T:
    """Return what the server answers.

    Errors: Unavailable.
    """
    try:
        return await answer
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"NATS does not answer about its streams: {error}") from error
