"""Several nats-servers: who is one of them, and so says and hears all, and who is not."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from hopwall_cli.nats_config import Cluster
from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki import certificates
from hopwall_cli.pki.folder import PkiFolder
from hopwall_model import topics
from hopwall_runtime.link import Link, Unavailable
from tests.security.conftest import API, H1, settings_of
from tests.support.ports import free_port

pytestmark = pytest.mark.nats

#: A server that may join has joined in a tenth of this.
_JOIN_S = 5.0


@pytest.fixture
def mutual(tmp_path: Path) -> PkiFolder:
    """Make a set-up in which each host has a certificate of the authority too."""
    folder = PkiFolder(tmp_path / "pki")
    folder.make(hosts=["h1"], mutual=True)
    return folder


def servers_of(pki: PkiFolder | None, folder: Path, routes: Sequence[int]) -> list[NatsServer]:
    """Return one server for each port of a route, not started."""
    return [
        NatsServer(
            listen=f"127.0.0.1:{free_port()}",
            folder=folder / f"n{i}",
            name=f"n{i}",
            cluster=Cluster(
                listen=f"127.0.0.1:{port}", routes=[f"127.0.0.1:{one}" for one in routes]
            ),
            security=None if pki is None else pki.security_conf,
        )
        for i, port in enumerate(routes)
    ]


@asynccontextmanager
async def running(servers: Sequence[NatsServer]) -> AsyncIterator[None]:
    """Run servers while the block runs."""
    try:
        await asyncio.gather(*(one.start() for one in servers))
        yield
    finally:
        await asyncio.gather(*(one.stop() for one in servers))


async def test_servers_of_one_set_up_are_one_cluster(pki: PkiFolder, tmp_path: Path) -> None:
    """Three with the same folder keep three copies of the streams, also after its certificates are renewed."""
    servers = servers_of(pki, tmp_path, [free_port() for _ in range(3)])
    async with running(servers[:2]):
        pki.renew(names=["nats-3"])
        async with running(servers[2:]):
            link = Link("api")
            await link.connect(settings_of(pki, servers[2], API))
            async with asyncio.timeout(120):
                while not await _made(link):
                    await asyncio.sleep(0.2)
            found = await link._js.stream_info(topics.EVENTS_STREAM)
            await link.close()
    assert found.config.num_replicas == 3


async def _made(link: Link) -> bool:
    try:
        await link.ensure_streams()
    except Unavailable:
        return False
    return True


async def test_a_server_of_nobody_joins_no_cluster(pki: PkiFolder, tmp_path: Path) -> None:
    """Who reaches the port between servers with a server of his own, without users, says nothing to theirs."""
    ports = [free_port() for _ in range(2)]
    [true] = servers_of(pki, tmp_path, ports[:1])
    _, stranger = servers_of(None, tmp_path / "strange", ports)
    async with running([true, stranger]):
        await _says_nothing(pki, true, stranger)


@pytest.mark.parametrize("whose", ["host", "api", "authority's new"])
async def test_a_certificate_of_the_authority_makes_no_server(
    mutual: PkiFolder, tmp_path: Path, whose: str
) -> None:
    """With mutual TLS every host has one; it lets nobody in who is not the servers' own key."""
    folder = mutual.folder_of(API if whose == "api" else H1)
    name = "server" if whose == "api" else "client"
    pair = [folder / f"{name}.{end}" for end in ("crt", "key")]
    if whose == "authority's new":
        made = certificates.issue(
            mutual._authority(), "nats-route", mutual._now(), names=["localhost"],
            addresses=["127.0.0.1"], peer_key=b"",
        )  # fmt: skip
        for path, data in zip(pair, (made.certificate, made.key), strict=True):
            path.write_bytes(data)
    ports = [free_port() for _ in range(2)]
    [true] = servers_of(mutual, tmp_path, ports[:1])
    _, stranger = servers_of(None, tmp_path / "strange", ports)
    own = tmp_path / "own.conf"
    own.write_text(
        f"tls {{ cert_file: {json.dumps(str(pair[0]))}, key_file: {json.dumps(str(pair[1]))},"
        f" ca_file: {json.dumps(str(folder / 'ca.crt'))}, verify: false, insecure: true }}\n"
    )
    stranger._cluster = Cluster(
        listen=f"127.0.0.1:{ports[1]}",
        routes=[f"127.0.0.1:{ports[0]}"],
        security=os.path.relpath(own, tmp_path / "strange" / "n1"),
    )
    async with running([true, stranger]):
        await _says_nothing(mutual, true, stranger)


async def _says_nothing(pki: PkiFolder, true: NatsServer, stranger: NatsServer) -> None:
    """Say things on both sides for a while; none is heard or stored on the other."""
    heard: list[str] = []

    async def note(message: Msg) -> None:
        heard.append(message.subject)

    folder, settings = pki.folder_of(API), settings_of(pki, true, API)
    if (folder / "client.crt").exists():
        cert, key = str(folder / "client.crt"), str(folder / "client.key")
        settings = replace(settings, nats_cert_file=cert, nats_key_file=key)
    api = Link("api")
    await api.connect(settings)
    nc: Any = api._nc
    await nc.subscribe("hopwall.status.host.*", cb=note)
    thief = await nats.connect(stranger.url)
    await thief.subscribe("hopwall.rules.*", cb=note)
    until = asyncio.get_running_loop().time() + _JOIN_S
    while asyncio.get_running_loop().time() < until and not heard:
        await thief.publish("hopwall.status.host.h1", b"{}")
        await nc.publish("hopwall.rules.h1", b"{}")
        await asyncio.gather(thief.flush(), api.flush())
        await asyncio.sleep(0.1)
    await thief.close()
    await api.close()
    assert heard == []
