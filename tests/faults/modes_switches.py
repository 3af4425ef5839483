"""Known-bad ways (`known_bad`) in real processes under real packets: each must be caught, and the page says by what."""

from typing import Any

from tests.faults.modes_packets import change, empty_store, older_store, restart_quietly
from tests.faults.table import Mode
from tests.faults.watch import Harm, on_a_cloud

#: A change that is not enforced after this time never will be.
_PATIENCE_S = 20.0


def _bad(name: str, what: str, harm: Harm, service: str = "dataplane", **options: Any) -> Mode:
    run = on_a_cloud(harm, switch=(service, name), patience_s=_PATIENCE_S, **options)
    here = "tests/faults/modes_switches.py"
    return Mode(
        name.replace("_", " "), what, run, (), weight=0.1, bad=True, where=here, takes_s=40.0
    )


MODES = (
    _bad("flush_then_restore", "chains are emptied before they are written", change),
    _bad("unhook_then_restore", "the kernel's own chain is emptied before a change", change),
    _bad("set_after_rule", "members come after the rules that name their set", change),
    _bad("snapshot_believed", "an empty snapshot is obeyed", empty_store, keeps_writes=False),
    _bad("no_gate", "a restarted agent sweeps before it has a state", restart_quietly),
    _bad("watch_as_truth", "calc goes on by its own last sequence", older_store, "calc", keeps_writes=False),
)  # fmt: skip
