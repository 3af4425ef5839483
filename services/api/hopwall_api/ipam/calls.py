"""The requests of address management. Shell: bodies to demands, results to answers."""

import asyncio
from collections import Counter

from aiohttp import web

from hopwall_api import bodies, problems
from hopwall_api.agent import Api
from hopwall_api.answers import API, REQUEST_ID, json_response
from hopwall_api.auth import actor_of
from hopwall_api.ipam.answers import (
    AddressView,
    Assignment,
    BlockList,
    CheckReport,
    Fault,
    ReleaseAnswer,
    address_view,
    block_faults,
    pool_faults,
    summary,
    unreadable_faults,
    use_faults,
)
from hopwall_api.ipam.demands import Assign, Release, address_of, assign_of, release_of
from hopwall_api.ipam.desk import Done, times_at
from hopwall_api.ipam.plan import Assigned, Refused, Released
from hopwall_api.ipam.spans import text_of
from hopwall_api.parameters import query_of, refuse_unknown
from hopwall_api.reads import SILENT_S, api_in_sync
from hopwall_runtime import clock

#: Faults that are told one by one.
MAX_FAULTS = 1000
_PER_TURN = 500
_MAX_BODY_BYTES = 256 * 1024


async def assign(request: web.Request) -> web.StreamResponse:
    """Give a handle the addresses it lacks."""
    refuse_unknown(query_of(request.query), ())
    body = await bodies.read(request, type_=bodies.JSON, most=_MAX_BODY_BYTES)
    wanted = assign_of(bodies.parse(body))
    done = await _carried_out(request, wanted)
    assert isinstance(done.result, Assigned)
    answer = _assignment(request.app[API], wanted.handle, done.result.addresses, done.revision)
    return json_response(answer, status=201 if done.result.changed else 200)


async def release(request: web.Request) -> web.StreamResponse:
    """Take addresses or blocks back."""
    refuse_unknown(query_of(request.query), ())
    body = await bodies.read(request, type_=bodies.JSON, most=_MAX_BODY_BYTES)
    wanted = release_of(bodies.parse(body))
    if wanted.node and not wanted.force:
        _check_silent(await api_in_sync(request), wanted.node)
    done = await _carried_out(request, wanted)
    assert isinstance(done.result, Released)
    return json_response(
        ReleaseAnswer(
            released=done.result.released,
            not_assigned=done.result.not_assigned,
            blocks=done.result.blocks,
            resource_version=str(done.revision),
        )
    )


def _check_silent(api: Api, host: str) -> None:
    """Refuse to take the blocks of a host that speaks.

    Errors: ApiProblem 422.
    """
    heard_at = api.heard_at.get(host)
    silent_s = clock.monotonic() - heard_at if heard_at is not None else SILENT_S
    if silent_s < SILENT_S:
        why = (
            f"Host {host} was heard {silent_s:.0f} s ago, so its blocks stay: stop hopwall-dataplane on it, and ask"
            f" again {SILENT_S:.0f} s later, or force the release (force, --force)."
        )
        raise _problem(api, Refused(why, field="/node"))


async def _carried_out(request: web.Request, wanted: Assign | Release) -> Done:
    api = request.app[API]
    if not api.store.in_sync:
        raise problems.unavailable("The API is still reading the events stream; try again.")
    try:
        return await api.ipam.carry_out(
            wanted, actor=actor_of(request), request_id=request[REQUEST_ID]
        )
    except Refused as refused:
        raise _problem(api, refused) from refused


def _problem(api: Api, refused: Refused) -> problems.ApiProblem:
    if refused.field:
        error = problems.FieldError(pointer=refused.field, reason=str(refused), code="value")
        return problems.invalid(str(refused), [error])
    wait_s = max(1, api.ipam.view.settings.ip_cooldown_seconds) if refused.later else 0
    return problems.exhausted(str(refused), retry_after_s=wait_s)


def _assignment(api: Api, handle: str, addresses: tuple[str, ...], revision: int) -> Assignment:
    view = api.ipam.view
    return Assignment(
        handle=handle,
        addresses=tuple(address_view(view, address) for address in addresses),
        resource_version=str(revision),
    )


# ---------------------------------------------------------------- looking


async def blocks(request: web.Request) -> web.StreamResponse:
    """List the blocks."""
    query = query_of(request.query)
    refuse_unknown(query, ("node",))
    api = await api_in_sync(request)
    view = api.ipam.view
    names = view.blocks_of_host.get(query["node"], []) if "node" in query else list(view.blocks)
    rested = times_at(clock.now_text(), view.settings.ip_cooldown_seconds).rested
    found = sorted((view.blocks[name] for name in names), key=lambda block: block.span)
    return json_response(BlockList(items=tuple(summary(view, one, rested) for one in found)))


async def handle(request: web.Request) -> web.StreamResponse:
    """Return the addresses of a handle."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    name = request.match_info["handle"]
    addresses = api.ipam.view.addresses_of_handle.get(name, ())
    if not addresses:
        raise problems.not_found(f"The handle {name[:256]} has no address.")
    return json_response(_assignment(api, name, addresses, api.store.revision))


async def address(request: web.Request) -> web.StreamResponse:
    """Say who has an address."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    wanted = address_of(request.match_info["address"])
    found: AddressView = address_view(api.ipam.view, wanted)
    if not (found.pool or found.block or found.endpoints):
        raise problems.not_found(f"{wanted} is in no IPPool and in no block.")
    return json_response(found)


async def check(request: web.Request) -> web.StreamResponse:
    """Compare what is assigned with what the endpoints use."""
    refuse_unknown(query_of(request.query), ())
    api = await api_in_sync(request)
    view = api.ipam.view
    counts: Counter[str] = Counter()
    faults: list[Fault] = []

    def note(found: list[Fault]) -> None:
        counts.update(fault.what for fault in found)
        faults.extend(found[: MAX_FAULTS - len(faults)])

    note(list(pool_faults(view)))
    note(list(unreadable_faults(view)))
    names = sorted(view.blocks, key=lambda name: view.blocks[name].span)
    for start in range(0, len(names), _PER_TURN):
        some = [view.blocks[n] for n in names[start : start + _PER_TURN] if n in view.blocks]
        note(list(block_faults(view, some)))
        await asyncio.sleep(0)
    used = sorted(view.endpoints_at)
    for start in range(0, len(used), _PER_TURN):
        places = [place for place in used[start : start + _PER_TURN] if place in view.endpoints_at]
        present = [text_of(family, number) for family, number in places]
        note(list(use_faults(view, present)))
        await asyncio.sleep(0)
    n_assigned = sum(len(block.spec.allocations) for block in view.blocks.values())
    report = CheckReport(
        n_blocks=len(view.blocks),
        n_assigned=n_assigned,
        counts=dict(sorted(counts.items())),
        faults=tuple(faults),
    )
    return json_response(report)
