"""What an agent puts in front of a chain's former lines, as others see it: what packets meet, and when the rest is gone."""

import asyncio
import re
import time
from collections.abc import Callable

_GUARD = re.compile(r"-A (hw-\S+)(?: -m comment --comment \S+)? -j RETURN")


def live(saved: str) -> str:
    """Return a printed table without the lines that no packet meets, and the guards before them."""
    guarded: set[str] = set()
    kept = []
    for line in saved.splitlines():
        if found := _GUARD.match(re.sub(r"^\[\d+:\d+\] ", "", line)):
            guarded.add(found[1])
        chain = line.split(" ")[1:2] if line.startswith("-A ") else []
        if not guarded.intersection(chain):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


async def until_swept(save: Callable[[], str], timeout_s: float = 20.0) -> str:
    """Wait until nothing is left behind a guard; return the printed table."""
    ends_at = time.monotonic() + timeout_s
    while live(saved := save()) != saved:
        assert time.monotonic() < ends_at, "lines that nothing meets stay"
        await asyncio.sleep(0.05)
    return saved
