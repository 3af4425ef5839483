"""One bad chain must not stop the others: close it by its stub and apply the rest.

Owns the search for the chain to blame when the tool names none. Works on any `apply`, so that the
fake and the kernel go through the same code. Refuses to guess: where nobody can be blamed, nothing of
the transaction's last form is applied and the whole of it is `Failed`.
"""

from collections.abc import Awaitable, Callable, Sequence

from hopwall_dataplane.iptables.table import Chain
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction
from hopwall_dataplane.outcome import Retry

#: The closed body of a chain, e.g. ("-j DROP",); None where a chain cannot be closed by itself.
Stub = Callable[[str], Chain | None]
Apply = Callable[[Transaction], Awaitable[Applied | Failed | Retry]]


class _GaveUp(Exception):
    """The search met a `Retry`: the machine has a problem, not a chain."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry


async def apply_with_quarantine(
    apply: Apply, tx: Transaction, stub: Stub
) -> Applied | Failed | Retry:
    """Apply a transaction with each chain the tool will not have replaced by its stub.

    A removal that is refused (a foreign line holds the chain) is left out instead.

    Shape:  `Applied.refused`: chain → reason.
    Cost:   one attempt when all is well; one more per chain the tool names; O(log n) more per chain
            it does not name.
    """
    refused: dict[str, str] = {}
    while True:  # each round closes a chain more
        outcome = await apply(closed(tx, refused, stub))
        if isinstance(outcome, Retry):
            return outcome
        if isinstance(outcome, Applied):
            return Applied(refused)
        blamed = outcome.chain
        if blamed is not None and blamed not in refused and _can_close(tx, blamed, stub):
            refused[blamed] = outcome.message
            continue
        try:
            found = await _search(apply, tx, refused, stub)
        except _GaveUp as gave_up:
            return gave_up.retry
        if not found:
            return outcome
        refused |= found


async def _search(
    apply: Apply, tx: Transaction, refused: dict[str, str], stub: Stub
) -> dict[str, str]:
    """Find the chains to blame by applying parts of the transaction.

    First each half by itself, once every new chain stands closed: what passes is as wanted, and no
    other chain is touched. Some faults show only where packets come by; so if all parts pass, then the
    whole is tried with all but one half closed, which shuts good chains for some milliseconds.
    """
    suspects = [
        write.name
        for write in tx.writes
        if write.name not in refused and stub(write.name) is not None
    ]
    tx = closed(tx, refused, stub).plainly()
    if await _reason(apply, closed(tx, dict.fromkeys(suspects, ""), stub).subset(tx.new_chains)):
        return {}

    async def by_parts(group: Sequence[str]) -> str | None:
        return await _reason(apply, tx.subset(group))

    async def closed_around(group: Sequence[str]) -> str | None:
        others = [name for name in suspects if name not in group]
        return await _reason(apply, closed(tx, dict.fromkeys(others, ""), stub))

    return await _bisect(suspects, by_parts) or await _bisect(suspects, closed_around)


async def _bisect(
    group: Sequence[str], attempt: Callable[[Sequence[str]], Awaitable[str | None]]
) -> dict[str, str]:
    """Find every member that fails by itself, given the reason `attempt` fails with, if it does."""
    if not group or (reason := await attempt(group)) is None:
        return {}
    if len(group) == 1:
        return {group[0]: reason}
    middle = len(group) // 2
    return await _bisect(group[:middle], attempt) | await _bisect(group[middle:], attempt)


async def _reason(apply: Apply, tx: Transaction) -> str | None:
    outcome = await apply(tx)
    if isinstance(outcome, Retry):
        raise _GaveUp(outcome)
    return outcome.message if isinstance(outcome, Failed) else None


def _can_close(tx: Transaction, chain: str, stub: Stub) -> bool:
    if chain in tx.removals:
        return True
    return any(write.name == chain for write in tx.writes) and stub(chain) is not None


def closed(tx: Transaction, refused: dict[str, str], stub: Stub) -> Transaction:
    """Put the stub in place of each refused chain, and leave out each refused removal.

    Where one is refused nothing is put in front of what it replaces: this is not the first try.

    After `Applied` this is what the kernel holds, and what to `record`.
    """
    if not refused:
        return tx
    kept = tx.chains - (refused.keys() & set(tx.removals))
    stubs = {name: stub(name) or () for name in refused}
    return tx.plainly().subset(kept).with_bodies(stubs)
