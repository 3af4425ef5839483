"""The aiohttp application: routes, and the wrapper every request passes. The server around it: `connections`.

Every answer from 400 on is a problem document, also for requests that are no HTTP and for our own faults.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from importlib import metadata as packages
from typing import Any

from aiohttp import HttpVersion11, web
from prometheus_client import CollectorRegistry

from hopwall_api import openapi, problems
from hopwall_api.access.gate import Gate
from hopwall_api.access.roles import Verb
from hopwall_api.agent import Api
from hopwall_api.answers import API, REQUEST_ID, TRACE_ID
from hopwall_api.auth import GATE, Need, admit
from hopwall_api.bodies import MAX_BULK_BYTES
from hopwall_api.metrics import Metrics
from hopwall_api.problems import ApiProblem
from hopwall_api.refusal import problem_response
from hopwall_api.routes import Route, all_routes
from hopwall_model import codec, staleness
from hopwall_model.resources import KEPT_KINDS, KIND_BY_PLURAL
from hopwall_runtime import clock
from hopwall_runtime.health import health_routes

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_PIECE_BYTES = 16 * 1024
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(api: Api, gate: Gate | None = None) -> web.Application:
    """Return the application that serves this API to whom the gate lets in."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, api)
    app = web.Application(middlewares=[_wrapper(metrics)], client_max_size=0)
    app[API] = api
    app.on_response_prepare.append(_say_stale)
    app[GATE] = gate or Gate()
    own = {route.path: route.handler for route in health_routes(api.not_ready, registry)}
    routes = [
        *all_routes(),
        Route(
            method="GET",
            path="/livez",
            name="live",
            summary="Tell whether the process turns.",
            handler=own["/livez"],
            need=None,
        ),
        Route(
            method="GET",
            path="/metrics",
            name="metrics",
            summary="Return the metrics for Prometheus.",
            handler=own["/metrics"],
            need=Need(Verb.METRICS),
        ),
    ]
    document = b""

    async def serve_document(request: web.Request) -> web.StreamResponse:
        return await _in_pieces(request, document)

    about = Route(
        method="GET",
        path="/openapi.json",
        name="getOpenApi",
        summary="Return this document.",
        handler=serve_document,
        need=None,
        answers="OpenApi",
    )
    routes.append(about)
    document = codec.encode(openapi.document(routes, packages.version("hopwall")))
    for route in routes:
        app.router.add_route(
            route.method, route.path, _guarded(route), expect_handler=_not_too_large
        )
    return app


async def _in_pieces(request: web.Request, body: bytes) -> web.StreamResponse:
    """Send what everybody may ask for: little of it is buffered for who does not read, others get their turn."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    for start in range(0, len(body), _PIECE_BYTES):
        await response.write(body[start : start + _PIECE_BYTES])
        await request.writer.drain()
        await asyncio.sleep(0)
    await response.write_eof()
    return response


def _guarded(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        admit(request, route.need)
        response: web.StreamResponse = await route.handler(request)
        return response

    return handle


async def _not_too_large(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body, unless its size says already that it would be refused.

    Source: RFC 9110, 10.1.1 (Expect: 100-continue).
    """
    if request.headers.get("Expect", "").lower() != "100-continue":
        problem = ApiProblem(417, "expectation", "Expect has one value here: 100-continue.")
    elif (request.content_length or 0) > MAX_BULK_BYTES:
        problem = problems.too_large(f"The body is larger than {MAX_BULK_BYTES} bytes.")
    else:
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return None
    return problem_response(problem, request.path, secrets.token_hex(16))


# ---------------------------------------------------------------- around each request


async def _say_stale(request: web.Request, response: web.StreamResponse) -> None:
    """Say of what was read that it may be old, and how old; what begins a stream or refuses says it too."""
    if request.method in ("GET", "HEAD") and request.path.startswith("/v1/"):
        stale_s = request.app[API].stale_s()
        if stale_s is not None:
            response.headers[staleness.HEADER] = str(stale_s)


def _wrapper(metrics: Metrics) -> Any:
    @web.middleware
    async def wrap(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Name the request, count it, and turn every refusal into a problem document."""
        traced = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
        request[TRACE_ID] = traced[1] if traced else secrets.token_hex(16)
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else request[TRACE_ID]
        begun = clock.monotonic()
        status = 500
        try:
            response = await _answer(request, handler)
            status = response.status
        finally:
            resource = request.match_info.route.resource
            place = resource.canonical if resource is not None else "none"
            metrics.count(request.method, place, status, clock.monotonic() - begun)
        if not response.prepared:
            response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response

    return wrap


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiProblem as problem:
        return problem_response(problem, request.path, request[TRACE_ID])
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem_response(_translated(request, error), request.path, request[TRACE_ID])


def _translated(request: web.Request, error: web.HTTPException) -> ApiProblem:
    """Return what the framework refused, as a problem with a hint."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not for {request.path[:256]}; use {allowed}."
        kept = [kind for kind in KEPT_KINDS if f"/{kind.PLURAL}" in request.path]
        if kept:
            detail = problems.kept_by_service(kept[0].__name__)
        elif request.method == "POST":
            detail += " A resource of a namespaced kind is created at /v1/namespaces/{namespace}/…"
        return ApiProblem(405, "method-not-allowed", detail, headers={"Allow": allowed})
    if error.status == 404:
        plurals = ", ".join(KIND_BY_PLURAL)
        return problems.not_found(
            f"There is nothing at {request.path[:256]}. Kinds are at /v1/<plural> and"
            f" /v1/namespaces/<namespace>/<plural>, with the plurals {plurals}."
        )
    return ApiProblem(error.status, "refused", error.text or error.reason)
