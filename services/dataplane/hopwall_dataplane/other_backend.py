"""Our rules in the backend of iptables that is not used any more: taken away once what replaces them stands.

The kernel runs both: a packet must pass the rules that nobody writes any more too, so what is allowed later would stay
closed, and be called programmed. Refuses to look where looking would make tables: the names of legacy's are
for root alone, so another user's agent finds those of nft only.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from hopwall_dataplane.cleanup import clean_tables
from hopwall_dataplane.iptables.backend import BackendError, Kind, choose
from hopwall_dataplane.iptables.driver import Backend, Restore
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family

log = logging.getLogger(__name__)

_PAUSE_S = 0.25
#: After what could not be taken away, as the tool was kept waiting.
_AGAIN_S = 30.0
#: Which tables of legacy there are in this network namespace; to ask the tool would make them.
_TABLES = (Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names"))


async def forsake(kernel: Kernel, reached: Callable[[], bool]) -> None:
    """Wait until a state is reached, then take away what the other backend has of ours, and say so."""
    while not reached():  # noqa: ASYNC110 - once in a life of the agent: not worth a place in its loop
        await asyncio.sleep(_PAUSE_S)
    mine = next(iter(kernel.restores.values())).backend.kind
    other: Kind = "nft" if mine == "legacy" else "legacy"
    if other == "legacy" and not await asyncio.to_thread(_has_legacy):
        return
    try:
        backend = await choose(other, families=tuple(kernel.restores))
    except (BackendError, OSError) as error:
        log.warning("what the %s backend may hold of ours is not known: %s", other, error)
        return
    said = ""
    while (reason := await _take_away(tuple(kernel.restores), backend)) is not None:
        if reason != said:
            log.warning("what the %s backend holds of ours is not gone yet: %s", other, reason)
        said = reason
        await asyncio.sleep(_AGAIN_S)


async def _take_away(families: tuple[Family, ...], backend: Backend) -> str | None:
    """Take away what a backend has of ours; return why not all of it is gone: others may hold its lock."""
    restores = {family: Restore(family, backend) for family in families}
    try:
        removed = await clean_tables(restores, dry_run=False)
    except OSError as error:
        return str(error)
    finally:
        for restore in restores.values():
            await restore.close()
    if removed:
        names = ", ".join(removed[:5])
        log.warning("the %s backend held rules of before; removed: %s", backend.kind, names)
    return None


def _has_legacy() -> bool:
    """Tell whether there are tables of the legacy backend; no where that must not be known."""
    for path in _TABLES:
        with contextlib.suppress(OSError):
            if path.read_text():
                return True
    return False
