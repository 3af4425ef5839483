"""`python -m tests.simulator`: live many worlds by number, and show what went wrong in the first that failed.

SIGINT or SIGTERM ends it after the world that is lived: what was lived by then counts.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from hopwall_runtime import clock
from tests.simulator.kept import KEPT, keep, kept_of
from tests.simulator.run import Ending, Tally, run
from tests.simulator.shrink import shrink

_SAY_EVERY = 500
_TOLD = 30


def main() -> int:
    """Run, print one line, and the shrunk history of the first failing seed; 1 if there is one."""
    given = _arguments()
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda given_signal, _: stop.append(given_signal))
    commit, day = _commit(), clock.now_text()[:10]
    begun, tally, first = time.monotonic(), Tally(), None
    for ending in run(given.first, given.seeds, given.jobs):
        tally = tally.plus(ending)
        if ending.kinds and first is None:
            first = ending
            print(f"seed {ending.number} fails: {', '.join(sorted(ending.kinds))}", flush=True)
        if tally.seeds % _SAY_EVERY == 0:
            print(f"… {tally.line}", file=sys.stderr, flush=True)
            _keep(given.keep, tally, given.first, commit, day)
        if stop:
            break
    _keep(given.keep, tally, given.first, commit, day)
    print(f"{tally.line} ({time.monotonic() - begun:.0f} s)")
    if first is not None:
        _show(first)
    return int(first is not None)


def _keep(path: Path | None, tally: Tally, first: int, commit: str, day: str) -> None:
    if path is not None and tally.seeds:
        keep(kept_of(tally, first=first, commit=commit, day=day), path)


def _commit() -> str:
    argv = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many worlds")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="S", help="the first")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes")
    parser.add_argument(
        "--keep", type=Path, nargs="?", const=KEPT, metavar="FILE",
        help="keep the counts for the page of docs/reliability.md (every 500 worlds, and at the end)",
    )  # fmt: skip
    return parser.parse_args()


def _show(ending: Ending) -> None:
    steps, small = shrink(ending)
    print(f"Seed {ending.number}, with steps {', '.join(map(str, steps)) or 'none'} alone:")
    lines = [*small.told, *small.lost]
    at = next((i for i, line in enumerate(lines) if "FAULT" in line), len(lines))
    for line in lines[max(0, at - _TOLD) : at + 2]:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
