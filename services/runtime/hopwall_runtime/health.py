"""/livez, /readyz and /metrics for services that serve nothing else.

Live: the process turns its loop. Ready: what the service itself says (`None` is ready, a sentence is the
reason why not).

Whoever connects takes descriptors that the service needs for its work, and may say nothing for ever: so there are
few places, and who has had one longest makes room.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CollectorRegistry, generate_latest

ReadyCheck = Callable[[], str | None]

#: Each question is answered at once, and nobody needs more connections than that to ask.
MOST_CONNECTIONS = 64
#: Connections that wait to be taken: they are taken together, before any of them can make room.
_BACKLOG = 16


def health_routes(ready: ReadyCheck, registry: CollectorRegistry) -> list[web.RouteDef]:
    """Return the three routes, for an app of one's own or the small one below."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]


@asynccontextmanager
async def serve_health(
    listen: str, ready: ReadyCheck, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Serve the three routes on host:port while the block runs; "" serves nothing."""
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    app = web.Application()
    app.add_routes(health_routes(ready, registry))
    runner = _Runner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port), backlog=_BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


class _Server(web.Server):
    """aiohttp's server, with few places."""

    def __call__(self) -> RequestHandler:
        # In the order in which they were opened.
        held = self.connections
        for oldest in held[: max(0, len(held) - MOST_CONNECTIONS + 1)]:
            if oldest.transport is not None:
                oldest.transport.abort()
        return super().__call__()


class _Runner(web.AppRunner):
    """aiohttp's runner, which makes our server."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server
