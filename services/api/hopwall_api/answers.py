"""From outcomes to HTTP answers: the bodies, the ETag, and waiting until a write is in force."""

from typing import Any

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from hopwall_api.access.discreet import told
from hopwall_api.agent import Api
from hopwall_api.auth import CALLER
from hopwall_api.outcomes import Outcome, Written
from hopwall_api.parameters import WriteOptions
from hopwall_api.progress import Progress
from hopwall_model import codec
from hopwall_model.resources import Key, Resource

REQUEST_ID = web.RequestKey("request_id", str)
TRACE_ID = web.RequestKey("trace_id", str)
API = web.AppKey("api", Api)


class ItemKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What names a resource, as it is shown."""

    kind: str
    name: str
    namespace: str = ""


class Removal(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="kind"
):
    """The answer to DELETE. `revision` is where the removal stands in the stream."""

    removed: ItemKey
    revision: str = ""
    status: Progress | None = None


class AppliedItem(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one item. `result` is created, configured or unchanged."""

    kind: str
    name: str
    result: str
    namespace: str = ""
    resource_version: str = ""


class ApplyResult(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="kind"
):
    """The answer to a bulk apply, in the order of the items."""

    items: tuple[AppliedItem, ...]
    dry_run: bool = False
    status: Progress | None = None


def json_response(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return the value as JSON."""
    return web.Response(
        body=codec.encode(value),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def etag(resource: Resource) -> str:
    """Return the strong ETag: the revision, in quotes."""
    return f'"{resource.metadata.resource_version}"'


def with_status(resource: Resource, progress: Progress) -> Resource:
    """Return the resource with how far it has come."""
    return replace(resource, status=codec.decoder(dict[str, Any])(codec.encode(progress)))


async def answer(request: web.Request, outcome: Outcome, options: WriteOptions) -> web.Response:
    """Wait as long as asked for, and say what became of the write and how far it has come.

    200 or 201 when the stage that was waited for is reached; 202 when it is stored, but not there yet.
    """
    api = request.app[API]
    headers: dict[str, str] = {}
    if options.preferred:
        headers["Preference-Applied"] = f"wait={options.timeout_s:.0f}"
    if outcome.dry:
        headers["Hopwall-Dry-Run"] = "All"
        return _render(outcome, None, late=False, headers=headers)
    targets = [written.target for written in outcome.written]
    progress = api.progress(targets)

    def settled() -> bool:
        nonlocal progress
        progress = api.progress(targets)
        return progress.reached(options.stage) or progress.settled() or api.stopping

    if options.stage != "accepted":
        await api.news.until(settled, options.timeout_s)
    late = not progress.reached(options.stage)
    return _render(outcome, told(request[CALLER], progress), late=late, headers=headers)


def _render(
    outcome: Outcome, progress: Progress | None, *, late: bool, headers: dict[str, str]
) -> web.Response:
    if outcome.form == "many":
        applied = ApplyResult(
            items=tuple(_item(written) for written in outcome.written),
            dry_run=outcome.dry,
            status=progress,
        )
        return json_response(applied, status=202 if late else 200, headers=headers)
    (written,) = outcome.written
    if written.resource is None:
        removal = Removal(
            removed=item_key(written.key),
            revision="" if outcome.dry else str(written.revision),
            status=progress,
        )
        return json_response(removal, status=202 if late else 200, headers=headers)
    resource = written.resource
    if resource.metadata.resource_version is not None and not outcome.dry:
        headers["ETag"] = etag(resource)
    if progress is not None:
        resource = with_status(resource, progress)
    status = 201 if written.word == "created" else 200
    return json_response(resource, status=202 if late else status, headers=headers)


def item_key(key: Key) -> ItemKey:
    """Return the key as it is shown."""
    return ItemKey(kind=key.kind, namespace=key.namespace, name=key.name)


def _item(written: Written) -> AppliedItem:
    key = written.key
    return AppliedItem(
        kind=key.kind,
        namespace=key.namespace,
        name=key.name,
        result=written.word,
        resource_version=str(written.revision) if written.revision else "",
    )
