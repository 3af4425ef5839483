"""Floods, slow clients and large things against the API: others stay served, memory stays bounded."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hopwall_cli.nats_server import NatsServer
from tests.api.caller import node
from tests.security.load import Attack, Victim, measured, raise_limit, victim

pytestmark = [pytest.mark.nats, pytest.mark.timeout(600)]

HEAD = b"PUT /v1/nodes/n HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
GET = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
#: Of the API's processor time. Generous: the attacker runs in the measuring process, which may see an answer late.
SLOWEST_S = 5.0
MOST_MB = 800.0


@pytest.fixture
async def one(nats_server: NatsServer) -> AsyncIterator[Victim]:
    """Run an API with its default limits."""
    raise_limit(14_000)
    async with victim(nats_server.url) as running:
        yield running


async def large_body(one: Victim) -> None:
    """Announce 100 MB, and send some of it; and the same in chunks, which announce nothing."""
    for more in (b"Content-Length: 104857600\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        reader, writer = await one.open()
        writer.write(HEAD + more)
        answer = asyncio.get_running_loop().create_task(reader.readuntil(b"\r\n"))
        piece, sent = b"10000\r\n" + b" " * 65536 + b"\r\n", 0
        while b"chunked" in more and not answer.done() and sent < 104_857_600:
            with contextlib.suppress(ConnectionError):
                writer.write(piece)
                await writer.drain()
            sent += 65536
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert b" 413 " in await answer
        assert sent < 30_000_000
        writer.close()


async def expecting(one: Victim) -> None:
    """Ask first whether 100 MB may be sent."""
    reader, writer = await one.open()
    writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n")
    async with asyncio.timeout(60):
        assert b" 413 " in await reader.readuntil(b"\r\n")
    writer.close()


async def gzip_bomb(one: Victim) -> None:
    """Send 1 GB of zeros as 1 MB, at each place that takes a body."""
    bomb = gzip.compress(b"\0" * 2**20) * 1024
    for method, path in ((b"PUT", b"/v1/nodes/n"), (b"POST", b"/v1/apply")):
        reader, writer = await one.open()
        head = HEAD.replace(b"PUT /v1/nodes/n", method + b" " + path)
        writer.write(head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb))
        with contextlib.suppress(ConnectionError):
            writer.write(bomb)
            await writer.drain()
        async with asyncio.timeout(60):
            assert b" 415 " in await reader.readuntil(b"\r\n")
        writer.close()


async def huge_heads(one: Victim) -> None:
    """Send heads that never end, of one line, of many lines, and of a long target."""
    for part in (b"X: " + b"y" * 65536, b"X: y\r\n", b"GET /" + b"y" * 65536):
        for _ in range(20):
            reader, writer = await one.open()
            writer.write(b"" if part.startswith(b"GET") else b"GET / HTTP/1.1\r\nHost: a\r\n")
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 100_000_000 and not reader.at_eof():
                    writer.write(part * (200 if len(part) < 10 else 1))
                    sent += len(part) * (200 if len(part) < 10 else 1)
                    await writer.drain()
            assert sent < 100_000_000
            writer.close()


async def pipelining(one: Victim) -> None:
    """Send requests by the thousand on a hundred connections, and read no answer."""
    opened = [await one.open() for _ in range(100)]
    for _ in range(20):
        for _, writer in opened:
            writer.write(GET * 1000)
        await asyncio.sleep(0.1)
    for _, writer in opened:
        writer.transport.abort()


async def slow_heads(one: Victim) -> None:
    """Keep 500 connections that send a head drop by drop."""
    opened = [await one.open() for _ in range(500)]
    for letter in b"GET / HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaa":
        for _, writer in opened:
            writer.write(bytes([letter]))
        await asyncio.sleep(0.08)
    for _, writer in opened:
        writer.transport.abort()


async def slow_bodies(one: Victim) -> None:
    """Keep 500 connections that send a body drop by drop."""
    opened = [await one.open() for _ in range(500)]
    for _, writer in opened:
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
    for _ in range(30):
        for _, writer in opened:
            writer.write(b" ")
        await asyncio.sleep(0.1)
    for _, writer in opened:
        writer.transport.abort()


async def ten_thousand_silent(one: Victim) -> None:
    """Open 10,000 connections that say nothing, and keep them."""
    await _crowd(one, b"")


async def ten_thousand_with_bodies_to_come(one: Victim) -> None:
    """Open 10,000 connections that announce a body and send none of it."""
    await _crowd(one, HEAD + b"Content-Length: 1000\r\n\r\n")


async def thousands_that_do_not_read(one: Victim) -> None:
    """Open 5,000 connections that ask for more than fits the buffers, and read none of it."""
    await _crowd(one, GET * 40, 50)


async def _crowd(one: Victim, said: bytes, hundreds: int = 100) -> None:
    opened: list[asyncio.StreamWriter] = []
    for _ in range(hundreds):
        found = await asyncio.gather(*(one.open() for _ in range(100)), return_exceptions=True)
        for pair in found:
            if not isinstance(pair, BaseException):
                opened.append(pair[1])
                pair[1].transport.pause_reading()  # type: ignore[attr-defined]
                pair[1].write(said)
        await asyncio.sleep(0)
    assert len(opened) >= hundreds * 99
    assert one.n_files < 4096 + 200
    await asyncio.sleep(3)
    for writer in opened:
        writer.transport.abort()


async def many_watchers(one: Victim) -> None:
    """Open 1,500 watches; each change is sent to all of them."""
    opened = []
    for _ in range(1500):
        reader, writer = await one.open()
        writer.write(b"GET /v1/nodes?watch=true HTTP/1.1\r\nHost: a\r\n\r\n")
        opened.append((reader, writer))
    first = await asyncio.gather(*(reader.readuntil(b"\r\n") for reader, _ in opened))
    assert set(first) == {b"HTTP/1.1 200 OK\r\n"}
    await asyncio.sleep(3)
    for _, writer in opened:
        writer.transport.abort()


async def many_who_wait(one: Victim) -> None:
    """Write 1,500 objects and wait until each is in force, which no calc makes true; each write is news to all."""
    opened = []
    for i in range(1500):
        _, writer = await one.open()
        body = json.dumps(node(f"w{i}")).encode()
        head = HEAD.replace(b"/v1/nodes/n ", b"/v1/nodes/w%d?wait=programmed&timeout=60 " % i)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        opened.append(writer)
    await asyncio.sleep(3)
    for writer in opened:
        writer.transport.abort()


ATTACKS = (
    large_body, expecting, gzip_bomb, huge_heads, pipelining, slow_heads, slow_bodies,
    ten_thousand_silent, ten_thousand_with_bodies_to_come, thousands_that_do_not_read, many_watchers,
    many_who_wait,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_others_stay_served(one: Victim, attack: Attack) -> None:
    """During the attack another client has no failure and no long wait, and memory stays bounded."""
    before = await measured(one, None)
    during = await measured(one, attack)
    print(
        f"{attack.__name__}: p99 {before.p99_s * 1000:.0f} -> {during.p99_s * 1000:.0f} ms of"
        f" {len(during.times)}, memory {before.rss_mb:.0f} -> {during.rss_mb:.0f} MB"
    )
    assert (before.failures, during.failures) == ([], [])
    assert during.p99_s < SLOWEST_S
    assert during.rss_mb < MOST_MB
    after = await measured(one, None)
    assert after.failures == []


async def test_a_watch_too_many_is_told_so(nats_server: NatsServer) -> None:
    """Watches take half of the places at most; the next one is 503 with a time to try again."""
    async with victim(nats_server.url, "--max-connections", "20") as one:
        heads = []
        for _ in range(11):
            reader, writer = await one.open()
            writer.write(b"GET /v1/nodes?watch=true HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(60):
                heads.append((await reader.readuntil(b"\r\n\r\n"), writer))
        assert [b" 200 " in head for head, _ in heads] == [True] * 10 + [False]
        assert b" 503 " in heads[-1][0]
        assert b"Retry-After" in heads[-1][0]
        for _, writer in heads:
            writer.close()


async def test_who_waits_longest_makes_room(nats_server: NatsServer) -> None:
    """When all places are taken, the connection that has been silent longest is closed for a newcomer."""
    async with victim(nats_server.url, "--max-connections", "10") as one:
        # Connections are taken in the order in which they were opened, however late.
        silent = [await one.open() for _ in range(10)]
        reader, writer = await one.open()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(60):
            assert b" 200 " in await reader.readuntil(b"\r\n")
            assert await silent[0][0].read() == b""
        assert not silent[-1][0].at_eof()
        for _, other in [*silent, (reader, writer)]:
            other.close()


async def test_who_leaves_in_the_middle_is_no_fault_of_ours(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Clients that go away while their body or their answer is on its way fill no log."""
    log = tmp_path / "api.log"
    async with victim(nats_server.url, log=log) as one:
        for said in (HEAD + b"Content-Length: 10\r\n\r\n{", GET * 5, b"GET / HT"):
            for _ in range(20):
                _, writer = await one.open()
                writer.write(said)
                await asyncio.sleep(0.01)
                writer.transport.abort()
        await asyncio.sleep(0.3)
    assert log.read_text() == ""
