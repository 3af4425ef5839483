"""A server whose disk is full, whose store is an older one or another one; deliveries that go wrong on their way."""

import asyncio
import contextlib
import random
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

from hopwall_cli.nats_server import NatsServer, StuckStore
from hopwall_model import codec, topics
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Metadata, Node
from hopwall_runtime import clock
from hopwall_runtime import link as link_module
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import CaughtUp, Follower, Record, Reset
from hopwall_runtime.link import Append, Conflict, Link, Unavailable
from tests.faults.modes_store import one_of_each
from tests.faults.rig import Load, SmallDisk, add, judged, pause, shown_by
from tests.faults.table import BROKER_ALONE, Mode, Result, Run, Trial
from tests.support.ports import free_port


async def _get(socket: Path, path: str) -> tuple[int, Any]:
    connector = aiohttp.UnixConnector(str(socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://api{path}") as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def _until_refused(load: Load) -> None:
    """Wait until no write has been taken for a while."""
    while any(w.outcome == "acked" for w in load.writes[-8:]) or len(load.writes) < 8:
        await asyncio.sleep(0.05)


async def disk_full(trial: Trial) -> Result:
    """Fill the disk under the store; make room; start the server again as `hopwall up` does."""
    result = Result()
    disk = SmallDisk(trial.folder / "small", 24)
    ballast = disk.mount / "ballast"
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=disk.mount)
    log = disk.mount / "nats-server.log"
    try:
        async with one_of_each(trial.folder, server) as (_, _, socket):
            load = Load(socket)
            async with load.running():
                while trial.goes_on():
                    await load.recovered(clock.monotonic())
                    await asyncio.sleep(pause(trial.chance, 0.3, 1.0))
                    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                        while file.write(b"x" * 65536) == 65536:
                            pass
                    await _until_refused(load)
                    status, _ = await _get(socket, "/v1/nodes")
                    if status != 200:
                        result.faults.append(f"reads answer {status} while the disk is full")
                    ballast.unlink()
                    since = clock.monotonic()
                    stuck = StuckStore()
                    for line in log.read_text(errors="replace").splitlines():
                        stuck.hear(line)
                    if stuck.may_restart(10**9):
                        await server.stop()
                        await server.start()
                    result.recovery.append(await load.recovered(since))
                    result.tries += 1
            add(result, await judged(load, [server.url], await shown_by(socket)))
    finally:
        disk.close()
    result.note = "reads answered meanwhile; recovery: from room to the next acknowledged write"
    return result


async def older_store(trial: Trial) -> Result:
    """Put an older copy of the store in place: noticed, by watchers and by calc, and nothing old is shown."""
    result = Result()
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    store = trial.folder / "nats" / "store"
    async with one_of_each(trial.folder, server) as (_, _, socket), _asking(server) as link:
        while trial.goes_on():
            await _wrote(socket, f"old{result.tries}")
            await _computed(socket, f"old{result.tries}")
            await server.stop()
            copy = trial.folder / f"copy{result.tries}"
            if trial.chance.random() < 0.7:
                shutil.copytree(store, copy)
            else:
                copy.mkdir()  # an empty server in its place
            await server.start()
            n = trial.chance.randrange(1, 5)
            for i in range(n):
                await _wrote(socket, f"lost{result.tries}-{i}")
            # Who has not seen what is lost has nothing to begin anew for.
            await _computed(socket, f"lost{result.tries}-{n - 1}")
            before = await _epoch(link)
            await server.stop(signal.SIGKILL)
            shutil.rmtree(store)
            copy.rename(store)
            since = clock.monotonic()
            await server.start()
            await _forgotten(socket, f"lost{result.tries}-0")
            await _wrote(socket, f"new{result.tries}")
            await _computed(socket, f"new{result.tries}")
            result.recovery.append(clock.monotonic() - since)
            if await _epoch(link, other_than=before) == before:
                result.faults.append(
                    f"calc goes on in the epoch of the other store, try {result.tries}"
                )
            result.tries += 1
    result.note = "the store's loss is noticed, no stale value shown, a new epoch begun"
    return result


@contextlib.asynccontextmanager
async def _asking(server: NatsServer) -> AsyncIterator[Link]:
    link = Link("asks")
    await link.connect(CommonSettings(nats_url=(server.url,)))
    try:
        yield link
    finally:
        await link.close()


async def _epoch(link: Link, other_than: str = "") -> str:
    """Return which epoch calc speaks of, as the server has it: not what was heard, which takes a connection.

    Waits for another one than a given, for so long as calc needs at most to say again where it is.
    """
    found = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(120):
            while found in ("", other_than):
                with contextlib.suppress(Unavailable):
                    async for status, _ in link.last_status(topics.CALC_STATUS):
                        found = status.epoch
                await asyncio.sleep(0.05)
    return found


async def _wrote(socket: Path, name: str) -> int:
    """Store a Node, trying until it is acknowledged."""
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(120):
        while True:
            document = {"kind": "Node", "metadata": {"name": name, "labels": {"token": name}}}
            async with session.put(f"http://api/v1/nodes/{name}", json=document) as answer:
                said = await answer.json(content_type=None)
                if answer.status in (200, 201):
                    return int(said["metadata"]["resourceVersion"])
                if answer.status == 503 and "Retry-After" not in answer.headers:
                    raise AssertionError("a 503 that does not say when to try again")
            await asyncio.sleep(0.05)


async def _forgotten(socket: Path, name: str) -> None:
    """Wait until reads do not show what the store does not hold."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                status, _ = await _get(socket, f"/v1/nodes/{name}")
                if status == 404:
                    return
            await asyncio.sleep(0.02)


async def _computed(socket: Path, name: str) -> None:
    """Wait until the API says that calc has resolved the write."""
    async with asyncio.timeout(120):
        while True:
            status, said = await _get(socket, f"/v1/nodes/{name}")
            if status == 200:
                conditions = {c["type"]: c["status"] for c in said["status"]["conditions"]}
                if conditions.get("Computed") == "True":
                    return
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------- deliveries


class _Rough(asyncio.Queue[Any]):
    """A way for deliveries on which some get lost, come twice, or overtake each other."""

    chance = random.Random(1)
    share = 0.02

    def put_nowait(self, item: Any) -> None:
        fate = self.chance.random()
        if item is None or fate > self.share:
            super().put_nowait(item)
        elif fate > self.share * 2 / 3:
            super().put_nowait(item)
            super().put_nowait(item)
        elif fate > self.share / 3 and self.qsize():
            before = self.get_nowait()
            super().put_nowait(item)
            super().put_nowait(before)


class _RoughFollower(Follower):
    """A follower whose deliveries come this way."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._queue = _Rough()


@contextlib.asynccontextmanager
async def _rough() -> AsyncIterator[None]:
    with mock.patch.object(link_module, "Follower", _RoughFollower):
        yield


async def rough_deliveries(trial: Trial) -> Result:
    """Follow over such a way while much is written; the fold must come to what is stored."""
    result = Result()
    _Rough.chance = trial.chance
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    await server.start()
    writer, reader = Link("writer"), Link("reader")
    for link in (writer, reader):
        await link.connect(CommonSettings(nats_url=(server.url,)))
    await writer.ensure_streams()
    folded: dict[str, int] = {}
    try:
        async with _rough(), asyncio.TaskGroup() as tasks:
            folding = tasks.create_task(_fold(reader.follow(), folded))
            wanted: dict[str, int] = {}
            while trial.goes_on():
                for _ in range(200):
                    await _some_write(writer, trial.chance, wanted)
                since = clock.monotonic()
                async with asyncio.timeout(120):
                    while folded != {name: rev for name, rev in wanted.items() if rev > 0}:
                        await asyncio.sleep(0.01)
                result.recovery.append(clock.monotonic() - since)
                result.tries += 1
            folding.cancel()
    finally:
        for link in (writer, reader):
            await link.close()
        await server.stop()
    result.note = "2 % of deliveries lost, doubled or swapped; 200 writes a try"
    return result


async def _some_write(link: Link, chance: random.Random, wanted: dict[str, int]) -> None:
    """Set or remove one of some Nodes; `wanted` has each one's revision, negative when it is gone."""
    name = f"n{chance.randrange(40)}"
    key = Key("Node", "", name)
    last = wanted.get(name, 0)
    gone = last > 0 and chance.random() < 0.3
    event = (
        ResourceRemoved(key=key)
        if gone
        else ResourceSet(resource=Node(metadata=Metadata(name=name)))
    )
    write = Append(
        subject=topics.event_subject(key), body=codec.encode(event), expected=abs(last), headers={}
    )
    with contextlib.suppress(Conflict, Unavailable):
        (revision,) = await link.append([write])
        wanted[name] = -revision if gone else revision


async def _fold(followed: AsyncIterator[list[Any]], into: dict[str, int]) -> None:
    """Fold as a service does: a snapshot replaces all at its end."""
    loading: dict[str, int] | None = None
    async for items in followed:
        for item in items:
            if isinstance(item, Reset):
                loading = {}
            elif isinstance(item, CaughtUp) and loading is not None:
                into.clear()
                into.update(loading)
                loading = None
            elif isinstance(item, Record):
                where = into if loading is None else loading
                name = item.event.key.name
                if isinstance(item.event, ResourceSet):
                    where[name] = item.revision
                else:
                    where.pop(name, None)


def _mode(name: str, what: str, run: Run, covers: tuple[str, ...]) -> Mode:
    return Mode(name, what, run, covers, BROKER_ALONE, 0.5, where="tests/faults/modes_broker.py")


MODES = (
    _mode("disk full", "and room again; no write is half there", disk_full, ("B6",)),
    _mode("older or empty store", "as API and calc see it", older_store, ("B5", "B8")),
    _mode("rough deliveries", "2 % lost, doubled, swapped", rough_deliveries, ("B4",)),
)
