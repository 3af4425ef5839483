"""The API service: connect, fold, serve."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from hopwall_api.access.gate import Gate
from hopwall_api.agent import Api
from hopwall_api.app import make_app
from hopwall_api.certificate import ServerCertificate
from hopwall_api.connections import Runner, Site
from hopwall_api.settings import ApiSettings, parse_listen
from hopwall_api.upkeep import Upkeep
from hopwall_runtime.health import serve_health
from hopwall_runtime.link import Link

log = logging.getLogger(__name__)


async def serve(settings: ApiSettings) -> None:
    """Serve until cancelled. HTTP is answered from the start; until NATS is read with 503.

    Errors: OSError when an address cannot be listened on; ConfigError.
    """
    settings.check()
    gate = Gate(settings.tokens_file)
    link = Link("api")
    api = Api(link)
    api.max_watchers = settings.max_connections // 2
    try:
        # On the way out: first the requests end, while the stream is still folded, then the link.
        async with asyncio.TaskGroup() as tasks, _listening(api, gate, settings):
            await link.connect(settings)
            tasks.create_task(link.watch(), name="link")
            await api.make_streams()
            tasks.create_task(api.follow_events(), name="events")
            tasks.create_task(api.follow_statuses(), name="statuses")
            tasks.create_task(api.ring_stale(), name="stale")
            tasks.create_task(_upkeep(api, settings).run(), name="upkeep")
            await asyncio.Event().wait()
    finally:
        await link.close()


def _upkeep(api: Api, settings: ApiSettings) -> Upkeep:
    return Upkeep(
        api,
        tombstone_hours=settings.tombstone_hours,
        monitor_url=settings.nats_monitor_url,
    )


@asynccontextmanager
async def _listening(api: Api, gate: Gate, settings: ApiSettings) -> AsyncIterator[None]:
    places = [parse_listen(text) for text in settings.listen]
    certificate = None
    if settings.tls_cert_file:
        certificate = ServerCertificate(
            settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
        )
    runner = Runner(
        make_app(api, gate),
        max_connections=settings.max_connections,
        idle_timeout_s=settings.idle_timeout_s,
    )
    await runner.setup()
    try:
        for place in places:
            site: web.BaseSite
            if isinstance(place, str):
                site = web.UnixSite(runner, place)
            else:
                context = certificate.context if certificate is not None else None
                site = Site(runner, *place, ssl_context=context)
            await site.start()
            log.info("listening on %s", site.name)
        async with (
            serve_health(settings.health_listen, api.not_ready, CollectorRegistry()),
            asyncio.TaskGroup() as tasks,
        ):
            following = tasks.create_task(certificate.follow()) if certificate is not None else None
            try:
                yield
            finally:
                if following is not None:
                    following.cancel()
    finally:
        api.stop()
        await runner.cleanup()
