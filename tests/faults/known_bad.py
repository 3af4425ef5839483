"""Known-bad ways of doing it, in processes of ours: `python -m tests.faults.known_bad SWITCH MODULE flags…`.

The rig must catch each of them: else its silence would mean nothing.
"""

import asyncio
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from nats.js.api import DeliverPolicy

from hopwall_calc import service as calc_service
from hopwall_dataplane.agent import Agent
from hopwall_dataplane.guard import Guard
from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import AddElements, SetOp
from hopwall_dataplane.iptables.driver import Restore, run_tool
from hopwall_dataplane.iptables.static import from_set, to_set
from hopwall_dataplane.iptables.transaction import Transaction
from hopwall_dataplane.outcome import Done, Family, Outcome
from hopwall_runtime import follower, history
from hopwall_runtime.follower import CaughtUp, Followed, Reset

_IDENTITY = frozenset(name(family) for family in Family for name in (from_set, to_set))
#: How long what is wrong stays so.
_GAP_S = 0.05


def flush_then_restore() -> None:
    """Empty the chains that change before they are written again."""
    right = Restore.apply

    async def wrong(self: Restore, tx: Transaction, *, timeout_s: float | None = None) -> Any:
        tool = self.backend.restore_path[self.family].replace("-restore", "")
        for write in tx.writes:
            argv = (tool, "-w", "-t", tx.table, "-F", write.name)
            await asyncio.to_thread(
                run_tool, argv, timeout_s=10
            )  # a new chain is not there: no matter
        await asyncio.sleep(_GAP_S)
        return await right(self, tx, timeout_s=timeout_s)

    Restore.apply = wrong  # type: ignore[method-assign]


def unhook_then_restore() -> None:
    """Empty the kernel's own chain before a change of what it leads to, as who begins with `iptables -F`."""
    right = Restore.apply

    async def wrong(self: Restore, tx: Transaction, *, timeout_s: float | None = None) -> Any:
        if tx.table == "filter" and tx.writes:
            tool = self.backend.restore_path[self.family].replace("-restore", "")
            argv = (tool, "-w", "-t", "filter", "-F", "FORWARD")
            await asyncio.to_thread(run_tool, argv, timeout_s=10)
            await asyncio.sleep(_GAP_S)
        return await right(self, tx, timeout_s=timeout_s)

    Restore.apply = wrong  # type: ignore[method-assign]


def set_after_rule() -> None:
    """Fill the sets that rules name only when the rules stand."""
    right = IpsetDriver.apply

    def wrong(self: IpsetDriver, ops: Sequence[SetOp]) -> list[Outcome]:
        late = [op for op in ops if isinstance(op, AddElements) and op.spec.name not in _IDENTITY]
        if late:
            threading.Timer(4 * _GAP_S, lambda: right(IpsetDriver(), late)).start()
        outcomes = iter(right(self, [op for op in ops if op not in late]))
        return [Done() if op in late else next(outcomes) for op in ops]

    IpsetDriver.apply = wrong  # type: ignore[method-assign]


def snapshot_believed() -> None:
    """Obey every snapshot, however little is in it."""
    Guard.admits = lambda *_: True  # type: ignore[method-assign]


def no_gate() -> None:
    """Write before there is a state to enforce: what is not known yet is swept."""
    right = Agent.__post_init__

    def wrong(self: Agent) -> None:
        right(self)
        self.progress.armed = self.progress.in_sync = True

    Agent.__post_init__ = wrong  # type: ignore[method-assign]


def watch_as_truth() -> None:
    """Follow as a KV watch does: from one's own last sequence on, whatever the stream is by now."""
    seen = 0
    right_config, right_note = follower.follower_config, history.History.note
    right_take = calc_service.CalcService._take

    def config(inbox: str, pattern: str) -> Any:
        made = right_config(inbox, pattern)
        if seen:
            made.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
            made.opt_start_seq = seen + 1
        return made

    def note(self: history.History, revision: int, stored_at: int) -> None:
        nonlocal seen
        seen = max(seen, revision)
        right_note(self, revision, stored_at)

    def take(self: calc_service.CalcService, items: Sequence[Followed]) -> None:
        if self._in_sync:
            items = [one for one in items if not isinstance(one, Reset | CaughtUp)]
        right_take(self, items)

    follower.follower_config = config
    history.History.note = note  # type: ignore[method-assign]
    history.History.resume = lambda *_: ""  # type: ignore[method-assign]
    history.History.audit = lambda *_: ""  # type: ignore[method-assign]
    follower._Cursor.check_whole = lambda self: None  # type: ignore[method-assign]
    calc_service.CalcService._take = take  # type: ignore[method-assign]


SWITCHES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        flush_then_restore,
        unhook_then_restore,
        set_after_rule,
        snapshot_believed,
        no_gate,
        watch_as_truth,
    )
}


def main() -> None:
    """Turn the switch on and become the module."""
    switch, module, *flags = sys.argv[1:]
    SWITCHES[switch]()
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
