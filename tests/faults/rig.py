"""What the modes break: brokers, disks and services as processes; and who writes meanwhile."""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from hopwall_cli.child import bound
from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_model.events import ResourceSet
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.faults.histories import Judgement, Outcome, Stored, Write, judge
from tests.faults.table import Result

#: A subject keeps 65 values: fewer writes of one key than that, and the stream holds all of them.
_WRITES_OF_A_KEY = 40
_ANSWER_S = 20.0
_loads = itertools.count(1)


# ---------------------------------------------------------------- processes


class Service:
    """One of ours as a process, kept running: what was killed is started again."""

    def __init__(self, name: str, *flags: str, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self._argv = [*prefix, sys.executable, "-m", f"hopwall_{name}", *flags]
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                bound(self._argv), stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; after the default it is gone."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process id of its present life."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process is not None and self._process.poll() is None


class LoopDisk:
    """An ext4 in a file: what was not synced is not in the file, so a copy of it is the disk after a power cut."""

    def __init__(self, folder: Path, mount: Path, mib: int = 192) -> None:
        self.mount = mount
        self._folder = folder
        self._n = 0
        folder.mkdir(parents=True)
        mount.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(mib * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True)
        self._attach()

    @property
    def _image(self) -> Path:
        return self._folder / f"disk{self._n}.img"

    def _attach(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.mount)], check=True)

    def keep_as_it_is(self) -> Path:
        """Copy what has reached the disk; its users must stand still meanwhile."""
        copy = self._folder / f"disk{self._n + 1}.img"
        subprocess.run(["cp", "--sparse=always", str(self._image), str(copy)], check=True)
        return copy

    def come_back(self) -> None:
        """Go on with the last copy: all that was only in memory is gone."""
        subprocess.run(["umount", str(self.mount)], check=True)
        self._image.unlink()
        self._n += 1
        self._attach()

    def close(self) -> None:
        """Take it down."""
        subprocess.run(["umount", "-l", str(self.mount)], check=False)
        self._image.unlink(missing_ok=True)


class SmallDisk:
    """A tmpfs that can become full, and larger again."""

    def __init__(self, mount: Path, mib: int) -> None:
        self.mount = mount
        mount.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "hwt", str(mount)]
        subprocess.run(command, check=True)

    def grow(self, mib: int) -> None:
        """Make room."""
        command = ["mount", "-o", f"remount,size={mib}m", str(self.mount)]
        subprocess.run(command, check=True)

    def close(self) -> None:
        """Take it down."""
        subprocess.run(["umount", "-l", str(self.mount)], check=False)


# ---------------------------------------------------------------- who writes


class Load:
    """Writers at one API, who all the time replace what they have seen, and remember what became of it."""

    def __init__(self, socket: Path, *, n_writers: int = 4, pause_s: float = 0.0) -> None:
        self.writes: list[Write] = []
        #: What its keys and tokens begin with: one after the other may write to the same store.
        self.label = f"l{next(_loads)}-"
        self._socket = socket
        self._n_writers = n_writers
        self._pause_s = pause_s
        self._seen: dict[str, int] = {}
        self._n = 0
        self._stop = False
        self.last_ack = clock.monotonic()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Write while the block runs."""
        self._stop = False
        connector = aiohttp.UnixConnector(str(self._socket), limit=0)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for i in range(self._n_writers):
                tasks.create_task(self._write_on(session, i))
            try:
                yield self
            finally:
                self._stop = True

    async def recovered(self, since: float, within_s: float = 180.0) -> float:
        """Wait until a write that began after `since` was acknowledged; return how long after `since`."""
        async with asyncio.timeout(within_s):
            while not any(
                w.outcome == "acked" and w.begun > since for w in reversed(self.writes[-400:])
            ):
                await asyncio.sleep(0.005)
        return clock.monotonic() - since

    async def _write_on(self, session: aiohttp.ClientSession, writer: int) -> None:
        while not self._stop:
            self._n += 1
            shared = self._n % 3 == 0
            generation = len(self.writes) // _WRITES_OF_A_KEY
            key = self.label + (f"s{generation}" if shared else f"w{writer}-{generation}")
            await self._write(session, key, f"{self.label}t{self._n}")
            await asyncio.sleep(self._pause_s)

    async def _write(self, session: aiohttp.ClientSession, key: str, token: str) -> None:
        base = self._seen.get(key, 0)
        only_if = {"If-Match": f'"{base}"'} if base else {"If-None-Match": "*"}
        document = {
            "kind": "GlobalNetworkSet",
            "metadata": {"name": key, "labels": {"token": token}},
            "spec": {"nets": ["192.0.2.0/24"]},
        }
        begun = clock.monotonic()
        outcome: Outcome = "unknown"
        revision = 0
        refusal = ""
        try:
            async with session.put(
                f"http://api/v1/globalnetworksets/{key}", json=document, headers=only_if
            ) as answer:
                said = await answer.json(content_type=None)
                outcome, revision = _outcome(answer.status, said)
                refusal = f"{answer.status}: {said.get('detail')}" if outcome == "refused" else ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            await asyncio.sleep(0.02)
        self.writes.append(
            Write(
                key=key,
                token=token,
                base=base,
                begun=begun,
                ended=clock.monotonic(),
                outcome=outcome,
                revision=revision,
                answer=refusal,
            )
        )
        if outcome == "acked":
            self._seen[key] = revision
        else:
            await self._look(session, key)

    async def _look(self, session: aiohttp.ClientSession, key: str) -> None:
        """See what is there now, so that the next write can replace it."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
            async with session.get(f"http://api/v1/globalnetworksets/{key}") as answer:
                said = await answer.json(content_type=None)
                if answer.status == 200:
                    self._seen[key] = int(said["metadata"]["resourceVersion"])
                elif answer.status == 404:
                    self._seen.pop(key, None)


def _outcome(status: int, said: dict[str, object]) -> tuple[Outcome, int]:
    if status in (200, 201):
        metadata = said["metadata"]
        assert isinstance(metadata, dict)
        return "acked", int(metadata["resourceVersion"])
    if status == 503 and "nothing was stored" not in str(said.get("detail")):
        return "unknown", 0
    if status >= 500 and status != 503:
        return "unknown", 0
    return "refused", 0


# ---------------------------------------------------------------- what is stored


async def events_of(link: Link) -> list[Stored]:
    """Return every event that the stream holds of what a load writes."""
    inbox = link._nc.new_inbox()
    subscription = await link._nc.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
    config = ConsumerConfig(
        deliver_subject=inbox,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        num_replicas=1,
    )
    consumer = await link._js.add_consumer(topics.EVENTS_STREAM, config)
    found = []
    for _ in range(consumer.num_pending or 0):
        message = await subscription.next_msg(timeout=20)
        event = topics.EVENT.decode(message.data)
        if not isinstance(event, ResourceSet) or event.key.kind != "GlobalNetworkSet":
            continue
        if token := event.resource.metadata.labels.get("token"):
            found.append(
                Stored(
                    key=event.key.name,
                    token=token,
                    revision=message.metadata.sequence.stream,
                )
            )
    await subscription.unsubscribe()
    return found


async def shown_by(socket: Path, within_s: float = 180.0) -> dict[str, str]:
    """Return what reads show of each key, as soon as they are answered."""
    connector = aiohttp.UnixConnector(str(socket))
    async with asyncio.timeout(within_s), aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.get("http://api/v1/globalnetworksets") as answer:
                said = await answer.json(content_type=None)
                if answer.status == 200:
                    break
            await asyncio.sleep(0.1)
    labels = {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in said["items"]}
    return {name: mine["token"] for name, mine in labels.items() if "token" in mine}


async def judged(load: Load, urls: Sequence[str], shown: dict[str, str]) -> Judgement:
    """Judge a load by what the servers hold now."""
    link = Link("judge")
    await link.connect(CommonSettings(nats_url=tuple(urls)))
    try:
        end = clock.monotonic() + 60
        async with asyncio.timeout(180):
            while True:
                try:
                    stored = [
                        one for one in await events_of(link) if one.key.startswith(load.label)
                    ]
                    acked = max((w.revision for w in load.writes), default=0)
                    # A copy that lags is read until it has come up; one that never does has lost it.
                    late = max((one.revision for one in stored), default=0) < acked
                    if not late or clock.monotonic() > end:
                        mine = {k: v for k, v in shown.items() if k.startswith(load.label)}
                        return judge(load.writes, stored, mine)
                    await asyncio.sleep(0.5)
                except (NatsError, TimeoutError):  # the servers have not found together again yet
                    await asyncio.sleep(0.5)
    finally:
        await link.close()


def add(result: Result, found: Judgement) -> None:
    """Put a judgement into the result of a mode."""
    result.acked += found.acked
    result.lost += found.lost
    result.faults += found.faults


async def api_ready(socket: Path, within_s: float = 180.0) -> None:
    """Wait until the API says that it is ready."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                connector = aiohttp.UnixConnector(str(socket))
                async with (
                    aiohttp.ClientSession(connector=connector) as session,
                    session.get("http://api/readyz") as answer,
                ):
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.02)


def api_of(
    folder: Path, urls: Sequence[str], *, prefix: Sequence[str] = ()
) -> tuple[Service, Path]:
    """Return an API for these servers, and where it listens."""
    socket = folder / "api.sock"
    flags = ["--nats-url", ",".join(urls), "--listen", f"unix:{socket}"]
    return Service("api", *flags, folder=folder, prefix=prefix), socket


async def kill_nats(server: NatsServer, *, down_s: float) -> None:
    """Kill a server, and start it again after a while."""
    await server.stop(signal.SIGKILL)
    await asyncio.sleep(down_s)
    await server.start()


def pause(chance: random.Random, least: float, most: float) -> float:
    """Return a random time."""
    return chance.uniform(least, most)


def clear(folder: Path) -> None:
    """Remove what a mode has left."""
    shutil.rmtree(folder, ignore_errors=True)
