"""A caller of a running API, and the documents that tests send."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from hopwall_api.service import serve
from hopwall_api.settings import ApiSettings
from hopwall_model import topics
from hopwall_model.status import CalcStatus, HostStatus
from hopwall_runtime.link import Link

Doc = dict[str, Any]
AT = "2026-01-01T00:00:00Z"
#: Until what must come has come: far longer than it takes, as a busy machine may.
PATIENCE_S = 60.0
#: What a server says that leads no more, of a write that is stored.
LATE = "the leader of before is slower to learn of it than the new one to store"
#: Lets the next so many writes be stored and said to conflict.
Refusing = Callable[[int], None]


class Answer:
    """One HTTP answer, read whole."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body as a document."""
        return json.loads(self.body)

    def problem(self, status: int) -> Doc:
        """Return the problem document, having checked that it is one of this status."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["Content-Type"].startswith("application/problem+json")
        document: Doc = self.json
        assert document["status"] == status
        assert document["type"].startswith("urn:hopwall:problem:")
        assert document["title"]
        assert document["detail"]
        assert len(document["traceId"]) == 32
        return document


class Caller:
    """Sends requests to one API."""

    def __init__(self, session: aiohttp.ClientSession, socket: str) -> None:
        self.session = session
        self.socket = socket

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        type_: str = "application/json",
    ) -> Answer:
        """Send one request and read its answer."""
        sent = dict(headers or {})
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", type_)
        # aiohttp warns of large bodies that are not a file.
        file = io.BytesIO(data) if data is not None else None
        async with self.session.request(
            method, f"http://api{path}", data=file, headers=sent
        ) as response:
            return Answer(response, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.ask("GET", path, headers=headers)

    async def put(self, path: str, body: Any, **headers: str) -> Answer:
        """PUT a document."""
        return await self.ask("PUT", path, body, headers=_named(headers))

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """POST a document."""
        return await self.ask("POST", path, body, headers=_named(headers))

    async def patch(self, path: str, body: Any, **headers: str) -> Answer:
        """PATCH by a merge patch."""
        return await self.ask(
            "PATCH", path, body, headers=_named(headers), type_="application/merge-patch+json"
        )

    async def delete(self, path: str, **headers: str) -> Answer:
        """DELETE."""
        return await self.ask("DELETE", path, headers=_named(headers))

    async def ready(self) -> None:
        """Wait until the API says that it is ready."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.get("/readyz")).status != 200:
                await asyncio.sleep(0.02)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def running_api(
    nats_url: str, *, wait: bool = True, idle_timeout_s: int = 60, tokens_file: str = ""
) -> AsyncIterator[Caller]:
    """Run the API, as its process would, on a unix socket."""
    with TemporaryDirectory(prefix="hwt-") as folder:
        socket = str(Path(folder) / "api.sock")
        settings = ApiSettings(
            nats_url=(nats_url,),
            listen=(f"unix:{socket}",),
            max_connections=200,
            idle_timeout_s=idle_timeout_s,
            tokens_file=tokens_file,
        )
        async with asyncio.TaskGroup() as tasks:
            service = tasks.create_task(serve(settings))
            while not Path(socket).exists():  # there is no event of a bound socket
                await asyncio.sleep(0.005)
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session:
                caller = Caller(session, socket)
                try:
                    if wait:
                        await caller.ready()
                    yield caller
                finally:
                    service.cancel()
                    with suppress(asyncio.CancelledError):
                        await service


async def restored(caller: Caller, *documents: Doc) -> None:
    """Store these documents by a restore, which takes what once was; nothing is removed."""
    for path, body in (
        ("", {"file": "f", "replace": True}),
        ("/items", {"file": "f", "items": list(documents)}),
        ("/end", {"file": "f"}),
    ):
        answer = await caller.post(f"/v1/restore{path}", body)
        assert answer.status == 200, answer.body


# ---------------------------------------------------------------- documents


def node(name: str, **labels: str) -> Doc:
    """Return a Node."""
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}}


def endpoint(name: str, host: str = "h1", address: str = "10.65.0.21", **labels: str) -> Doc:
    """Return a WorkloadEndpoint of namespace default."""
    return {
        "kind": "WorkloadEndpoint",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "node": host,
            "interfaceName": f"tap{name}"[:15],
            "ipNetworks": [f"{address}/32"],
        },
    }


ENDPOINTS = "/v1/namespaces/default/workloadendpoints"

#: kind → its collection, and one valid document.
EXAMPLES: dict[str, tuple[str, Doc]] = {
    "Node": ("/v1/nodes", node("one")),
    "IPPool": (
        "/v1/ippools",
        {"kind": "IPPool", "metadata": {"name": "one"}, "spec": {"cidr": "10.65.0.0/16"}},
    ),
    "BGPConfiguration": (
        "/v1/bgpconfigurations",
        {
            "kind": "BGPConfiguration",
            "metadata": {"name": "default"},
            "spec": {"asNumber": 65000},
        },
    ),
    "BGPFilter": ("/v1/bgpfilters", {"kind": "BGPFilter", "metadata": {"name": "one"}}),
    "BGPPeer": (
        "/v1/bgppeers",
        {
            "kind": "BGPPeer",
            "metadata": {"name": "one"},
            "spec": {"peerIP": "192.0.2.1", "asNumber": 65100},
        },
    ),
    "IPReservation": (
        "/v1/ipreservations",
        {
            "kind": "IPReservation",
            "metadata": {"name": "one"},
            "spec": {"reservedCIDRs": ["10.65.0.0/30"]},
        },
    ),
    "IPAMConfiguration": (
        "/v1/ipamconfigurations",
        {
            "kind": "IPAMConfiguration",
            "metadata": {"name": "default"},
            "spec": {"strictAffinity": True},
        },
    ),
    "Tier": ("/v1/tiers", {"kind": "Tier", "metadata": {"name": "one"}, "spec": {"order": 10}}),
    "Profile": ("/v1/profiles", {"kind": "Profile", "metadata": {"name": "one"}}),
    "GlobalNetworkSet": (
        "/v1/globalnetworksets",
        {"kind": "GlobalNetworkSet", "metadata": {"name": "one"}, "spec": {"nets": ["10.0.0.0/8"]}},
    ),
    "NetworkSet": (
        "/v1/namespaces/default/networksets",
        {"kind": "NetworkSet", "metadata": {"name": "one"}, "spec": {"nets": ["10.0.0.0/8"]}},
    ),
    "GlobalNetworkPolicy": (
        "/v1/globalnetworkpolicies",
        {"kind": "GlobalNetworkPolicy", "metadata": {"name": "one"}, "spec": {"selector": "all()"}},
    ),
    "NetworkPolicy": (
        "/v1/namespaces/default/networkpolicies",
        {"kind": "NetworkPolicy", "metadata": {"name": "one"}, "spec": {"selector": "all()"}},
    ),
    "HostEndpoint": (
        "/v1/hostendpoints",
        {
            "kind": "HostEndpoint",
            "metadata": {"name": "one"},
            "spec": {"node": "h1", "interfaceName": "*"},
        },
    ),
    "LiveMigration": (
        "/v1/namespaces/default/livemigrations",
        {
            "kind": "LiveMigration",
            "metadata": {"name": "one"},
            "spec": {
                "source": {"workload": {"workloadID": "vm1", "hostname": "h1"}},
                "target": {"selector": "vm == '1'"},
            },
        },
    ),
    "WorkloadEndpoint": (ENDPOINTS, endpoint("one")),
}


def calc_status(first: int, revision: int, *hosts: str, epoch: str = "e1") -> CalcStatus:
    """Return a report of calc."""
    return CalcStatus(epoch=epoch, first=first, revision=revision, at=AT, hosts=hosts)


def host_status(host: str, revision: int, *, epoch: str = "e1", **more: Any) -> HostStatus:
    """Return a report of a host."""
    fields: dict[str, Any] = {"received": revision, "in_sync": True, **more}
    return HostStatus(host=host, epoch=epoch, revision=revision, at=AT, **fields)


async def say(link: Link, *statuses: CalcStatus | HostStatus) -> None:
    """Publish the reports as calc and the hosts would."""
    for status in statuses:
        if isinstance(status, CalcStatus):
            subject = topics.CALC_STATUS.pattern
        else:
            subject = topics.host_status_subject(status.host)
        await link.publish(subject, status)
    await link.flush()


async def said(caller: Caller, link: Link, *statuses: CalcStatus | HostStatus) -> None:
    """Publish the reports, and wait until the API has heard the hosts."""
    await say(link, *statuses)
    async with asyncio.timeout(PATIENCE_S):
        for status in statuses:
            if isinstance(status, HostStatus):
                while not await _heard(caller, status):
                    await asyncio.sleep(0.01)


async def _heard(caller: Caller, status: HostStatus) -> bool:
    answer = await caller.get(f"/v1/hosts/{status.host}")
    # What is zero is not said.
    view = answer.json if answer.status == 200 else {}
    return bool(view.get("reported")) and view.get("revision", 0) == status.revision
