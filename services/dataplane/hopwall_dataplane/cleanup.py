"""Removing everything of ours from this host's kernel: an explicit act, never part of stopping.

The order is the reverse of building: routes first, so that nothing is attracted any more; then the jumps and
chains; then the sets, and our bit of the tracked flows. Whatever is foreign stays.
"""

import asyncio
from collections.abc import Mapping, Sequence

from hopwall_dataplane.ipsets.elements import DestroySet
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.static import TABLES
from hopwall_dataplane.iptables.transaction import Applied
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Done, Family, Outcome, Retry
from hopwall_dataplane.routes.route import DeleteRoute

#: Tenths of a second to wait for sets that are still in use.
_PATIENCE = 30


async def cleanup(kernel: Kernel, *, dry_run: bool) -> list[str]:
    """Remove our routes, chains, marks of flows and sets; return a line per thing removed (or that would be).

    Errors: OSError names what could not be read or removed; what came before it is gone.
    """
    removed: list[str] = []
    routes = kernel.routes.read()
    removed += [f"route {route}" for route in routes.values()]
    if not dry_run:
        outcomes = kernel.routes.apply([DeleteRoute(key) for key in routes])
        _check(outcomes)
    removed += await clean_tables(kernel.restores, dry_run=dry_run)
    sets = kernel.sets.read()
    removed += [f"set {name}" for name in sorted(sets)]
    if not dry_run:
        await _destroy(kernel, sorted(sets))
        removed += _clear_flows(kernel)
    return removed


async def clean_tables(restores: Mapping[Family, Restore], *, dry_run: bool) -> list[str]:
    """Remove our jumps and chains; return a line per chain.

    Errors: OSError names what could not be read or removed; what came before it is gone.
    """
    removed: list[str] = []
    for family, restore in restores.items():
        for table in TABLES:
            state = await restore.read(table)
            if isinstance(state, Retry):
                raise OSError(state.reason)
            plan = plan_table(table, {}, (), state)
            for transaction in (plan.now, plan.later):
                if transaction is None:
                    continue
                removed += [f"{family} {table} {name}" for name in sorted(transaction.chains)]
                if not dry_run:
                    outcome = await restore.apply(transaction)
                    if not isinstance(outcome, Applied):
                        raise OSError(f"table {table} ({family}) could not be cleaned: {outcome}")
    return removed


def _clear_flows(kernel: Kernel) -> list[str]:
    """Take our bit off the tracked flows."""
    if kernel.flows is None:
        return []
    n_marked = kernel.flows.driver.clear(kernel.desired.settings.marks.revoked)
    return [f"the marks of {n_marked} flows"] if n_marked else []


async def _destroy(kernel: Kernel, names: Sequence[str]) -> None:
    """Destroy sets; the kernel lets go of one some milliseconds after the last line that named it."""
    for _ in range(_PATIENCE):
        outcomes = kernel.sets.apply([DestroySet(name) for name in names])
        if not any(isinstance(outcome, Retry) for outcome in outcomes):
            break
        await asyncio.sleep(0.1)
    _check(outcomes)


def _check(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if not isinstance(outcome, Done):
            raise OSError(outcome.reason)
