"""Wakes BIRD several times a second: the only cure from outside for a loop that sleeps on work.

BIRD 2.0 runs its events, then its long work, and looks whether an event is left from before that work; then it
sleeps until a packet, a timer, or three seconds. What the long work has made ready to be sent waits that long: the
routes a peer asks for again because its filter lets in more (ROUTE-REFRESH, three seconds measured), or those of a
session that has just come up. Any question ends the sleep.

It refuses to read answers for anything, and to wake a BIRD that nobody wants anything of.

Source: io_loop() in sysdep/unix/io.c of BIRD 2.0.12: ev_run_list(), ev_run_list_limited(), poll_tout.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from hopwall_dataplane.bgp.control import Control, Unreachable

#: How long what is ready may wait: a fifth of what a move may take.
WAKE_S = 0.2
#: Before BIRD is looked for again, where there is none.
_AWAY_S = 1.0
#: The least that BIRD can be asked.
_QUESTION = "eval 1"


async def keep_awake(socket: Path, wanted: Callable[[], bool]) -> None:
    """Wake BIRD as long as something is wanted of it, until cancelled.

    Cost: 2 ms of a processor a second, of both sides together.
    """
    while True:
        if wanted():
            with contextlib.suppress(Unreachable):
                async with Control(socket) as bird:
                    while wanted():
                        await bird.ask(_QUESTION)
                        await asyncio.sleep(WAKE_S)
        await asyncio.sleep(_AWAY_S)
