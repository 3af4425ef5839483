"""Whoever waits for `programmed`: the api's own fold of what calc and the hosts say, in a process that comes and goes.

Each write is waited for. When all writes up to a revision are said to be enforced, no host may do what only an
earlier state says: `World` holds packets against that, too.
"""

import asyncio
import re
from typing import cast

from hopwall_api.agent import Api
from hopwall_api.progress import Progress, Target
from hopwall_model.resources import Key
from hopwall_runtime.link import Link
from tests.simulator.bus import Bus, FakeLink

#: Why a host does not enforce what it has nevertheless done all for.
_ENDS = re.compile(r"^Host \S+ (refused|waits for) ")


class Waiter:
    """One api at a time, and what the apis have said so far.

    Shape: `until` is the last revision up to which every write was said to be enforced; -1 before any.
    """

    def __init__(self, bus: Bus) -> None:
        self.until = -1
        self._bus = bus
        self._waits: dict[int, Target] = {}
        self._newest = 0
        self._link: FakeLink | None = None
        self._task: asyncio.Task[None] | None = None

    def wait_for(self, key: Key, revision: int, *, removed: bool) -> None:
        """Note a write."""
        self._newest = revision
        self._waits[revision] = Target(key, revision, removed)

    def start(self) -> None:
        """Start the api, or start it anew, with no memory."""
        self.kill()
        self._link = FakeLink(self._bus, "api")
        self._bus.links[self._link] = None
        api = Api(cast(Link, self._link))
        self._task = asyncio.get_running_loop().create_task(self._run(api))

    def kill(self) -> None:
        """Kill the api."""
        if self._task is not None and self._link is not None:
            self._link.close_now()
            self._task.cancel()

    async def _run(self, api: Api) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(api.follow_events())
            tasks.create_task(api.follow_statuses())
            while True:
                self._look(api)
                await api.news.wait(3600.0)

    def _look(self, api: Api) -> None:
        for revision, target in sorted(self._waits.items()):
            if _is_through(api.progress([target])):
                del self._waits[revision]
        self.until = min(self._waits, default=self._newest + 1) - 1


def _is_through(progress: Progress) -> bool:
    """Tell whether all hosts have it, as far as it goes: what they refuse, or have no interface for, is closed."""
    if progress.reached("programmed"):
        return True
    known = progress.conditions[-1].status == "False"
    return known and all(_ENDS.search(one.reason) for one in progress.laggards)
