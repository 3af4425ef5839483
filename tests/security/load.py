"""An API process of its own under fire: raw connections against it, and another client's times meanwhile."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hopwall_runtime import clock
from tests.api.caller import node
from tests.support.ports import free_port

Attack = Callable[["Victim"], Awaitable[None]]


@dataclass
class Victim:
    """One API process on loopback, and its memory."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss_mb(self) -> float:
        """Its memory that is in use."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def spent_s(self) -> float:
        """The processor time it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def n_files(self) -> int:
        """Its open descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a raw connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass
class Seen:
    """What the other client met: what its requests cost, its failures, and the most memory.

    Units: `times` are seconds of the API's own processor time, from the begin of a request to its answer: how long
           that takes on the clock is also the other processes' doing. One that is not worked at runs into its time-out.
    """

    times: list[float]
    failures: list[str]
    rss_mb: float = 0.0

    @property
    def p99_s(self) -> float:
        """The time that one of a hundred requests exceeds."""
        return sorted(self.times)[int(len(self.times) * 0.99) - 1]


def raise_limit(n: int) -> None:
    """Allow this process that many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        most = n if hard == resource.RLIM_INFINITY else min(n, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        assert most == n, f"this machine allows {hard} open files"


@asynccontextmanager
async def victim(nats_url: str, *flags: str, log: Path | None = None) -> AsyncIterator[Victim]:
    """Run `hopwall-api` as a process until the block ends; with `log` its words go there."""
    port = free_port()
    with (log or Path("/dev/null")).open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "hopwall_api", "--nats-url", nats_url],
            *["--listen", f"127.0.0.1:{port}", "--log-level", "error", *flags],
            stderr=words,
        )
    one = Victim(port, process.pid)
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while not await _ready(session, one):
                await asyncio.sleep(0.05)
            async with session.put(f"{one.url}/v1/nodes/n", json=node("n")) as answer:
                assert answer.status in (200, 201)
        yield one
    finally:
        process.terminate()
        await process.wait()


async def _ready(session: aiohttp.ClientSession, one: Victim) -> bool:
    try:
        async with session.get(f"{one.url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def other_client(one: Victim, seen: Seen, end: asyncio.Event) -> None:
    """Read, write and connect anew, one request after another, until the end."""
    n = 0
    while not end.is_set():
        async with aiohttp.ClientSession() as session:
            for _ in range(5):  # each connection serves five requests
                n += 1
                begun = one.spent_s
                try:
                    await _one_request(session, one, n)
                except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                    seen.failures.append(repr(error))
                seen.times.append(one.spent_s - begun)
                seen.rss_mb = max(seen.rss_mb, one.rss_mb)
                await asyncio.sleep(0.01)


async def _one_request(session: aiohttp.ClientSession, one: Victim, n: int) -> None:
    url, timeout = f"{one.url}/v1/nodes/n", aiohttp.ClientTimeout(total=60)
    if n % 3:
        async with session.get(url, timeout=timeout) as answer:
            assert answer.status == 200, answer.status
    else:
        async with session.put(url, json=node("n", n=str(n)), timeout=timeout) as answer:
            assert answer.status == 200, answer.status


async def measured(one: Victim, attack: Attack | None, *, at_least_s: float = 1.0) -> Seen:
    """Return what another client meets during an attack, or for a while in peace."""
    seen, end = Seen([], []), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other_client(one, seen, end))
        begun = clock.monotonic()
        try:
            if attack is not None:
                await attack(one)
            await asyncio.sleep(max(0.0, at_least_s - (clock.monotonic() - begun)))
        finally:
            end.set()
    return seen
