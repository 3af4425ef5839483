"""The only code that speaks to BIRD: questions and answers over its control socket.

It refuses to know what a configuration is. One connection serves one round of questions: BIRD takes any number,
and a connection kept would not survive its restart.

Source: BIRD 2.0 User's Guide, "Remote control"; the socket gives full control, so it is for root alone.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from hopwall_dataplane.bgp.parse import Reply, is_last, reply

#: A table of many sessions is long, and a configuration of many takes a while to be read.
ANSWER_S = 20.0
#: `show protocols all` of 5,000 sessions is 5 MB.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Unreachable(OSError):
    """BIRD does not answer; the text says why."""


class Control(AbstractAsyncContextManager["Control"]):
    """One connection to BIRD.

    Errors: every call raises `Unreachable`.
    """

    def __init__(self, socket: Path) -> None:
        """Name the socket; nothing is opened before the `async with`."""
        self._path = socket
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        """Connect and take the greeting."""
        try:
            async with asyncio.timeout(ANSWER_S):
                self._reader, self._writer = await asyncio.open_unix_connection(self._path)
                await self._answer()
        except (OSError, TimeoutError) as error:
            self._close()
            raise Unreachable(f"BIRD does not answer at {self._path}: {_why(error)}.") from error
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def ask(self, question: str) -> Reply:
        """Send one line and return the answer, which may be an error of BIRD's."""
        assert self._writer is not None
        if "\n" in question:
            raise ValueError("A question is one line.")
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(f"{question}\n".encode())
                await self._writer.drain()
                return await self._answer()
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"BIRD broke off at {self._path}: {_why(error)}.") from error

    async def _answer(self) -> Reply:
        assert self._reader is not None
        lines: list[str] = []
        n_bytes = 0
        while not lines or not is_last(lines[-1]):
            try:
                raw = await self._reader.readline()
            except ValueError as error:
                raise Unreachable("its answer has an endless line") from error
            n_bytes += len(raw)
            if not raw or n_bytes > _MAX_ANSWER_BYTES:
                raise Unreachable("the connection ended" if not raw else "its answer is endless")
            lines.append(raw.decode(errors="replace").rstrip("\n"))
        try:
            return reply(lines)
        except ValueError as error:
            raise Unreachable(str(error)) from error


def _why(error: BaseException) -> str:
    if isinstance(error, Unreachable):
        return str(error)
    return (getattr(error, "strerror", None) or str(error)) or "no answer in time"
