"""Every route in one table: the app is built from it, and so is the OpenAPI document."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import Struct

from hopwall_api import migrations, reads, release, restore, rules, writes
from hopwall_api.access.roles import Verb
from hopwall_api.answers import ApplyResult, Removal
from hopwall_api.auth import Need
from hopwall_api.ipam import answers as ipam
from hopwall_api.ipam import calls
from hopwall_api.parameters import LIST_PARAMETERS, WRITE_PARAMETERS
from hopwall_api.reads import HostView, HostViewList
from hopwall_api.release import RELEASE_PARAMETERS, HostReleased
from hopwall_api.rules import RULE_PARAMETERS, RuleList
from hopwall_model.resources import KEPT_KINDS, KINDS, LiveMigration, Resource

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KindHandler = Callable[[web.Request, type[Resource]], Awaitable[web.StreamResponse]]

_IF_MATCH = "If-Match"
_IF_NONE_MATCH = "If-None-Match"
_WRITE_HEADERS = ("Idempotency-Key", "Prefer", "X-Request-Id")


class Route(Struct, frozen=True, kw_only=True):
    """One method on one path, and what its document says of it."""

    method: str
    path: str
    name: str
    summary: str
    handler: Any
    #: What the caller must be allowed; None: everybody may.
    need: Need | None
    #: Media type and type name of the request body.
    body: tuple[str, str] | None = None
    #: Type name of the good answer; "" for text.
    answers: str = ""
    #: What it answers where that is no JSON: a media type.
    media: str = "text/plain"
    statuses: tuple[int, ...] = (200,)
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    #: Statuses of problems.
    refusals: tuple[int, ...] = ()


_READ = (400, 404, 503)
_WRITE = (400, 404, 408, 409, 412, 413, 415, 422, 503)


def all_routes() -> list[Route]:
    """Return every route of the app."""
    of_kinds = [route for kind in KINDS for route in _kind_routes(kind)]
    beside = [*_service_routes(), *_backup_routes(), *_ipam_routes()]
    return [*beside, *of_kinds, *_migration_routes()]


def _kind_routes(kind: type[Resource]) -> list[Route]:
    name, plural = kind.__name__, kind.PLURAL
    everywhere = f"/v1/{plural}"
    collection = f"/v1/namespaces/{{namespace}}/{plural}" if kind.NAMESPACED else everywhere
    routes = [_list(kind, collection, f"list{name}")]
    if kind in KEPT_KINDS:
        return [*routes, _get(kind, f"{collection}/{{name}}")]
    routes.append(
        _kind_route(
            "POST",
            collection,
            f"create{name}",
            f"Create a {name}, which must not exist.",
            partial(writes.post, kind=kind),
            need=Need(Verb.WRITE, name),
            body=("application/json", name),
            answers=name,
            statuses=(201, 202, 200),
            query=WRITE_PARAMETERS,
            headers=_WRITE_HEADERS,
            refusals=_WRITE,
        )
    )
    if kind.NAMESPACED:
        routes.append(_list(kind, everywhere, f"listAll{name}"))
    return routes + _one_routes(kind, f"{collection}/{{name}}")


def _kind_route(
    method: str, path: str, name: str, summary: str, handler: Handler, **more: Any
) -> Route:
    return Route(method=method, path=path, name=name, summary=summary, handler=handler, **more)


def _list(kind: type[Resource], path: str, name: str) -> Route:
    return _kind_route(
        "GET",
        path,
        name,
        f"List or watch resources of kind {kind.__name__}.",
        partial(reads.list_, kind=kind),
        need=Need(Verb.READ, kind.__name__),
        answers=f"{kind.__name__}List",
        query=LIST_PARAMETERS,
        headers=("Last-Event-ID",),
        refusals=(400, 410, 503),
    )


def _get(kind: type[Resource], path: str) -> Route:
    name = kind.__name__
    return _kind_route(
        "GET",
        path,
        f"get{name}",
        f"Return a {name}, and how far its last write has come.",
        partial(reads.get, kind=kind),
        need=Need(Verb.READ, kind.__name__),
        answers=name,
        refusals=_READ,
    )


def _one_routes(kind: type[Resource], path: str) -> list[Route]:
    name = kind.__name__
    written: dict[str, Any] = {
        "query": WRITE_PARAMETERS,
        "headers": (_IF_MATCH, *_WRITE_HEADERS),
        "refusals": _WRITE,
    }
    replaced = written | {"headers": (_IF_MATCH, _IF_NONE_MATCH, *_WRITE_HEADERS)}
    return [
        _get(kind, path),
        _kind_route(
            "PUT",
            path,
            f"put{name}",
            f"Create or replace a {name}.",
            partial(writes.put, kind=kind),
            need=Need(Verb.WRITE, name),
            body=("application/json", name),
            answers=name,
            statuses=(200, 201, 202),
            **replaced,
        ),
        _kind_route(
            "PATCH",
            path,
            f"patch{name}",
            f"Change a {name} by a merge patch (RFC 7396).",
            partial(writes.patch, kind=kind),
            need=Need(Verb.WRITE, name),
            body=("application/merge-patch+json", ""),
            answers=name,
            statuses=(200, 202),
            **replaced,
        ),
        _kind_route(
            "DELETE",
            path,
            f"delete{name}",
            f"Remove a {name}.",
            partial(writes.delete, kind=kind),
            need=Need(Verb.DELETE, name),
            answers=Removal.__name__,
            statuses=(200, 202),
            **written,
        ),
    ]


def _service_routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/v1/apply",
            name="apply",
            summary="Create or replace up to 1000 resources, all or none.",
            handler=writes.apply,
            need=Need(Verb.WRITE, anywhere=True),
            body=("application/json", "ResourceList"),
            answers=ApplyResult.__name__,
            statuses=(200, 202),
            query=WRITE_PARAMETERS,
            headers=_WRITE_HEADERS,
            refusals=(400, 408, 409, 413, 415, 422, 503),
        ),
        *_host_routes(),
        Route(
            method="GET",
            path="/version",
            name="getVersion",
            summary="Return the version of the product.",
            handler=reads.version,
            need=None,
            answers="Version",
        ),
        Route(
            method="GET",
            path="/readyz",
            name="ready",
            summary="Tell whether the API can serve now.",
            handler=reads.readyz,
            need=None,
            statuses=(200, 503),
            query=("verbose",),
        ),
    ]


def _backup_routes() -> list[Route]:
    posts: tuple[tuple[str, str, str, Handler, type[Struct]], ...] = (
        ("", "begin", "Begin a restore, or go on with it.", restore.begin, restore.RestoreBegin),
        ("/items", "write", "Write a part of it.", restore.part, restore.RestorePart),
        ("/end", "end", "End it: hosts take over all of it.", restore.end, restore.RestoreEnd),
    )
    return [
        Route(
            method="GET",
            path="/v1/backup",
            name="backup",
            summary="Return all resources as of one revision: JSON lines, the first says what they are.",
            handler=restore.backup,
            media=restore.LINES,
            need=Need(Verb.OPERATE),
            refusals=(400, 503),
        ),
        *(
            Route(
                method="POST",
                path=f"/v1/restore{path}",
                name=f"{word}Restore",
                summary=summary,
                handler=handler,
                need=Need(Verb.OPERATE),
                body=("application/json", body.__name__),
                answers=restore.RestoreState.__name__,
                headers=("X-Request-Id",),
                refusals=(400, 408, 409, 413, 415, 422, 503),
            )
            for path, word, summary, handler, body in posts
        ),
    ]


def _host_routes() -> list[Route]:
    return [
        Route(
            method="GET",
            path="/v1/hosts",
            name="listHosts",
            summary="List the hosts and how far each has come.",
            handler=reads.hosts,
            need=Need(Verb.HOSTS),
            answers=HostViewList.__name__,
            refusals=(400, 503),
        ),
        Route(
            method="GET",
            path="/v1/hosts/{host}",
            name="getHost",
            summary="Return one host and how far it has come.",
            handler=reads.host,
            need=Need(Verb.HOSTS),
            answers=HostView.__name__,
            refusals=_READ,
        ),
        Route(
            method="GET",
            path="/v1/hosts/{host}/rules",
            name="listHostRules",
            summary="List the rules and default denials in a host's kernel, and how often each was met.",
            handler=rules.host_rules,
            need=Need(Verb.RULES),
            answers=RuleList.__name__,
            query=RULE_PARAMETERS,
            refusals=_READ,
        ),
        Route(
            method="POST",
            path="/v1/hosts/{host}/release",
            name="releaseHost",
            summary="Let a host obey the snapshot it holds back, as too much of what it has is missing in it.",
            handler=release.release_host,
            need=Need(Verb.OPERATE),
            answers=HostReleased.__name__,
            query=RELEASE_PARAMETERS,
            refusals=(400, 404, 409, 503),
        ),
    ]


def _migration_routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path=f"/v1/namespaces/{{namespace}}/{LiveMigration.PLURAL}/{{name}}/switch",
            name="switchLiveMigration",
            summary="Say that the workload of a LiveMigration runs at its target now.",
            handler=migrations.switch,
            need=Need(Verb.WRITE, LiveMigration.__name__),
            answers=LiveMigration.__name__,
            statuses=(200, 202),
            query=WRITE_PARAMETERS,
            headers=(_IF_MATCH, *_WRITE_HEADERS),
            refusals=_WRITE,
        )
    ]


def _ipam_routes() -> list[Route]:
    writes_: dict[str, Any] = {
        "method": "POST",
        "need": Need(Verb.ASSIGN),
        "headers": ("X-Request-Id",),
        "refusals": (400, 408, 409, 413, 415, 422, 503),
    }
    return [
        Route(
            path="/v1/ipam/assign",
            name="assignAddresses",
            summary="Give a handle the addresses it lacks; those it has are answered again.",
            handler=calls.assign,
            body=("application/json", "Assign"),
            answers=ipam.Assignment.__name__,
            statuses=(200, 201),
            **writes_,
        ),
        Route(
            path="/v1/ipam/release",
            name="releaseAddresses",
            summary="Take back addresses, all of a handle, or the blocks of a host.",
            handler=calls.release,
            body=("application/json", "Release"),
            answers=ipam.ReleaseAnswer.__name__,
            **writes_,
        ),
        *(
            Route(
                method="GET",
                path=f"/v1/ipam/{path}",
                name=name,
                summary=summary,
                need=Need(Verb.ADDRESSES),
                **more,
            )
            for path, name, summary, more in _IPAM_READS
        ),
    ]


_IPAM_READS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "blocks",
        "listBlocks",
        "List the blocks, of all hosts or of one, and how full they are.",
        {
            "handler": calls.blocks,
            "answers": ipam.BlockList.__name__,
            "query": ("node",),
            "refusals": (400, 503),
        },
    ),
    (
        "handles/{handle}",
        "getHandle",
        "Return the addresses of a handle.",
        {"handler": calls.handle, "answers": ipam.Assignment.__name__, "refusals": _READ},
    ),
    (
        "addresses/{address}",
        "getAddress",
        "Say who has an address.",
        {"handler": calls.address, "answers": ipam.AddressView.__name__, "refusals": _READ},
    ),
    (
        "check",
        "checkAddresses",
        "Compare what is assigned with what the workload endpoints use.",
        {"handler": calls.check, "answers": ipam.CheckReport.__name__, "refusals": (400, 503)},
    ),
)
