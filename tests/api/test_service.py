"""The service as a whole: NATS away and back, raw connections, listening."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from hopwall_api.settings import ApiSettings, parse_listen
from hopwall_cli import main
from hopwall_cli.main import parse
from hopwall_cli.nats_server import NatsServer
from hopwall_model import staleness
from hopwall_runtime.config import ConfigError
from tests.api.caller import PATIENCE_S, Caller, node, running_api
from tests.support.ports import free_port

pytestmark = pytest.mark.nats


async def test_before_nats_is_there_everything_is_503(tmp_path: Path) -> None:
    """HTTP answers from the start: live, not ready, and 503 with Retry-After."""
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=tmp_path / "late")
    async with running_api(server.url, wait=False) as caller:
        assert (await caller.get("/livez")).status == 200
        assert (await caller.get("/readyz")).status == 503
        answer = await caller.put("/v1/nodes/a", node("a"))
        answer.problem(503)
        assert int(answer.headers["Retry-After"]) > 0
        (await caller.get("/v1/nodes")).problem(503)
        await server.start()
        try:
            await caller.ready()
            assert (await caller.put("/v1/nodes/a", node("a"))).status == 201
        finally:
            await server.stop()


async def test_an_outage_of_nats_refuses_writes_and_heals(
    caller: Caller, nats_server: NatsServer
) -> None:
    """Writes are 503 while it lasts, reads go on, and nothing that was 2xx is lost after it."""
    assert (await caller.put("/v1/nodes/a", node("a"))).status == 201
    await nats_server.stop(signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.get("/readyz")).status == 200:
            await asyncio.sleep(0.02)
    refused = await caller.put("/v1/nodes/b", node("b"))
    assert "nothing was stored" in refused.problem(503)["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    (await caller.post("/v1/apply", [node("b"), node("c")])).problem(503)
    assert (await caller.get("/v1/nodes/a")).status == 200
    await nats_server.start()
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.put("/v1/nodes/c", node("c"))).status == 503:
            await asyncio.sleep(0.1)
    names = [one["metadata"]["name"] for one in (await caller.get("/v1/nodes")).json["items"]]
    assert names == ["a", "c"]


async def test_a_frozen_server_leaves_the_outcome_unknown_and_says_so(
    caller: Caller, nats_server: NatsServer
) -> None:
    """A silent server is no refusal: the problem says that the write may be stored."""
    await caller.put("/v1/nodes/a", node("a"))
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        answer = await caller.put("/v1/nodes/b", node("b"), Idempotency_Key="k1")
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert "unknown whether" in answer.problem(503)["detail"]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            again = await caller.put("/v1/nodes/b", node("b"), Idempotency_Key="k1")
            if again.status != 503:
                break
    assert again.status in (200, 201)
    assert (await caller.get("/v1/nodes/b")).json["metadata"]["generation"] == 1


async def test_reads_say_how_old_they_may_be_while_nats_is_frozen(
    caller: Caller, nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each read bears the age, a streamed list and a 404 too, and the command tells it; nothing does before and after."""
    await caller.put("/v1/nodes/a", node("a"))
    paths = ("/v1/nodes/a", "/v1/nodes", "/v1/nodes/b", "/v1/hosts", "/v1/ipam/check", "/v1/backup")

    async def ages() -> list[str | None]:
        return [(await caller.get(path)).headers.get(staleness.HEADER) for path in paths]

    async def shown() -> tuple[str, str]:
        args = parse(["--server", f"unix://{caller.socket}", "get", "nodes", "-o", "name"])
        assert await main._run(args.run, args) == 0
        out, err = capsys.readouterr()
        return out.strip(), err

    assert await ages() == [None] * len(paths)
    assert (await shown())[1] == ""
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while None in await ages():
                await asyncio.sleep(0.1)
        first = [int(age or 0) for age in await ages()]
        out, err = await shown()
        assert out.endswith("a")
        assert "has not heard NATS for" in err
        await asyncio.sleep(1.1)
        later = [int(age or 0) for age in await ages()]
        assert all(6 <= one < other for one, other in zip(first, later, strict=True))
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_S):
        while await ages() != [None] * len(paths):
            await asyncio.sleep(0.1)
    assert (await shown())[1] == ""


async def raw(caller: Caller, data: bytes) -> bytes:
    """Send bytes on a connection of their own and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(caller.socket)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/nodes HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /v1/nodes?" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /v1/nodes/a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x00\xf4\x01\x00",
    ],
)
async def test_what_is_not_http_is_a_problem_too(caller: Caller, data: bytes) -> None:
    """A request that cannot be read is a 400 problem document and the connection's end."""
    received = await raw(caller, data + b"\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400


async def test_a_body_that_never_comes_is_given_up(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow body is 408, and takes nothing from others."""
    monkeypatch.setattr("hopwall_api.bodies.BODY_TIME_S", 0.3)
    head = b"PUT /v1/nodes/a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    received = await raw(caller, head + b"Content-Length: 100\r\n\r\n{")
    assert b" 408 " in received.splitlines()[0]
    (await caller.get("/v1/nodes/a")).problem(404)


async def test_a_head_that_never_ends_is_given_up(nats_server: NatsServer) -> None:
    """A connection that sends a request drop by drop is closed after the idle time."""
    async with running_api(nats_server.url, idle_timeout_s=1) as caller:
        reader, writer = await asyncio.open_unix_connection(caller.socket)
        received = b"-"
        async with asyncio.timeout(PATIENCE_S):
            while received:
                try:
                    writer.write(b"GET /v1/nodes HTTP/1.1\r\nX-Drop: 1\r\n"[:1])
                    received = await asyncio.wait_for(reader.read(100), 0.2)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
        writer.close()


async def test_a_chunked_body_is_cut_at_the_limit(caller: Caller) -> None:
    """Without a declared length the limit holds as well."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    try:
        async with caller.session.put(
            "http://api/v1/nodes/a", data=endless(), headers=headers
        ) as response:
            assert response.status == 413
    except aiohttp.ClientConnectionError:
        pass  # closed while the rest was being sent
    assert (await caller.get("/livez")).status == 200


async def test_too_many_connections_are_closed(caller: Caller) -> None:
    """Above the limit a connection is closed at once; those there are go on."""
    opened = [await asyncio.open_unix_connection(caller.socket) for _ in range(260)]
    closed = 0
    async with asyncio.timeout(PATIENCE_S):
        while closed < 60:
            await asyncio.sleep(0.2)
            closed = sum(reader.at_eof() for reader, _ in opened)
    for _, writer in opened:
        writer.close()
    assert 60 <= closed < 80
    assert (await caller.get("/livez")).status == 200


async def test_the_console_script_serves_and_stops(nats_server: NatsServer) -> None:
    """`hopwall-api` as a process: TCP, uvloop, SIGTERM, exit code 0."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("hopwall-api")),
        "--listen",
        f"127.0.0.1:{port}",
        "--nats-url",
        nats_server.url,
        stderr=asyncio.subprocess.PIPE,
    )
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.05)
        async with session.put(f"http://127.0.0.1:{port}/v1/nodes/a", json=node("a")) as response:
            assert response.status == 201
    process.terminate()
    _, errors = await process.communicate()
    assert process.returncode == 0, errors


def test_listen_takes_addresses_and_sockets() -> None:
    """host:port, [v6]:port and unix:/path; anything else is one sentence."""
    assert parse_listen("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_listen("unix:/run/x.sock") == "/run/x.sock"
    for bad in ("8080", ":80", "a:b", "a:99999", "unix:"):
        with pytest.raises(ConfigError):
            parse_listen(bad)
    assert ApiSettings().listen == ("127.0.0.1:8080",)
