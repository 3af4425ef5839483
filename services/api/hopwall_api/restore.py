"""Backup and restore of the whole intent.

A backup is every resource at one revision: a line that says what it is, then a line of JSON for each. A restore is
begun, written in parts, and ended. Between begin and end the stream is a mixture: calc tells the hosts nothing, they
enforce what they have, and nobody else writes. So a restore that stops half-way opens nothing, and the same file
goes on with it.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata as packages
from typing import Any

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from hopwall_api import bodies, intent, problems, restoring
from hopwall_api.agent import Api
from hopwall_api.answers import REQUEST_ID, json_response
from hopwall_api.auth import actor_of
from hopwall_api.intent import Plan, Stamp
from hopwall_api.parameters import query_of, refuse_unknown
from hopwall_api.reads import api_in_sync
from hopwall_api.store import Held
from hopwall_api.writer import Source, check_batch
from hopwall_model import codec
from hopwall_model.events import RESTORE, Event, RestoreBegun, RestoreEnded
from hopwall_model.resources import KIND_BY_NAME, Key, Resource, key_of
from hopwall_runtime import clock

_PER_TURN = 500
_WRITE_TIME_S = 30.0
FORMAT = 1
LINES = "application/jsonl"


class BackupHead(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind", tag="HopwallBackup"
):
    """The first line of a backup. `sha256` is of all lines after it."""

    format: int
    revision: int
    store: str
    taken_at: str
    version: str
    count: int
    sha256: str
    #: Whether a restore was under way: then this is a mixture, and no backup.
    restoring: bool = False


class RestoreBegin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Begin to restore a file, or go on with it. `replace`: what is stored now may be changed and removed.

    `instead`: give up the restore of another file that has begun and not ended.
    """

    file: str
    replace: bool = False
    instead: bool = False


class RestorePart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of what is to be removed; the resources to be set stand in `items` beside it."""

    file: str
    remove: tuple[Key, ...] = ()
    items: Any = ()


class RestoreEnd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the restore of this file: all of it is stored."""

    file: str


class RestoreState(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a restore stands."""

    file: str
    resource_version: str
    written: int = 0
    removed: int = 0
    unchanged: int = 0


async def backup(request: web.Request) -> web.StreamResponse:
    """Stream every resource as of one revision."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    # Values of one moment: what is written meanwhile changes none of them.
    resources, revision = api.store.everything(), api.store.revision
    restoring = api.store.restoring is not None
    digest = hashlib.sha256()
    for start in range(0, len(resources), _PER_TURN):
        digest.update(_lines(resources[start : start + _PER_TURN]))
        await asyncio.sleep(0)
    head = BackupHead(
        format=FORMAT,
        revision=revision,
        store=api.link.store,
        taken_at=clock.now_text(),
        version=packages.version("hopwall"),
        count=len(resources),
        sha256=digest.hexdigest(),
        restoring=restoring,
    )
    response = web.StreamResponse(headers={"Content-Type": LINES})
    await response.prepare(request)
    await response.write(codec.encode(head) + b"\n")
    for start in range(0, len(resources), _PER_TURN):
        async with asyncio.timeout(_WRITE_TIME_S):
            await response.write(_lines(resources[start : start + _PER_TURN]))
    await response.write_eof()
    return response


def _lines(resources: Sequence[Resource]) -> bytes:
    return b"".join(codec.encode(intent.bare(one)) + b"\n" for one in resources)


async def begin(request: web.Request) -> web.StreamResponse:
    """Begin a restore, or find that it has begun."""
    api = await api_in_sync(request)
    wanted = await _body(request, RestoreBegin)
    resumed = False

    def decide(last: Event | None) -> Event:
        nonlocal resumed
        resumed = isinstance(last, RestoreBegun)
        if isinstance(last, RestoreBegun) and last.file != wanted.file and not wanted.instead:
            raise problems.conflict(
                f"The restore of another file has begun at {last.at} and has not ended. Go on with"
                " that file, or say that this one is to be restored instead (--instead)."
            )
        if not resumed and not wanted.replace and _holds(api):
            raise _not_empty()
        return RestoreBegun(file=wanted.file, at=clock.now_text())

    revision = await api.writer.mark(RESTORE, decide, _source(request))
    if not resumed and not wanted.replace and _holds(api):
        # Another wrote just before it began: only now that is seen.
        await api.writer.mark(RESTORE, lambda last: _ended(last, wanted.file), _source(request))
        raise _not_empty()
    return json_response(RestoreState(file=wanted.file, resource_version=str(revision)))


async def part(request: web.Request) -> web.StreamResponse:
    """Write and remove some of it, all or nothing."""
    api = await api_in_sync(request)
    body = await bodies.read(request, type_=bodies.JSON, most=bodies.MAX_BULK_BYTES)
    wanted = _decoded(body, RestorePart)
    items, place = bodies.items_of(body)
    check_batch(len(items) + len(wanted.remove))
    resources = {key_of(one): one for one in await bodies.admit_all(items, place, kept=True)}
    removed = {key for key in wanted.remove if key not in resources and key.kind in KIND_BY_NAME}

    def planner(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        plans = [intent.plan_restored(k, one, held[k], stamp) for k, one in resources.items()]
        there = (key for key in removed if held[key].stored is not None)
        return [*plans, *(intent.plan_removal(key, held[key]) for key in there)]

    source = replace(_source(request), restores=wanted.file)
    written = await api.writer.write([*resources, *removed], planner, source)
    words = [one.word for one in written]
    return json_response(
        RestoreState(
            file=wanted.file,
            resource_version=str(api.store.revision),
            written=words.count("created") + words.count("configured"),
            removed=words.count("removed"),
            unchanged=words.count("unchanged"),
        )
    )


async def end(request: web.Request) -> web.StreamResponse:
    """End a restore: calc resolves all of it at once, and others may write again."""
    api = await api_in_sync(request)
    wanted = await _body(request, RestoreEnd)

    revision = await api.writer.mark(
        RESTORE, lambda last: _ended(last, wanted.file), _source(request)
    )
    return json_response(RestoreState(file=wanted.file, resource_version=str(revision)))


def _ended(last: Event | None, file: str) -> RestoreEnded | None:
    """Return the end of this file's restore; None where it has ended: who heard no answer asks again.

    Errors: ApiProblem 409.
    """
    if isinstance(last, RestoreEnded) and last.file == file:
        return None
    restoring.check(last if isinstance(last, RestoreBegun) else None, file)
    return RestoreEnded(file=file)


def _not_empty() -> problems.ApiProblem:
    return problems.conflict(
        "The store holds resources already; a restore would change and remove some."
        " Look at what it would do (--dry-run), then allow it (--replace)."
    )


def _holds(api: Api) -> bool:
    return any(api.store.counts().values())


def _source(request: web.Request) -> Source:
    return Source(actor=actor_of(request), request_id=request[REQUEST_ID])


async def _body(request: web.Request, type_: Any) -> Any:
    body = await bodies.read(request, type_=bodies.JSON, most=bodies.MAX_ONE_BYTES)
    return _decoded(body, type_)


def _decoded(body: bytes, type_: Any) -> Any:
    try:
        return codec.decoder(type_)(body)
    except codec.CodecError as error:
        raise problems.invalid(f"The body is not what a restore takes: {error}.") from error
