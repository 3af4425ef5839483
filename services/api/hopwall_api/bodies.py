"""Reading the body of a request: its type, its size, its time, and the document in it.

Shell. Refuses compressed bodies: what is small on the wire must not become large in memory.
"""

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_exceptions import HTTPBadRequest
from msgspec import Raw, Struct, UnsetType

from hopwall_api import problems
from hopwall_api.connections import receiving
from hopwall_model.problems import Findings, Invalid
from hopwall_model.resource_names import MAX_RESOURCE_BYTES
from hopwall_model.resources import KEPT_KINDS, Key, Resource, key_of
from hopwall_model.validate import admit
from hopwall_model.validate_json import check_values, read_json

MAX_ONE_BYTES = MAX_RESOURCE_BYTES
#: Above it a document is read beside the loop: the largest takes a second.
_LARGE_BYTES = 128 * 1024
MAX_BULK_BYTES = 16 * 1024 * 1024
BODY_TIME_S = 30.0

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


async def read(request: web.Request, *, type_: str, most: int) -> bytes:
    """Return the body.

    Errors: ApiProblem 400, 408, 413, 415.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise problems.unsupported_type("A request body must not be compressed.")
    if request.content_type != type_:
        hint = f"Set Content-Type: {type_}."
        raise problems.unsupported_type(
            f"A body of {request.content_type} is not taken here. {hint}"
        )
    charset = request.charset
    if charset is not None and charset.lower() not in ("utf-8", "utf8"):
        raise problems.unsupported_type("The body must be UTF-8.")
    if (request.content_length or 0) > most:
        raise problems.too_large(f"The body is larger than {most} bytes, the most taken here.")
    with receiving(request):
        return await _received(request, most)


async def _received(request: web.Request, most: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise problems.too_large(
                        f"The body is larger than {most} bytes, the most taken here."
                    )
    except TimeoutError as error:
        raise problems.ApiProblem(
            408, "timeout", f"The body did not arrive within {BODY_TIME_S:.0f} s."
        ) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise HTTPBadRequest(text="The body cannot be read.") from error
    return bytes(body)


def parse(data: bytes) -> Any:
    """Return a document that two readers would understand alike.

    Errors: ApiProblem 400 or 422.
    """
    found = Findings()
    try:
        document = read_json(found, data)
        found.stop()
        check_values(found, document)
        found.stop()
    except Invalid as error:
        raise problems.from_invalid(error) from error
    return document


def document_for(key_kind: type[Resource], namespace: str, name: str, document: Any) -> Any:
    """Return the document with name and namespace of the URL filled in where they are left out.

    Errors: ApiProblem 422 when it names another place than the URL does.
    """
    if not isinstance(document, dict) or not isinstance(document.get("metadata", {}), dict):
        return document  # its shape is refused by whoever admits it
    metadata = dict(document.get("metadata", {}))
    places = {"name": name, "namespace": namespace if key_kind.NAMESPACED else ""}
    for field, wanted in places.items():
        if not wanted:
            continue
        given = metadata.setdefault(field, wanted)
        if given != wanted:
            reason = f"The URL says {wanted!r}; the body must say the same, or nothing."
            error = problems.FieldError(
                pointer=f"/metadata/{field}", reason=reason, code="conflict"
            )
            raise problems.invalid(reason, [error])
    return {**document, "metadata": metadata}


def admitted(kind: type[Resource], document: Any) -> Resource:
    """Return the canonical resource.

    Errors: ApiProblem 400 or 422 with a pointer for each wrong field.
    """
    try:
        return admit(document, kind=kind)
    except Invalid as error:
        raise problems.from_invalid(error) from error


async def resource_of(
    body: bytes, kind: type[Resource], namespace: str = "", name: str = ""
) -> Resource:
    """Return the canonical resource that a body declares at a URL's place.

    Errors: ApiProblem 400 or 422.
    """

    def understood() -> Resource:
        return admitted(kind, document_for(kind, namespace, name, parse(body)))

    if len(body) > _LARGE_BYTES:
        return await asyncio.to_thread(understood)
    return understood()


# ---------------------------------------------------------------- many in one body


class _Envelope(Struct):
    items: list[Raw]
    kind: str | UnsetType = msgspec.UNSET


_envelope = msgspec.json.Decoder(_Envelope)
_array = msgspec.json.Decoder(list[Raw])


def items_of(data: bytes) -> tuple[list[bytes], str]:
    """Return each item's bytes, and the pointer to the list they stand in.

    Shape:  a JSON array of resources; or an object with `items`, of kind List or of none.
    Errors: ApiProblem 400 or 422.
    """
    try:
        if data.lstrip()[:1] == b"[":
            return [bytes(item) for item in _array.decode(data)], ""
        envelope = _envelope.decode(data)
    except msgspec.ValidationError as error:
        raise problems.invalid(
            'Send {"items": [...]}, a List, or a JSON array of resources.',
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise problems.ApiProblem(400, "not-json", f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise problems.invalid("The body is nested too deeply.") from error
    if envelope.kind not in (msgspec.UNSET, "List"):
        raise problems.invalid(
            f"A {str(envelope.kind)[:64]} is not a list of resources; send kind List, or none.",
            [problems.FieldError(pointer="/kind", reason="Use List.", code="shape")],
        )
    return [bytes(item) for item in envelope.items], "/items"


async def admit_all(items: list[bytes], place: str, *, kept: bool = False) -> list[Resource]:
    """Return the canonical resources, or every problem of every item.

    Others get their turn between the items. With `kept` also those that only the services write.

    Errors: ApiProblem 422.
    """
    resources: list[Resource] = []
    errors: list[problems.FieldError] = []
    first_of: dict[Key, int] = {}
    for index, item in enumerate(items):
        if index % _ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)
        try:
            large = len(item) > _LARGE_BYTES
            resource = await asyncio.to_thread(admit, item) if large else admit(item)
        except Invalid as error:
            errors.extend(problems.field_errors(error.problems, f"{place}/{index}"))
            continue
        key = key_of(resource)
        if type(resource) in KEPT_KINDS and not kept:
            errors.append(
                problems.FieldError(
                    pointer=f"{place}/{index}/kind",
                    reason=problems.kept_by_service(key.kind),
                    code="conflict",
                )
            )
        if key in first_of:
            reason = f"{key} stands in the list twice, first at {place}/{first_of[key]}."
            errors.append(
                problems.FieldError(pointer=f"{place}/{index}", reason=reason, code="conflict")
            )
        first_of.setdefault(key, index)
        resources.append(resource)
    if errors:
        n = len(errors)
        detail = errors[0].reason if n == 1 else f"{n} things are wrong; see errors."
        raise problems.invalid(f"Nothing was stored. {detail}", errors[:_MAX_ERRORS])
    return resources


_MAX_ERRORS = 1000
_ITEMS_PER_TURN = 20
