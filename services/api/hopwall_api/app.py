"""The aiohttp application: routes, the wrapper every request passes, and the server around both.

Every answer from 400 on is a problem document, also for requests that are no HTTP and for our own faults.
"""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from importlib import metadata as packages
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CollectorRegistry

from hopwall_api import openapi, problems
from hopwall_api.agent import Api
from hopwall_api.answers import API, REQUEST_ID, TRACE_ID, json_response
from hopwall_api.metrics import Metrics
from hopwall_api.problems import ApiProblem
from hopwall_api.routes import Route, all_routes
from hopwall_model.resources import KEPT_KINDS, KIND_BY_PLURAL
from hopwall_runtime import clock
from hopwall_runtime.health import health_routes

log = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(api: Api) -> web.Application:
    """Return the application that serves this API."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, api)
    app = web.Application(middlewares=[_wrapper(metrics)], client_max_size=0)
    app[API] = api
    own = {route.path: route.handler for route in health_routes(api.not_ready, registry)}
    routes = [
        *all_routes(),
        _text_route("/livez", "live", "Tell whether the process turns.", own["/livez"]),
        _text_route("/metrics", "metrics", "Return the metrics for Prometheus.", own["/metrics"]),
    ]
    document: dict[str, Any] = {}

    async def serve_document(_: web.Request) -> web.Response:
        return json_response(document)

    about = Route(
        method="GET",
        path="/openapi.json",
        name="getOpenApi",
        summary="Return this document.",
        handler=serve_document,
        answers="OpenApi",
    )
    routes.append(about)
    document.update(openapi.document(routes, packages.version("hopwall")))
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler)
    return app


def _text_route(path: str, name: str, summary: str, handler: Any) -> Route:
    return Route(method="GET", path=path, name=name, summary=summary, handler=handler)


# ---------------------------------------------------------------- around each request


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
        return _problem_response(problem, request.path, request[TRACE_ID])
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _problem_response(_translated(request, error), request.path, request[TRACE_ID])


def _problem_response(problem: ApiProblem, instance: str, trace_id: str) -> web.Response:
    response = web.Response(
        body=problems.document(problem, instance=instance, trace_id=trace_id),
        status=problem.status,
        content_type=problems.CONTENT_TYPE,
        headers=problem.headers,
    )
    if problem.status in (408, 413, 415):
        # The body was not read to its end.
        response.force_close()
    return response


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


# ---------------------------------------------------------------- around each connection


class _Connection(RequestHandler):
    """aiohttp's connection, with problem documents for what never becomes a request of the app."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        manager = self._manager
        super().connection_made(transport)
        if isinstance(manager, _Server) and len(manager.connections) > manager.most:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or one that met a fault of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        trace_id = secrets.token_hex(16)
        if status >= 500:
            trace_id = request.get(TRACE_ID, trace_id)
            log.error("request failed, trace %s", trace_id, exc_info=exc)
            detail = "The API met a fault of its own; its log names the trace id."
            problem = ApiProblem(status, "internal", detail)
        else:
            line = (message or "").strip().splitlines()[:1]
            detail = f"The request is not valid HTTP: {''.join(line)[:200] or 'cannot be read'}"
            problem = ApiProblem(status, "not-http", detail)
        response = _problem_response(problem, "", trace_id)
        response.force_close()
        return response


class _Server(web.Server):
    """aiohttp's server, which makes our connections and admits only so many."""

    most = 4096

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """aiohttp's runner, which makes our server."""

    def __init__(
        self, app: web.Application, *, max_connections: int, idle_timeout_s: float
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=idle_timeout_s,
            lingering_time=2.0,
            auto_decompress=False,
            shutdown_timeout=5.0,
        )
        self._most = max_connections

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.most = self._most
        return server
