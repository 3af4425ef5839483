"""The OpenAPI 3.1 document, made from the table of routes and from the types: it cannot fall behind them.

Pure.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from hopwall_api.answers import ApplyResult, Removal
from hopwall_api.ipam.answers import AddressView, Assignment, BlockList, CheckReport, ReleaseAnswer
from hopwall_api.ipam.demands import Assign, Release
from hopwall_api.problems import CONTENT_TYPE, ProblemDocument
from hopwall_api.progress import Progress
from hopwall_api.reads import HostView, HostViewList
from hopwall_api.release import HostReleased
from hopwall_api.restore import RestoreBegin, RestoreEnd, RestorePart, RestoreState
from hopwall_api.routes import Route
from hopwall_api.rules import RuleList
from hopwall_model.resources import KEPT_KINDS, KINDS
from hopwall_model.schema import components

Json = dict[str, Any]
RESTORE_TYPES = (RestoreBegin, RestorePart, RestoreEnd, RestoreState)
IPAM_TYPES = (Assign, Release, Assignment, ReleaseAnswer, AddressView, BlockList, CheckReport)

_TEXT: Json = {"type": "string"}
_QUERY: dict[str, tuple[str, Json]] = {
    "dryRun": (
        "Check and answer as if, but store nothing; the answer bears Hopwall-Dry-Run.",
        {"enum": ["All"]},
    ),
    "wait": (
        "Answer when the write is stored (accepted), resolved for the hosts (computed), or enforced by"
        " every host it concerns (programmed). 202 when the time runs out before.",
        {"enum": ["accepted", "computed", "programmed"], "default": "accepted"},
    ),
    "timeout": ("Seconds to wait, as 30 or 30s.", {"type": "string", "default": "30"}),
    "labelSelector": ('A selector, as role == "db" && !has(legacy).', _TEXT),
    "limit": (
        "At most so many resources; `metadata.continue` leads to the next.",
        {"type": "integer", "minimum": 1, "maximum": 10000},
    ),
    "continue": ("The token of the page before; all pages show the same revision.", _TEXT),
    "watch": (
        "Send changes as server-sent events: set, removed, bookmark, gone (list again), stale and fresh (whether NATS is heard).",
        {"enum": ["true", "false"]},
    ),
    "resourceVersion": ("Watch the changes after this revision.", _TEXT),
    "epoch": ("Only a snapshot of this epoch, as the host's `held` names it.", _TEXT),
    "node": ("Only what this host has.", _TEXT),
    "verbose": ("Show each check.", _TEXT),
    "policy": (
        "Only the rules of this policy, as gnp/name, np/namespace/name, profile/name.",
        _TEXT,
    ),
    "identity": ("Only these, comma-separated: the last part of a log message's prefix.", _TEXT),
}
_HEADERS: dict[str, str] = {
    "If-Match": "Only if the resource is at this ETag; 412 otherwise.",
    "If-None-Match": "`*`: only if the resource does not exist; 412 otherwise.",
    "Idempotency-Key": "The same request with the same key is carried out once in 24 hours.",
    "Prefer": "`wait=30`: wait until programmed, at most 30 seconds.",
    "X-Request-Id": "Recorded with the event, and given back.",
    "Last-Event-ID": "Watch the changes after this revision.",
}
_PATH_PARAMETER = re.compile(r"{(\w+)}")


def document(routes: Sequence[Route], version: str) -> Json:
    """Return the document that describes these routes."""
    references, schemas = components(
        [
            ProblemDocument,
            Progress,
            Removal,
            ApplyResult,
            HostView,
            HostViewList,
            RuleList,
            HostReleased,
            *IPAM_TYPES,
            *RESTORE_TYPES,
        ]
    )
    references, schemas = dict(references), dict(schemas)
    for kind in KINDS:
        name = kind.__name__
        schemas[f"{name}List"] = _list_schema(name, references[name])
        references[f"{name}List"] = _reference(f"{name}List")
    schemas["ResourceList"] = _resource_list(
        [references[kind.__name__] for kind in KINDS if kind not in KEPT_KINDS]
    )
    schemas["Version"] = _object({"version": _TEXT, "apiVersion": _TEXT})
    references |= {name: _reference(name) for name in ("ResourceList", "Version")}
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hopwall",
            "version": version,
            "description": "Endpoints and policies of a routed cloud, in the resources of Calico v3.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, references: Json) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route, references),
    }
    if route.need is not None:
        operation["security"] = [{"token": []}]
    if route.body is not None:
        media, type_ = route.body
        schema = references[type_] if type_ else {"type": "object"}
        operation["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    return operation


def _parameters(route: Route) -> list[Json]:
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": _TEXT}
            for name in _PATH_PARAMETER.findall(route.path)
        ),
        *(
            {"name": name, "in": "query", "description": _QUERY[name][0], "schema": _QUERY[name][1]}
            for name in route.query
        ),
        *(
            {"name": name, "in": "header", "description": _HEADERS[name], "schema": _TEXT}
            for name in route.headers
        ),
    ]


def _responses(route: Route, references: Json) -> Json:
    responses: Json = {}
    for status in sorted(route.statuses):
        content: Json = {route.media: {"schema": _TEXT}}
        if route.answers:
            schema = references.get(route.answers, {"type": "object"})
            content = {"application/json": {"schema": schema}}
        if "watch" in route.query:
            content["text/event-stream"] = {}  # a stream has no schema in OpenAPI 3.1
        responses[str(status)] = {"description": _meaning(status), "content": content}
    problem = {CONTENT_TYPE: {"schema": references[ProblemDocument.__name__]}}
    guarded = (401, 403, 429) if route.need is not None else ()
    for status in (*route.refusals, *guarded):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    responses["default"] = {"description": "A problem.", "content": problem}
    return responses


def _meaning(status: int) -> str:
    if status == 202:
        return "Stored, but not yet as far as was waited for."
    return HTTPStatus(status).phrase


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_schema(name: str, reference: Json) -> Json:
    metadata = {"type": "object", "properties": {"resourceVersion": _TEXT, "continue": _TEXT}}
    return _object(
        {
            "kind": {"const": f"{name}List"},
            "apiVersion": _TEXT,
            "metadata": metadata,
            "items": {"type": "array", "items": reference},
        }
    )


def _resource_list(references: list[Json]) -> Json:
    items: Json = {"type": "array", "maxItems": 1000, "items": {"anyOf": references}}
    listed = {
        "type": "object",
        "properties": {"kind": {"const": "List"}, "items": items},
        "required": ["items"],
    }
    return {"anyOf": [listed, items]}
