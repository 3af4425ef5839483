"""From `main()` to exit code: logging, event loop, signals, one TaskGroup.

Exit codes: 0 after SIGTERM or SIGINT; 1 after a fault (the traceback is logged); 2 for a wrong setting.
Shutdown cancels; a service leaves the kernel as it is.
"""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Awaitable, Callable

import uvloop

from hopwall_runtime import logs
from hopwall_runtime.config import CommonSettings, ConfigError

log = logging.getLogger(__name__)

#: Exit code for settings that cannot be used: starting again is no use.
WRONG_SETTING = 2

#: Allocations between two looks for cycles. Our values are trees: the default of 700 spends a third of a
#: large batch on looking in vain (10,000 routes: 1.5 against 1.1 of the bare kernel's time).
_COLLECT_EVERY = 50_000


def tune_collector() -> None:
    """Let Python look for cycles less often; for services and for benchmarks that speak of them."""
    gc.set_threshold(_COLLECT_EVERY, 20, 100)


def run(service: Callable[[], Awaitable[None]], settings: CommonSettings) -> int:
    """Run one service until it ends, fails or is told to stop; return the exit code."""
    tune_collector()
    # What a crash would leave on disk has keys and tokens in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs.configure(settings.log_level, settings.log_format)
    # loop_factory, not uvloop.install(): pyroute2 makes loops of its own and cannot live on uvloop.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(service))


async def _supervise(service: Callable[[], Awaitable[None]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    code = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(_run(service, stop), name="service")
            await stop.wait()
            work.cancel()
    except* ConfigError as group:
        log.error("%s", _first(group))
        code = WRONG_SETTING
    except* Exception as group:
        log.error("the service failed", exc_info=group)
        code = 1
    return code


def _first(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


async def _run(service: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    try:
        await service()
    finally:
        stop.set()
