"""/livez, /readyz and /metrics for services that serve nothing else.

Live: the process turns its loop. Ready: what the service itself says (`None` is ready, a sentence is the
reason why not).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

ReadyCheck = Callable[[], str | None]


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
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()
