"""Several nats-servers as one cluster, for tests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hopwall_cli.nats_config import Cluster
from hopwall_cli.nats_server import NatsServer
from tests.support.ports import free_port


class LateServer(NatsServer):
    """A known-bad one: with the server's own default it acknowledges before it syncs."""

    def _argv(self) -> list[str]:
        argv = super()._argv()
        config = Path(argv[-1])
        config.write_text(config.read_text().replace("  sync_interval: always\n", ""))
        return argv


def cluster_of(
    folder: Path, addresses: Sequence[str], prefixes: Sequence[Sequence[str]] = ()
) -> list[NatsServer]:
    """Return one server for each address, not started; `prefixes` put each into its namespace."""
    places = [(address, free_port(), free_port()) for address in addresses]
    routes = [f"{address}:{port}" for address, _, port in places]
    return [
        NatsServer(
            listen=f"{address}:{port}",
            folder=folder / f"n{i}",
            name=f"n{i}",
            command_prefix=prefixes[i] if prefixes else (),
            cluster=Cluster(listen=f"{address}:{route}", routes=routes),
        )
        for i, (address, port, route) in enumerate(places)
    ]


@asynccontextmanager
async def running_cluster(folder: Path, n: int = 3) -> AsyncIterator[list[NatsServer]]:
    """Run a cluster on loopback while the block runs."""
    servers = cluster_of(folder, ["127.0.0.1"] * n)
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
