"""Keep child processes running: start, pass on what they say, start again with a pause, end cleanly.

A child dies with this process, whatever kills it (`child`). Ending a child never cleans the kernel: that
is the child's own rule.
"""

import asyncio
import contextlib
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from pathlib import Path

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
        self, name: str, argv: Sequence[str], *, say: Say, log: Path | None = None
    ) -> None:
        """Describe the child; with `log` its output goes to that file, else to `say`."""
        self.name = name
        self.starts = 0
        self._argv = list(argv)
        self._say = say
        self._log = log
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
            code = await self._once()
            if code == _WRONG_SETTING:
                raise ChildRefused(f"{self.name} refuses its settings; see its last line.")
            if clock.monotonic() - started > HEALTHY_S:
                pause = FIRST_PAUSE_S
            self._say(f"{self.name} ended {_how(code)}; starting it again in {pause:.1f} s.")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _once(self) -> int:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(self._log.open("ab")) if self._log else PIPE
            process = await asyncio.create_subprocess_exec(
                *bound(self._argv), stdin=DEVNULL, stdout=out, stderr=STDOUT, start_new_session=True
            )
        self._process = process
        self.starts += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(process), name=f"output of {self.name}")
                code = await process.wait()
                # A helper of the child may hold the pipe open: what is not said now is lost.
                await asyncio.wait([pump], timeout=0.2)
                pump.cancel()
            return code
        finally:
            await end(process)

    async def _pump(self, process: Process) -> None:
        if process.stdout is None:
            return
        while line := await _line(process.stdout):
            self._say(f"{self.name:<10} | {line.decode(errors='replace').rstrip()}")


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; one that is too long is dropped, not a reason to stop reading."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue


async def end(process: Process) -> None:
    """End a process: asked first, then made to."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with code {code}"
