"""The requests that only look: one resource, a list in pages, the hosts, the version, readiness."""

import asyncio
import sys
from importlib import metadata as packages

from aiohttp import web
from msgspec import Struct

from hopwall_api import problems
from hopwall_api.access.discreet import told
from hopwall_api.access.roles import Caller, Verb
from hopwall_api.agent import Api
from hopwall_api.answers import API, etag, json_response, with_status
from hopwall_api.auth import CALLER, require
from hopwall_api.bgp_view import BgpView, bgp_view
from hopwall_api.parameters import ListOptions, list_options, query_of, refuse_unknown, write_token
from hopwall_api.progress import target_of
from hopwall_api.store import Place, Stored, TooOld, labels_of
from hopwall_api.watch import watch
from hopwall_model import codec
from hopwall_model.resources import API_VERSION, Key, Resource
from hopwall_model.status import HeldSnapshot, LastGood, Refusal, Waiting
from hopwall_runtime import clock

#: Resources looked at before others get their turn.
_PER_TURN = 1000
_WRITE_TIME_S = 30.0


async def api_in_sync(request: web.Request) -> Api:
    """Return the API, once it has read the stream, and all that was written through it.

    Errors: ApiProblem 503.
    """
    api = request.app[API]
    if not api.store.in_sync:
        raise problems.unavailable("The API is still reading the events stream; try again.")
    if not await api.writer.shown():
        raise problems.unavailable("What was written last cannot be shown yet; try again.")
    return api


async def get(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """Return one resource with how far its last write has come."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    key = Key(kind.__name__, request.match_info.get("namespace", ""), request.match_info["name"])
    stored = api.store.get(key)
    if stored is None:
        raise problems.not_found(f"{key} does not exist.")
    progress = api.progress([target_of(key, stored.revision, stored.resource)])
    resource = with_status(stored.resource, told(request[CALLER], progress))
    return json_response(resource, headers={"ETag": etag(stored.resource)})


async def list_(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """List or watch the resources of a kind, of one namespace or of all."""
    namespace = request.match_info.get("namespace")
    options = list_options(
        query_of(request.query), request.headers, kind=kind.__name__, namespace=namespace
    )
    api = await api_in_sync(request)
    caller = request[CALLER]
    if options.watch:
        require(request, Verb.WATCH, kind.__name__, namespace)
        return await watch(request, api, kind.__name__, namespace, options)
    at = options.at if options.at is not None else api.store.revision
    if options.limit is not None:
        return await _page(api, caller, kind.__name__, namespace, at, options, options.limit)
    return await _all(request, api, kind.__name__, namespace, at, options)


def _shown(stored: Stored, caller: Caller, options: ListOptions) -> bool:
    namespace = stored.resource.metadata.namespace or ""
    return caller.sees(namespace) and options.selector.matches(labels_of(stored.resource))


async def _page(
    api: Api,
    caller: Caller,
    kind: str,
    namespace: str | None,
    at: int,
    options: ListOptions,
    limit: int,
) -> web.Response:
    found: list[bytes] = []
    after, more = options.after, True
    while more and len(found) < limit:
        some = next_of(api, kind, namespace, at, after, _PER_TURN)
        more = len(some) == _PER_TURN
        for stored in some:
            after = place_of(stored)
            if _shown(stored, caller, options):
                found.append(codec.encode(stored.resource))
                if len(found) == limit:
                    more = bool(next_of(api, kind, namespace, at, after, 1))
                    break
        await asyncio.sleep(0)
    token = write_token(at, after, options.digest) if more and after is not None else ""
    body = _head(kind, at, token) + b",".join(found) + b"]}"
    return web.Response(body=body, content_type="application/json")


async def _all(
    request: web.Request,
    api: Api,
    kind: str,
    namespace: str | None,
    at: int,
    options: ListOptions,
) -> web.StreamResponse:
    """Stream the whole list as it was at `at`, in pieces, so that its size costs no memory."""
    after, comma, caller = options.after, b"", request[CALLER]
    some = next_of(api, kind, namespace, at, after, _PER_TURN)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    piece = _head(kind, at, "")
    while True:
        matching = [
            codec.encode(stored.resource) for stored in some if _shown(stored, caller, options)
        ]
        piece += (comma + b",".join(matching)) if matching else b""
        comma = b"," if matching else comma
        async with asyncio.timeout(_WRITE_TIME_S):
            await response.write(piece)
        piece = b""
        if len(some) < _PER_TURN:
            break
        after = place_of(some[-1])
        await asyncio.sleep(0)
        try:
            some = api.store.page(kind, namespace, at=at, after=after, n=_PER_TURN)
        except TooOld:
            # It outlived the memory of its revision. Half a list must not look like a whole one.
            raise ConnectionResetError from None
    await response.write(b"]}")
    await response.write_eof()
    return response


def _head(kind: str, at: int, token: str) -> bytes:
    metadata = {"resourceVersion": str(at)} | ({"continue": token} if token else {})
    head = codec.encode(
        {"kind": f"{kind}List", "apiVersion": API_VERSION, "metadata": metadata, "items": []}
    )
    return head[:-2]


def next_of(
    api: Api, kind: str, namespace: str | None, at: int, after: Place | None, n: int
) -> list[Stored]:
    """Return the next resources of a list.

    Errors: ApiProblem 410.
    """
    try:
        return api.store.page(kind, namespace, at=at, after=after, n=n)
    except TooOld as error:
        raise problems.gone(
            f"The list at resourceVersion {at} can no longer be continued; list again from the start."
        ) from error


def place_of(stored: Stored) -> Place:
    """Return the place of a resource in its list."""
    metadata = stored.resource.metadata
    return metadata.namespace or "", metadata.name


# ---------------------------------------------------------------- hosts


#: Three heartbeats of an agent.
SILENT_S = 15.0


class HostView(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a host last reported. `lag` is how many revisions it is behind calc, if both share an epoch.

    Units: `silentS` is there when the host has said nothing for longer than three heartbeats: seconds.
    """

    host: str
    reported: bool
    epoch: str = ""
    revision: int = 0
    received: int = 0
    in_sync: bool = False
    at: str = ""
    lag: int | None = None
    silent_s: int | None = None
    refused: tuple[Refusal, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    drift_repaired: int = 0
    rejected_messages: int = 0
    version: str = ""
    bgp: BgpView | None = None
    last_good: LastGood | None = None
    held: HeldSnapshot | None = None
    not_kept: str = ""
    held_up: str = ""


class HostViewList(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind", tag="HostList"
):
    """Every host that has reported or is declared as a Node, by name."""

    items: tuple[HostView, ...]


def _host_view(api: Api, host: str, *, sessions: bool = False) -> HostView:
    status = api.tracker.hosts.get(host)
    if status is None:
        return HostView(host=host, reported=False)
    silent_s = clock.monotonic() - api.heard_at.get(host, 0.0)
    return HostView(
        host=host,
        reported=True,
        silent_s=int(silent_s) if silent_s > SILENT_S else None,
        epoch=status.epoch,
        revision=status.revision,
        received=status.received,
        in_sync=status.in_sync,
        at=status.at,
        lag=api.tracker.lag_of(host),
        refused=status.refused,
        waiting=status.waiting,
        drift_repaired=status.drift_repaired,
        rejected_messages=status.rejected_messages,
        version=status.version,
        bgp=bgp_view(status.bgp, sessions=sessions),
        last_good=status.last_good,
        held=status.held,
        not_kept=status.not_kept,
        held_up=status.held_up,
    )


async def hosts(request: web.Request) -> web.StreamResponse:
    """List the hosts and how far each has come."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    nodes = api.store.page("Node", None, at=api.store.revision, after=None, n=sys.maxsize)
    names = {stored.resource.metadata.name for stored in nodes} | api.tracker.hosts.keys()
    return json_response(HostViewList(items=tuple(_host_view(api, name) for name in sorted(names))))


async def host(request: web.Request) -> web.StreamResponse:
    """Return one host and how far it has come."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    return json_response(
        _host_view(api, known_host(api, request.match_info["host"]), sessions=True)
    )


def known_host(api: Api, name: str) -> str:
    """Return the name of a host that has reported or is declared.

    Errors: ApiProblem 404.
    """
    if name not in api.tracker.hosts and api.store.get(Key("Node", "", name)) is None:
        raise problems.not_found(f"Host {name} has not reported, and no Node of this name exists.")
    return name


# ---------------------------------------------------------------- the service itself


async def version(request: web.Request) -> web.StreamResponse:
    """Return the version of the product and of the resources."""
    return json_response({"version": packages.version("hopwall"), "apiVersion": API_VERSION})


_SYNCS = {"always": "yes", "late": "NO", "unknown": "not known"}


async def readyz(request: web.Request) -> web.StreamResponse:
    """Tell whether the API can serve now; with `verbose`, each check."""
    api = request.app[API]
    reason = api.not_ready()
    if "verbose" not in request.query:
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)
    checks = {
        "nats connected": api.link.connected,
        "events stream folded": api.store.in_sync,
        "not stopping": not api.stopping,
    }
    lines = [f"[{'+' if good else '-'}] {name}" for name, good in checks.items()]
    lines.append(f"revision {api.store.revision}")
    lines.append(f"nats-server syncs before it acknowledges: {_SYNCS[api.syncs]}")
    if api.store.restoring is not None:
        lines.append(f"a restore has begun at {api.store.restoring.at} and not ended")
    return web.Response(text="\n".join(lines) + "\n", status=503 if reason else 200)
