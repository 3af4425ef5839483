"""One more replica of the API, without HTTP, that hears of nothing while it is held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hopwall_api.agent import Api
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.api.caller import PATIENCE_S, Caller


class Lagging:
    """Its state, and what holds it."""

    def __init__(self, link: Link) -> None:
        self.api = Api(link)
        self._link = link
        self._free = asyncio.Event()
        self._free.set()

    async def follow(self) -> None:
        """Fold the stream, when it may."""
        async for items in self._link.follow():
            await self._free.wait()
            self.api.fold(items)

    def hold(self) -> None:
        """Hear of nothing from now on."""
        self._free.clear()

    def free(self) -> None:
        """Hear of what was missed, and of what comes."""
        self._free.set()


@asynccontextmanager
async def lagging_api(nats_url: str, caller: Caller) -> AsyncIterator[Lagging]:
    """Run a replica that has heard what the caller's has; it dies at the end of the block."""
    link = Link("api")
    await link.connect(CommonSettings(nats_url=(nats_url,)))
    one = Lagging(link)
    revision = int((await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"])
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(one.follow())
        async with asyncio.timeout(PATIENCE_S):
            while not one.api.store.in_sync or one.api.store.revision < revision:
                await asyncio.sleep(0.01)
        try:
            yield one
        finally:
            following.cancel()
    await link.close()
