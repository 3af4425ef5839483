"""Watching a list: server-sent events from the ring of recent changes.

A watcher is a cursor into the store's ring, so it costs no memory of its own however slow it is. Who falls
behind the ring is sent `gone` and has to list again; who takes no bytes for `_WRITE_TIME_S` is cut. While NATS is
not heard each is sent `stale`, again with each bookmark's turn, and `fresh` when that is over and all was sent.

Source: WHATWG HTML, server-sent events.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from hopwall_api import problems
from hopwall_api.access.roles import Caller
from hopwall_api.agent import Api
from hopwall_api.auth import CALLER, GATE
from hopwall_api.parameters import ListOptions
from hopwall_api.store import Change, Stored, TooOld, labels_of
from hopwall_model import codec, staleness
from hopwall_model.resources import KIND_BY_NAME, Key
from hopwall_runtime import clock

BOOKMARK_S = 15.0
#: How often a watch asks whether its caller's token is still good.
ADMIT_S = 5.0
_WRITE_TIME_S = 10.0
_PER_TURN = 500
#: How long to wait for a revision the caller has seen and this replica has not.
_CATCH_UP_S = 3.0


class _Watch:
    """One watcher's filter, and the text of what passes it."""

    def __init__(
        self, caller: Caller, kind: str, namespace: str | None, options: ListOptions
    ) -> None:
        self._caller = caller
        self._kind = kind
        self._namespace = namespace
        self._options = options

    def wants(self, stored: Stored | None) -> bool:
        if stored is None or not self._caller.sees(stored.resource.metadata.namespace or ""):
            return False
        return self._options.selector.matches(labels_of(stored.resource))

    def text(self, change: Change) -> bytes:
        """Return the event as this watcher sees it; nothing if it concerns others."""
        key = change.key
        if key.kind != self._kind or self._namespace not in (None, key.namespace):
            return b""
        if not self._caller.sees(key.namespace):
            return b""
        if change.after is not None and self.wants(change.after):
            return set_event(change.after, with_id=True)
        if self.wants(change.before) or not change.known:
            return _event("removed", _tombstone(key, change.revision), change.revision)
        return b""


def set_event(stored: Stored, *, with_id: bool) -> bytes:
    """Return the text of a `set` event."""
    return _event("set", codec.encode(stored.resource), stored.revision if with_id else None)


def _tombstone(key: Key, revision: int) -> bytes:
    metadata = {"name": key.name, "resourceVersion": str(revision)}
    if KIND_BY_NAME[key.kind].NAMESPACED:
        metadata["namespace"] = key.namespace
    return codec.encode({"kind": key.kind, "metadata": metadata})


def _event(name: str, data: bytes, revision: int | None) -> bytes:
    # JSON has no raw line breaks, so one data line holds it.
    head = f"id: {revision}\n" if revision is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


def _bookmark(revision: int) -> bytes:
    return _event("bookmark", codec.encode({"resourceVersion": str(revision)}), revision)


def _age(stale_s: int | None) -> bytes:
    word = staleness.FRESH if stale_s is None else staleness.STALE
    return _event(word, codec.encode(staleness.Age(seconds=stale_s or 0)), None)


async def watch(
    request: web.Request, api: Api, kind: str, namespace: str | None, options: ListOptions
) -> web.StreamResponse:
    """Send the changes of a list for ever; without a revision to start from, first all that is there."""
    if api.n_watchers >= api.max_watchers:
        raise problems.unavailable(
            f"{api.n_watchers} watches are open, the most this API takes; close some, or try again.",
            retry_after_s=10,
        )
    one = _Watch(request[CALLER], kind, namespace, options)
    cursor = await _start(api, options)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    api.n_watchers += 1
    try:
        await response.prepare(request)
        if options.since is None:
            await _send_all(response, api, one, kind, namespace, cursor)
        await _send(response, _bookmark(cursor))
        gate, caller = request.app[GATE], request[CALLER]
        await _follow(response, api, one, cursor, lambda: gate.admits(caller))
    except TimeoutError:
        # The client does not read. Closing without ceremony frees what is buffered for it.
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        pass
    finally:
        api.n_watchers -= 1
    return response


async def _start(api: Api, options: ListOptions) -> int:
    """Return the revision to begin after.

    Errors: ApiProblem 410.
    """
    since = options.since
    if since is None:
        return api.store.revision
    if not await api.folded.until(lambda: api.store.revision >= since, _CATCH_UP_S):
        raise problems.gone(
            f"Revision {since} is not in the stream, which is at {api.store.revision}; list again."
        )
    try:
        api.store.changes_since(since, 0)
    except TooOld as error:
        raise problems.gone(
            f"Changes after {since} are no longer remembered; list again."
        ) from error
    return since


async def _send_all(
    response: web.StreamResponse,
    api: Api,
    one: _Watch,
    kind: str,
    namespace: str | None,
    at: int,
) -> None:
    after = None
    while True:
        try:
            some = api.store.page(kind, namespace, at=at, after=after, n=_PER_TURN)
        except TooOld:
            raise ConnectionResetError from None
        # Without an id: a client that is cut here begins anew.
        await _send(response, b"".join(set_event(s, with_id=False) for s in some if one.wants(s)))
        if len(some) < _PER_TURN:
            return
        metadata = some[-1].resource.metadata
        after = (metadata.namespace or "", metadata.name)


async def _follow(
    response: web.StreamResponse,
    api: Api,
    one: _Watch,
    cursor: int,
    admitted: Callable[[], bool],
) -> None:
    lineage = api.store.lineage
    bookmark_at = clock.monotonic() + BOOKMARK_S
    told_stale = False
    while not api.stopping:
        if not admitted():
            over = {"status": 401, "detail": "The token of this watch is revoked or expired."}
            await _send(response, _event("error", codec.encode(over), None))
            return
        try:
            changes = api.store.changes_since(cursor, _PER_TURN)
        except TooOld:
            changes, lineage = [], -1
        if api.store.lineage != lineage:
            gone = {"status": 410, "detail": "The changes since are not remembered; list again."}
            await _send(response, _event("gone", codec.encode(gone), None))
            return
        if changes:
            cursor = changes[-1].revision
            await _send(response, b"".join(one.text(change) for change in changes))
            continue
        # Behind all that was missed.
        if (api.stale_s() is not None) != told_stale:
            told_stale = not told_stale
            await _send(response, _age(api.stale_s()))
            continue
        cursor = max(cursor, api.store.revision)
        left = bookmark_at - clock.monotonic()
        if left > 0:
            await api.news.wait(min(left, ADMIT_S))
            continue
        await _send(response, _age(api.stale_s()) if told_stale else _bookmark(cursor))
        bookmark_at = clock.monotonic() + BOOKMARK_S


async def _send(response: web.StreamResponse, text: bytes) -> None:
    if text:
        async with asyncio.timeout(_WRITE_TIME_S):
            await response.write(text)
