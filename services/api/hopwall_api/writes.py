"""The requests that change something: PUT, POST, PATCH, DELETE of one resource, and bulk apply."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from aiohttp import web
from msgspec.structs import replace

from hopwall_api import bodies, intent, problems
from hopwall_api.agent import Api
from hopwall_api.answers import API, REQUEST_ID, answer
from hopwall_api.auth import CALLER, GATE, actor_of, check_items, check_plans
from hopwall_api.intent import Expectation, Plan, Stamp
from hopwall_api.ipam.spans import span_of
from hopwall_api.outcomes import Outcome
from hopwall_api.parameters import WriteOptions, expectation, query_of, write_options
from hopwall_api.pools import check_apart
from hopwall_api.store import Held
from hopwall_api.writer import Planner, Source, check_batch, path_of
from hopwall_model.resources import Key, Resource, key_of
from hopwall_runtime import clock

OnePlanner = Callable[[Held, Stamp], Plan]


async def put(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """Create or replace one resource."""
    options = write_options(query_of(request.query), request.headers)
    body = await bodies.read(request, type_=bodies.JSON, most=bodies.MAX_ONE_BYTES)
    key = _key(request, kind)
    wanted = await bodies.resource_of(body, kind, key.namespace, key.name)
    expected = expectation(request.headers, create=False, version=wanted.metadata.resource_version)
    return await one(request, options, body, key, _setter(key, wanted, expected))


async def post(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """Create one resource, which must not exist."""
    options = write_options(query_of(request.query), request.headers)
    body = await bodies.read(request, type_=bodies.JSON, most=bodies.MAX_ONE_BYTES)
    namespace = request.match_info.get("namespace", "")
    wanted = await bodies.resource_of(body, kind, namespace)
    key = key_of(wanted)
    if wanted.metadata.resource_version is not None:
        raise problems.invalid(
            "A resource that is to be created has no resourceVersion; remove it."
        )
    expected = expectation(request.headers, create=True, version=None)
    return await one(request, options, body, key, _setter(key, wanted, expected))


async def patch(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """Change one resource by a merge patch (RFC 7396)."""
    options = write_options(query_of(request.query), request.headers)
    body = await bodies.read(request, type_=bodies.MERGE_PATCH, most=bodies.MAX_ONE_BYTES)
    key = _key(request, kind)
    change = bodies.parse(body)
    if not isinstance(change, dict):
        raise problems.invalid("A merge patch is a JSON object.")
    metadata = change.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if version is not None and not isinstance(version, str):
        raise problems.invalid("metadata.resourceVersion is a text.")
    expected = expectation(request.headers, create=False, version=version)

    def plan(held: Held, stamp: Stamp) -> Plan:
        intent.check(key, held, expected)
        if held.stored is None:
            raise problems.not_found(f"{key} does not exist; create it with PUT.")
        merged = intent.patched(held.stored.resource, change)
        document = bodies.document_for(kind, key.namespace, key.name, merged)
        return intent.plan_set(key, bodies.admitted(kind, document), held, stamp)

    return await one(request, options, body, key, plan)


async def delete(request: web.Request, kind: type[Resource]) -> web.StreamResponse:
    """Remove one resource."""
    options = write_options(query_of(request.query), request.headers)
    key = _key(request, kind)
    expected = expectation(request.headers, create=False, version=None)

    def plan(held: Held, _: Stamp) -> Plan:
        if held.stored is None:
            return intent.plan_removal(key, held)
        intent.check(key, held, expected)
        return intent.plan_removal(key, held)

    return await one(request, options, b"", key, plan)


async def apply(request: web.Request) -> web.StreamResponse:
    """Create or replace many resources, all or none."""
    options = write_options(query_of(request.query), request.headers)
    body = await bodies.read(request, type_=bodies.JSON, most=bodies.MAX_BULK_BYTES)
    items, place = bodies.items_of(body)
    check_batch(len(items))
    wanted = {key_of(one): one for one in await bodies.admit_all(items, place)}
    check_items(request[CALLER], list(wanted), place)
    expected = {
        key: Expectation(version=one.metadata.resource_version) for key, one in wanted.items()
    }

    def plan(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        for key in wanted:
            intent.check(key, held[key], expected[key])
        return [intent.plan_set(key, one, held[key], stamp) for key, one in wanted.items()]

    return await _carry_out(request, options, body, "many", list(wanted), plan, place)


# ---------------------------------------------------------------- what they share


def _key(request: web.Request, kind: type[Resource]) -> Key:
    return Key(kind.__name__, request.match_info.get("namespace", ""), request.match_info["name"])


def _setter(key: Key, wanted: Resource, expected: Expectation) -> OnePlanner:
    def plan(held: Held, stamp: Stamp) -> Plan:
        intent.check(key, held, expected)
        return intent.plan_set(key, wanted, held, stamp)

    return plan


async def one(
    request: web.Request, options: WriteOptions, body: bytes, key: Key, plan: OnePlanner
) -> web.StreamResponse:
    """Carry out one write and answer."""

    def planner(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        return [plan(held[key], stamp)]

    response = await _carry_out(request, options, body, "one", [key], planner)
    if response.status == 201:
        response.headers["Location"] = path_of(key)
    return response


async def _carry_out(
    request: web.Request,
    options: WriteOptions,
    body: bytes,
    form: Literal["one", "many"],
    keys: Sequence[Key],
    planner: Planner,
    place: str | None = None,
) -> web.Response:
    api = request.app[API]
    planner = _apart(request, _confined(request, planner, place), place)
    if not api.store.in_sync:
        raise problems.unavailable("The API is still reading the events stream; try again.")
    request_hash = _request_hash(request, body)
    source = Source(
        actor=actor_of(request),
        request_id=request[REQUEST_ID],
        idempotency_key=options.idempotency_key,
        request_hash=f"{form}-{request_hash}",
    )
    if options.idempotency_key and request.app[GATE].closed:
        # A key is its caller's own: nobody else's request meets it.
        source = replace(source, idempotency_key=f"{request[CALLER].name}:{source.idempotency_key}")
    if not options.idempotency_key or options.dry:
        written = await api.writer.write(keys, planner, source, dry=options.dry)
        return await answer(request, Outcome(form=form, written=written, dry=options.dry), options)
    outcome, replayed = await _once(
        api, source.idempotency_key, request_hash, form, keys, planner, source
    )
    response = await answer(request, outcome, options)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _confined(request: web.Request, planner: Planner, place: str | None) -> Planner:
    """Return the planner with what the caller's role is confined to checked on each plan."""
    view, caller = request.app[API].ipam.view, request[CALLER]

    def in_pool(address: str) -> bool:
        return view.pool_of(span_of(address)) is not None

    def plan(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        plans = planner(held, stamp)
        check_plans(caller, held, plans, in_pool, place)
        return plans

    return plan


def _apart(request: web.Request, planner: Planner, place: str | None) -> Planner:
    """Return the planner with what all pools together must keep checked on each plan."""
    view = request.app[API].ipam.view

    def plan(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
        plans = planner(held, stamp)
        check_apart(view.pool_ranges, held, plans, place)
        return plans

    return plan


async def _once(
    api: Api,
    idempotency_key: str,
    request_hash: str,
    form: Literal["one", "many"],
    keys: Sequence[Key],
    planner: Planner,
    source: Source,
) -> tuple[Outcome, bool]:
    """Carry the request out unless one of this key was; return what became of it, and which it was."""
    if idempotency_key in api.busy_keys:
        raise problems.conflict(
            "A request with this Idempotency-Key is being carried out; wait for its answer."
        )
    api.busy_keys.add(idempotency_key)
    try:
        known = _recalled(api, idempotency_key, request_hash)
        if known is not None:
            return known, True
        try:
            written = await api.writer.write(keys, planner, source)
        except problems.ApiProblem:
            # Another replica may have carried it out meanwhile: then this one met a conflict.
            known = _recalled(api, idempotency_key, request_hash)
            if known is None:
                raise
            return known, True
        outcome = Outcome(form=form, written=written)
        api.memory.remember(idempotency_key, request_hash, outcome, clock.monotonic())
        return outcome, False
    finally:
        api.busy_keys.discard(idempotency_key)


def _recalled(api: Api, idempotency_key: str, request_hash: str) -> Outcome | None:
    known = api.memory.recall(idempotency_key, clock.monotonic())
    if known is None:
        return None
    if known[0] != request_hash:
        raise problems.invalid(
            "This Idempotency-Key was used for another request; use a new one for this request."
        )
    return known[1]


def _request_hash(request: web.Request, body: bytes) -> str:
    """Return what makes two requests the same: method, path, preconditions and body."""
    headers: list[Any] = [request.headers.get(name, "") for name in ("If-Match", "If-None-Match")]
    head = "\n".join([request.method, request.path, *headers, ""]).encode(
        "utf-8", "surrogateescape"
    )
    return hashlib.sha256(head + body).hexdigest()[:32]
