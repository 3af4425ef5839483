"""Drive the responder of one namespace: one long-lived process, many probes at once."""

import asyncio
import contextlib
import itertools
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hopwall_cli.child import bound
from hopwall_cli.lab.netns import inside
from hopwall_cli.lab.responder import DEFAULT_PORT
from hopwall_cli.lab.topology import LabError
from hopwall_runtime import clock

#: Beyond a probe's own time: until the answer is here on a busy machine.
_GRACE_S = 60.0
_START_S = 60.0
#: Of a probe that nobody answers: so often it is asked again, where an end of it was late; and who answers an order
#: within this share of a probe's time has had the time to answer the probe.
_TRIES, _AWAKE = 5, 0.25


class Prober:
    """The responder of one namespace. Use it as `await start()` … `await close()`."""

    def __init__(self, namespace: str, *, log: Path) -> None:
        """Name the namespace, and the file for what the process has to complain about."""
        self._log = log
        self.namespace = namespace
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it does not run."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and wait until it listens.

        Errors: LabError when it does not.
        """
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        self._waiting[0] = ready
        argv = inside(self.namespace, [sys.executable, "-m", "hopwall_cli.lab.responder"])
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *bound(argv), stdin=PIPE, stdout=PIPE, stderr=log, start_new_session=True
            )
        # A loop method, not a TaskGroup: the reader lives until `close`, across the callers' tasks.
        self._reader = loop.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(_START_S):
                await ready
        except TimeoutError as error:
            await self.close()
            raise LabError(f"the responder in {self.namespace} does not start.") from error

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader  # ends with the output of the process
        self._fail_waiting()

    async def ask(
        self, op: str, fields: Mapping[str, object], *, timeout_s: float = 0.8
    ) -> dict[str, Any]:
        """Give an order and return its answer.

        Errors: LabError when the process is gone or silent.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise LabError(f"the responder in {self.namespace} does not run.")
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        order = {"id": number, "op": op, "timeout": timeout_s, **fields}
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await future
        except (TimeoutError, OSError) as error:
            raise LabError(f"the responder in {self.namespace} does not answer.") from error
        finally:
            self._waiting.pop(number, None)

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.get(answer.pop("id"))
            if future is not None and not future.done():
                future.set_result(answer)
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LabError(f"the responder in {self.namespace} has ended."))
                future.exception()  # nobody may be waiting any more
        self._waiting.clear()


async def reached(
    near: Prober, far: Iterable[Prober], op: str, probe: Mapping[str, object], timeout_s: float
) -> bool:
    """Tell whether a probe is answered.

    That it is not says something only where those who would answer ran meanwhile: else it is asked again.
    """
    ends = [end for end in far if end.pid]  # one may just be starting
    for _ in range(_TRIES):
        answer = await near.ask(op, probe, timeout_s=timeout_s)
        if answer["ok"]:
            return True
        asked_at = clock.monotonic()
        await asyncio.gather(*(end.ask("listen", {"port": DEFAULT_PORT}) for end in ends))
        if clock.monotonic() - asked_at < timeout_s * _AWAKE:
            break
    return False
