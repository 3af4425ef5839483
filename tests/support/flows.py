"""Flows of a lab, waited for by what has come of them."""

import asyncio

from hopwall_cli.lab.lab import Lab
from hopwall_runtime import clock


async def flows_until(
    lab: Lab, src: str, dst: str, *, received: int = 0, quiet_s: float = 0.0
) -> None:
    """Wait until so many answers of a flow have come, and then none for so long though it goes on."""
    async with asyncio.timeout(60):
        while True:
            seen = await lab.flow_so_far(src, dst)
            quiet = clock.monotonic() - seen["last_at"] >= quiet_s
            if seen["received"] >= received and (not quiet_s or quiet):
                return
            await asyncio.sleep(0.05)
