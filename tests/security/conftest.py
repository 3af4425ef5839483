"""A real nats-server that knows who is who, and links of each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki.folder import PkiFolder
from hopwall_model.permissions import User
from hopwall_model.topics import Role
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.support.ports import free_port

Connect = Callable[[User], Awaitable[Link]]

API, CALC, AUDITOR = User(Role.API), User(Role.CALC), User(Role.AUDITOR)
H1, H2 = User(Role.HOST, "h1"), User(Role.HOST, "h2")


@pytest.fixture
def pki(tmp_path: Path) -> PkiFolder:
    """Make a set-up for two hosts."""
    folder = PkiFolder(tmp_path / "pki")
    folder.make(hosts=["h1", "h2"])
    return folder


@pytest.fixture
async def secured(tmp_path: Path, pki: PkiFolder) -> AsyncIterator[NatsServer]:
    """Run a nats-server with it."""
    server = server_of(pki, tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


def server_of(pki: PkiFolder, folder: Path) -> NatsServer:
    """Return a nats-server, to be started, that knows the users of a set-up."""
    listen = f"127.0.0.1:{free_port()}"
    return NatsServer(listen=listen, folder=folder, security=pki.security_conf)


def settings_of(pki: PkiFolder, server: NatsServer, user: User) -> CommonSettings:
    """Return the settings of one user's process."""
    folder = pki.folder_of(user)
    return CommonSettings(
        nats_url=(server.url,),
        nats_nkey_file=str(folder / "nats.nk"),
        nats_ca_file=str(folder / "ca.crt"),
    )


async def gets_in(link: Link, settings: CommonSettings, within_s: float = 1.5) -> bool:
    """Tell whether a link connects within this time; it is ended where it does not.

    Not `asyncio.timeout`: the client may lose the one cancellation that this sends, and then tries for ever.
    """
    connecting = asyncio.get_running_loop().create_task(link.connect(settings))
    await asyncio.wait({connecting}, timeout=within_s)
    got_in = connecting.done()
    while not connecting.done():
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=0.2)
    await link.close()
    return got_in


@pytest.fixture
async def connect(pki: PkiFolder, secured: NatsServer) -> AsyncIterator[Connect]:
    """Give links, as each service would make them."""
    async with AsyncExitStack() as stack:

        async def one(user: User) -> Link:
            service = "dataplane" if user.role is Role.HOST else str(user.role)
            link = Link(service, user.host)
            await link.connect(settings_of(pki, secured, user))
            stack.push_async_callback(link.close)
            return link

        yield one
