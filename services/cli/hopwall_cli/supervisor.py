"""Keep child processes running: start, pass on what they say, start again with a pause, end cleanly.

A child dies with this process, whatever kills it (`child`). Ending a child never cleans the kernel: that
is the child's own rule.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from hopwall_cli.child import bound
from hopwall_runtime import clock

Say = Callable[[str], None]

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
#: A child that ran this long was healthy: the next pause is the first again.
HEALTHY_S = 10.0
END_S = 10.0
_WRONG_SETTING = 2  # hopwall_runtime.main: exit code of a process that refuses its settings


class ChildRefused(RuntimeError):
    """A child refuses its settings, so starting it again is no use; the text says which child."""


class Child:
    """One process that is wanted at all times while `keep` runs."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        say: Say,
        log: Path | None = None,
        is_ours: bool = True,
    ) -> None:
        """Describe the child; with `log` its output goes to that file, else to `say`.

        One that is not ours may mean anything by the code with which ours refuse their settings.
        """
        self.name = name
        self.starts = 0
        self._argv = list(argv)
        self._say = say
        self._log = log
        self._is_ours = is_ours
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else 0

    def signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def keep(self) -> None:
        """Run the child until cancelled.

        Errors: ChildRefused when it ends with the code for wrong settings.
        """
        pause = FIRST_PAUSE_S
        while True:
            started = clock.monotonic()
            try:
                code = await self._once()
                ended = f"ended {_how(code)}"
            except OSError as error:  # too many processes or open files: it passes
                code, ended = -1, f"could not be started ({error.strerror})"
            if code == _WRONG_SETTING and self._is_ours:
                raise ChildRefused(f"{self.name} refuses its settings; see its last line.")
            if clock.monotonic() - started > HEALTHY_S:
                pause = FIRST_PAUSE_S
            self._say(f"{self.name} {ended}; starting it again in {pause:.1f} s.")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _once(self) -> int:
        async with self._output() as (file, pump):
            process = await asyncio.create_subprocess_exec(
                *bound(self._argv),
                stdin=DEVNULL,
                stdout=file,
                stderr=STDOUT,
                start_new_session=True,
            )
            file.close()
            self._process = process
            self.starts += 1
            try:
                code = await process.wait()
            finally:
                await end(process)
            await pump()
            return code

    @asynccontextmanager
    async def _output(self) -> AsyncIterator[tuple[BinaryIO, Callable[[], Awaitable[None]]]]:
        """Open what the child writes to; yield it, and how to wait for the last that it said.

        A pipe of our own: asyncio's would make `wait` wait for whoever holds the pipe, not for the child.
        """
        if self._log is not None:
            with self._log.open("ab") as file:
                yield file, _nothing
            return
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
        )
        with os.fdopen(write_end, "wb") as file:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(reader), name=f"output of {self.name}")

                async def last_words() -> None:
                    await asyncio.wait([pump], timeout=1.0)

                try:
                    yield file, last_words
                finally:
                    pump.cancel()
                    transport.close()

    async def _pump(self, reader: asyncio.StreamReader) -> None:
        while line := await _line(reader):
            self._say(f"{self.name:<10} | {line.decode(errors='replace').rstrip()}")


async def _nothing() -> None:
    """Wait for nothing."""


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; one that is too long is dropped, not a reason to stop reading."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue


async def end(process: Process) -> None:
    """End a process with its helpers: asked first, then made to."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # In this order: a signal to one that has just died reaps it behind the loop's back.
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    # What it left of its group: each child leads a session of its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with code {code}"
