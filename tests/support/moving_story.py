"""What led to a wrong turn: the orchestrator's steps, each host's routes to the workload, and what its services said.

All of it is kept while a workload moves, so that what happens once in a thousand moves explains itself.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.support.moving import Vm
from tests.support.moving_variants import Run

#: Before the run: what the last one left behind may still be on its way.
_BEFORE_S = 0.5
_MOST_LINES = 40


class Story:
    """What happens from now on; asked only if something went wrong."""

    def __init__(self, vm: Vm) -> None:
        """Remember where the logs end now."""
        self._vm = vm
        self._sizes = {log: log.stat().st_size for log in self._logs()}

    def _logs(self) -> list[Path]:
        services = self._vm.lab.services
        found = (self._vm.lab.folder.log(name) for name in sorted(services))
        return [log for log in found if log.exists()]

    def tell(self, run: Run) -> list[str]:
        """Return it, in order of time; then the logs."""
        since = run.began_at - _BEFORE_S
        seen = sorted((at, text) for at, text in self._seen() if at >= since)
        lines = [f"    {at - run.began_at:+8.4f}  {text}" for at, text in seen]
        for log in self._logs():
            said = log.read_bytes()[self._sizes.get(log, 0) :].decode(errors="replace")
            lines += [f"    {log.stem}: {line}" for line in said.splitlines()[-_MOST_LINES:]]
        return lines

    def _seen(self) -> Iterator[tuple[float, str]]:
        yield from self._vm.steps
        for host, watch in self._vm.watches.items():
            for at, way in watch.lines():
                yield float(at), f"{host} takes the way {way}"
        for host, probe in self._vm.changes.items():
            for at, *change in probe.lines():
                yield float(at), f"{host}: {' '.join(change)}"
