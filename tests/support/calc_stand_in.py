"""A calc that says what a test tells it to: the other end of one host's feed, over a real NATS.

It keeps the host's whole state, so that it can answer a snapshot at any time, as calc does.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.status import Drift, HostStatus
from hopwall_model.updates import (
    BgpSet,
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostBatch,
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedSet,
    Scope,
    SharedPiece,
    SharedUpdate,
    SnapshotRequest,
)
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link

R = TypeVar("R")
#: An agent is up in a second; on a busy machine its start alone may take ten.
PATIENCE_S = 60.0


class CalcStandIn:
    """One host's calc."""

    def __init__(self, link: Link, host: str, epoch: str = "e1") -> None:
        self.link = link
        self.host = host
        self.epoch = epoch
        self.number = 1
        self.revision = 1
        self.version = 0
        self.endpoints: dict[EndpointId, EndpointSet] = {}
        self.host_endpoints: dict[HostEndpointId, HostEndpointSet] = {}
        self.pieces: dict[Scope, SharedPiece] = {}
        self.bgp: tuple[BgpSet, ...] = ()
        self.statuses: list[HostStatus] = []
        self.drifts: list[Drift] = []
        #: What answers the host's requests; a test may put another in its place.
        self.answer: Callable[[SnapshotRequest, str], bytes] = self._snapshot
        self._news = asyncio.Event()
        self._known_at = ""

    async def start(self) -> None:
        """Listen to the host and answer its requests."""
        subject = topics.snapshot_subject(self.host)
        await self.link.serve_chunked(topics.SNAPSHOT, subject, lambda r, s: self.answer(r, s))
        await self.link.subscribe(
            topics.HOST_STATUS, topics.host_status_subject(self.host), self._on_status
        )
        await self.link.subscribe(
            topics.DRIFT, topics.drift_subject(self.host), lambda d, _: self.drifts.append(d)
        )
        await self.link.flush()

    def _on_status(self, status: HostStatus, _subject: str) -> None:
        if status.at > self._known_at:
            self.statuses.append(status)
            self._news.set()

    def forget(self) -> None:
        """Forget what the host said, also what is still on its way: its agent has been killed."""
        self.statuses.clear()
        self._known_at = clock.now_text()

    def _snapshot(self, _request: SnapshotRequest, _subject: str) -> bytes:
        needs = [NeedSet(scope=s, version=p.version) for s, p in self.pieces.items()]
        endpoints = (*self.endpoints.values(), *self.host_endpoints.values())
        updates = (*self.pieces.values(), *needs, *endpoints, *self.bgp)
        return codec.encode(self._batch(updates, full=True))

    def _batch(self, updates: tuple[object, ...], *, full: bool = False) -> HostBatch:
        return HostBatch(
            host=self.host,
            epoch=self.epoch,
            number=self.number,
            revision=self.revision,
            full=full,
            updates=updates,  # type: ignore[arg-type]
        )

    def next_version(self) -> int:
        """Return a version no piece had before."""
        self.version += 1
        return self.version

    async def say(
        self,
        *,
        pieces: tuple[SharedPiece, ...] = (),
        endpoints: tuple[EndpointSet, ...] = (),
        host_endpoints: tuple[HostEndpointSet, ...] = (),
        bgp: BgpSet | None = None,
    ) -> None:
        """Change the state and publish the change."""
        self.revision += 1
        self.number += 1
        updates: list[object] = []
        for piece in pieces:
            known = piece.scope in self.pieces
            self.pieces[piece.scope] = piece
            if known:
                shared = SharedUpdate(epoch=self.epoch, revision=self.revision, piece=piece)
                await self.link.publish(topics.shared_subject(piece.scope), shared)
            else:
                updates.append(piece)
            updates.append(NeedSet(scope=piece.scope, version=piece.version))
        for endpoint in endpoints:
            self.endpoints[endpoint.id] = endpoint
            updates.append(endpoint)
        for host_endpoint in host_endpoints:
            self.host_endpoints[host_endpoint.id] = host_endpoint
            updates.append(host_endpoint)
        if bgp is not None:
            self.bgp = (bgp,)
            updates.append(bgp)
        await self._publish(updates)

    async def remove(self, endpoint_id: str) -> None:
        """Take an endpoint away."""
        self.revision += 1
        self.number += 1
        del self.endpoints[EndpointId(endpoint_id)]
        await self._publish([EndpointRemoved(id=EndpointId(endpoint_id))])

    async def remove_host_endpoint(self, name: str) -> None:
        """Take a host endpoint away."""
        self.revision += 1
        self.number += 1
        del self.host_endpoints[HostEndpointId(name)]
        await self._publish([HostEndpointRemoved(id=HostEndpointId(name))])

    async def _publish(self, updates: list[object]) -> None:
        batch = self._batch(tuple(updates))
        await self.link.publish(topics.host_batch_subject(self.host), batch)

    async def applied(self, timeout_s: float = PATIENCE_S) -> HostStatus:
        """Wait until the host says that it enforces the last revision."""
        return await self.until(
            lambda s: s.in_sync and s.epoch == self.epoch and s.revision >= self.revision, timeout_s
        )

    async def until(
        self, holds: Callable[[HostStatus], bool], timeout_s: float = PATIENCE_S
    ) -> HostStatus:
        """Wait for a status of which this holds."""
        async with asyncio.timeout(timeout_s):
            while True:
                if self.statuses and holds(self.statuses[-1]):
                    return self.statuses[-1]
                self._news.clear()
                await self._news.wait()


class AgentProcess:
    """A real agent, started as the service starts it."""

    def __init__(self, nats_url: str, folder: Path, *flags: str) -> None:
        self.argv = [
            sys.executable, "-m", "hopwall_dataplane", "--host", "h1", "--nats-url", nats_url,
            "--health-listen", "127.0.0.1:9099", *flags,
        ]  # fmt: skip
        self.log = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            # It may not find what another agent of this machine kept.
            env = {"HOPWALL_STATE_DIR": ""} | os.environ
            self._process = subprocess.Popen(self.argv, stderr=log, env=env)

    @property
    def pid(self) -> int | None:
        """Its process id; None before it was started."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def run_scenario(
    scenario: Callable[[CalcStandIn, AgentProcess], Awaitable[R]],
    folder: Path,
    *flags: str,
) -> R:
    """Run a scenario against a real agent and a real NATS in the current namespace."""

    async def whole() -> R:
        server = NatsServer(listen="127.0.0.1:4222", folder=folder / "nats")
        await server.start()
        link = Link("calc")
        await link.connect(CommonSettings(nats_url=(server.url,)))
        await link.ensure_streams()
        calc = CalcStandIn(link, "h1")
        await calc.start()
        agent = AgentProcess(server.url, folder, *flags)
        agent.start()
        try:
            return await scenario(calc, agent)
        except BaseException:
            sys.stderr.write(agent.log.read_text())
            raise
        finally:
            agent.kill()
            await link.close()
            await server.stop()

    return asyncio.run(whole())
