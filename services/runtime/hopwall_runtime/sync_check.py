"""Whether the nats-server that is connected syncs before it acknowledges, as its own monitoring page says.

The protocol does not tell; `/varz` of the monitoring port does. Refuses to believe another server's page: the id on
it must be the connected one's. Unknown is an answer: the page is often not reachable.

Source: NATS server monitoring, /varz, `jetstream.config`.
"""

import asyncio
import json
from typing import Any, Literal

import aiohttp

Syncs = Literal["always", "late", "unknown"]

#: The monitoring port that the shipped configuration opens on loopback.
DEFAULT_PORT = 8222
_TIME_S = 2.0
_MOST_BYTES = 1024 * 1024


async def syncs(url: str, server_id: str, host: str) -> tuple[Syncs, str]:
    """Return whether the server with this id syncs before it acknowledges, and in a sentence why that is said.

    Shape:  `url` is where its monitoring is, "" for the usual port on `host`.
    """
    place = url.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{DEFAULT_PORT}"
    try:
        async with (
            asyncio.timeout(_TIME_S),
            aiohttp.ClientSession() as session,
            session.get(f"{place}/varz") as answer,
        ):
            page = json.loads(await answer.content.read(_MOST_BYTES))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        return "unknown", f"{place}/varz cannot be read ({why}); set nats_monitor_url"
    return judged(page, server_id, place)


def judged(page: Any, server_id: str, place: str) -> tuple[Syncs, str]:
    """Return what a page says of the server with this id."""
    if not isinstance(page, dict) or page.get("server_id") != server_id:
        return "unknown", f"{place} shows another server than the one that is connected"
    jetstream = page.get("jetstream") or {}
    config = jetstream.get("config") if isinstance(jetstream, dict) else None
    if not isinstance(config, dict) or "store_dir" not in config:
        return "unknown", f"{place} shows no JetStream configuration"
    if config.get("sync_always") is True:
        return "always", "it syncs before it acknowledges"
    every_s = float(config.get("sync_interval") or 0) / 1e9
    return "late", f"it acknowledges first and syncs every {every_s:.0f} s"
