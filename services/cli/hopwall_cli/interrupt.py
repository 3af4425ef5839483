"""Ctrl-C and SIGTERM for commands that stay: the first ends the work in order, more change nothing."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until_interrupted(work: Coroutine[Any, Any, T]) -> T | None:
    """Return what the work returns, or None when a signal ended it; its `finally` parts have run."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="work")
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            task.cancel()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            return None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
