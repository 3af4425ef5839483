"""The processes of a lab: kept running, ended by name, and all ended in the right order."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from hopwall_cli.lab import netns
from hopwall_cli.supervisor import Child, Say

_OURS = ("api", "calc", "dataplane")


class Services:
    """Children by name, each in a namespace, each with its log."""

    def __init__(self, say: Say) -> None:
        self.children: dict[str, Child] = {}
        self._say = say
        self._kept: dict[str, asyncio.Task[None]] = {}

    def keep(self, name: str, namespace: str, argv: Sequence[str], *, log: Path) -> None:
        """Start a process and keep it running."""
        is_ours = name.partition("-")[0] in _OURS
        command = netns.inside(namespace, argv)
        child = Child(name, command, say=self._say, log=log, is_ours=is_ours)
        self.children[name] = child
        # A loop method, not a TaskGroup: services live across the tasks that enter and leave the lab.
        self._kept[name] = asyncio.get_running_loop().create_task(child.keep(), name=name)

    async def until(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for the work, or for a service that refuses to run, whichever is first."""
        waiting = asyncio.get_running_loop().create_task(work)
        try:
            kept = self._kept.values()
            await asyncio.wait([waiting, *kept], return_when=asyncio.FIRST_COMPLETED)
            for task in kept:
                if task.done():
                    task.result()
            await waiting
        finally:
            waiting.cancel()

    async def end(self, *names: str) -> None:
        """End processes that are no longer wanted, at once, and forget them."""
        tasks = [self._kept.pop(name) for name in names if name in self._kept]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            self.children.pop(name, None)

    async def end_all(self, *, last: str) -> None:
        """End all, and one after all others: they may still have something to say to it."""
        await self.end(*(name for name in self.children if name != last))
        await self.end(last)
