"""REST over TLS: who is trusted, what is refused, and a certificate that changes while it is used."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hopwall_api.service import serve
from hopwall_api.settings import ApiSettings
from hopwall_cli.client import Client, ClientError, Problem, read_token
from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki.folder import PkiFolder
from hopwall_model.permissions import User
from hopwall_model.topics import Role
from hopwall_runtime.config import ConfigError
from tests.support.ports import free_port

pytestmark = pytest.mark.nats


@asynccontextmanager
async def serving(nats_server: NatsServer, pki: PkiFolder, cert: str = "") -> AsyncIterator[str]:
    """Run the API on a TLS port; yield its URL. With `cert`, which clients have, it wants one of everybody."""
    port, folder = free_port(), pki.folder_of(User(Role.API))
    settings = ApiSettings(
        nats_url=(nats_server.url,),
        listen=(f"127.0.0.1:{port}",),
        tokens_file=str(pki.tokens),
        tls_cert_file=str(folder / "server.crt"),
        tls_key_file=str(folder / "server.key"),
        tls_client_ca_file=str(pki.path / "ca.crt") if cert else "",
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve(settings))
        client = Client(f"https://127.0.0.1:{port}", ca=str(pki.path / "ca.crt"), cert=cert)
        await client.ready(timeout_s=60)
        await client.close()
        try:
            yield f"https://127.0.0.1:{port}"
        finally:
            task.cancel()


async def test_the_client_and_the_api_know_each_other(
    nats_server: NatsServer, pki: PkiFolder, tmp_path: Path
) -> None:
    """With authority and token it works; without either, or with another's, it is one sentence."""
    other = PkiFolder(tmp_path / "other")
    other.make()
    ca, token = str(pki.path / "ca.crt"), read_token(str(pki.admin_token))
    async with serving(nats_server, pki) as url:
        client = Client(url, ca=ca, token=token)
        assert (await client.request("GET", "/v1/hosts"))["items"] == []
        await client.close()
        for wrong in (Client(url, token=token), Client(url, ca=str(other.path / "ca.crt"))):
            with pytest.raises(ClientError, match="is --ca right"):
                await wrong.request("GET", "/v1/hosts")
            await wrong.close()
        bare = Client(url, ca=ca)
        with pytest.raises(Problem, match="wants a token"):
            await bare.request("GET", "/v1/hosts")
        await bare.close()


async def test_where_clients_need_a_certificate_nobody_is_heard_without(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """One of the authority's and a token: both are needed, and another authority's is none."""
    pki, other = PkiFolder(tmp_path / "pki"), PkiFolder(tmp_path / "other")
    pki.make(mutual=True)
    other.make(mutual=True)
    mine, foreign = pem(pki, tmp_path / "mine.pem"), pem(other, tmp_path / "foreign.pem")
    ca, token = str(pki.path / "ca.crt"), read_token(str(pki.admin_token))
    async with serving(nats_server, pki, mine) as url:
        client = Client(url, ca=ca, token=token, cert=mine)
        assert (await client.request("GET", "/v1/hosts"))["items"] == []
        await client.close()
        for wrong in (
            Client(url, ca=ca, token=token),
            Client(url, ca=ca, token=token, cert=foreign),
        ):
            with pytest.raises(ClientError):
                await wrong.request("GET", "/v1/hosts")
            await wrong.close()
        bare = Client(url, ca=ca, cert=mine)
        with pytest.raises(Problem, match="wants a token"):
            await bare.request("GET", "/v1/hosts")
        await bare.close()
    with pytest.raises(ClientError, match="not a certificate with its key"):
        Client("https://127.0.0.1:1", ca=ca, cert=ca)


def pem(pki: PkiFolder, path: Path) -> str:
    """Write a certificate of an authority's and its key to one file; return its name."""
    folder = pki.folder_of(User(Role.API))
    path.write_bytes((folder / "client.crt").read_bytes() + (folder / "client.key").read_bytes())
    return str(path)


def test_a_token_never_goes_in_clear_over_a_network() -> None:
    """http:// beyond loopback is refused before anything is sent."""
    with pytest.raises(ClientError, match="readable on its way"):
        Client("http://192.0.2.1:8080", token="x")
    Client("http://127.0.0.1:8080", token="x")


async def certificate(url: str, ca: Path) -> bytes:
    """Return the certificate that a new connection is shown."""
    host, _, port = url.removeprefix("https://").partition(":")
    context = ssl.create_default_context(cafile=ca)
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(shown, bytes)
    return shown


async def test_a_new_certificate_is_used_without_restart(
    nats_server: NatsServer, pki: PkiFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections get it, old ones go on; one that cannot be used leaves the old in place."""
    monkeypatch.setattr("hopwall_api.certificate.LOOK_S", 0.05)
    ca = pki.path / "ca.crt"
    key = pki.folder_of(User(Role.API)) / "server.key"
    async with serving(nats_server, pki) as url:
        client = Client(url, ca=str(ca), token=read_token(str(pki.admin_token)))
        await client.request("GET", "/v1/hosts")
        first = await certificate(url, ca)
        good = key.read_bytes()
        key.write_bytes(b"half a key")
        await asyncio.sleep(0.3)
        assert await certificate(url, ca) == first
        key.write_bytes(good)
        pki.renew(names=["other.example"])
        async with asyncio.timeout(60):
            while await certificate(url, ca) == first:
                await asyncio.sleep(0.05)
        await client.request("GET", "/v1/hosts")
        await client.close()


async def test_a_handshake_that_never_ends_is_given_up(
    nats_server: NatsServer, pki: PkiFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that say nothing, or no TLS, are closed, and others get in meanwhile."""
    monkeypatch.setattr("hopwall_api.connections.HANDSHAKE_S", 1.0)
    async with serving(nats_server, pki) as url:
        port = int(url.rpartition(":")[2])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        for _, writer in opened[:100]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        for _, writer in opened[100:200]:
            writer.write(b"\x16\x03\x01\x02")
        client = Client(url, ca=str(pki.path / "ca.crt"))
        await client.ready(timeout_s=60)
        await client.close()
        async with asyncio.timeout(60):
            ended = await asyncio.gather(*(_end(reader) for reader, _ in opened))
        assert ended == [True] * 300
        for _, writer in opened:
            writer.close()


async def _end(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        await reader.read()
    return True


@pytest.mark.parametrize("what", ["tokens_file", "tls_cert_file"])
async def test_what_cannot_be_used_ends_the_start(
    nats_server: NatsServer, pki: PkiFolder, what: str
) -> None:
    """A wrong list or certificate at the start is a wrong setting, in one sentence."""
    files: dict[str, Any] = {"tokens_file": str(pki.tokens)}
    if what == "tokens_file":
        pki.tokens.write_text("{")
    else:
        files |= {"tls_cert_file": str(pki.tokens), "tls_key_file": str(pki.tokens)}
    settings = ApiSettings(
        nats_url=(nats_server.url,), listen=(f"127.0.0.1:{free_port()}",), **files
    )
    with pytest.raises((ConfigError, ExceptionGroup)) as caught:
        await serve(settings)
    fault: BaseException = caught.value
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    assert isinstance(fault, ConfigError)
    assert what in str(fault)
