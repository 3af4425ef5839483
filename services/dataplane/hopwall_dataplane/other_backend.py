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
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.kernel import Kernel

log = logging.getLogger(__name__)

_PAUSE_S = 0.25
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
    restores = {}
    try:
        backend = await choose(other, families=tuple(kernel.restores))
        restores = {family: Restore(family, backend) for family in kernel.restores}
        removed = await clean_tables(restores, dry_run=False)
    except (BackendError, OSError) as error:
        log.warning("what the %s backend may hold of ours is not known: %s", other, error)
        return
    finally:
        for restore in restores.values():
            await restore.close()
    if removed:
        log.warning(
            "the %s backend held rules of before; removed: %s", other, ", ".join(removed[:5])
        )


def _has_legacy() -> bool:
    """Tell whether there are tables of the legacy backend; no where that must not be known."""
    for path in _TABLES:
        with contextlib.suppress(OSError):
            if path.read_text():
                return True
    return False
