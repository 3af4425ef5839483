"""Run every mode of failure and write the table: `python -m tests.faults` (`make test-faults`).

Exit code: 0 when nothing was lost, open or otherwise wrong and every known-bad way was caught. Ctrl-C ends the row
that runs in order, and the run; what was done by then is kept.
"""

import argparse
import asyncio
import importlib
import logging
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import msgspec

from hopwall_cli.nats_server import binary
from hopwall_runtime import clock
from tests.faults.page import Row, line, page, row_of
from tests.faults.table import Mode, Result, Trial
from tests.simulator.kept import read, section

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
#: What the page is made of, so that one row can be done anew.
ROWS = ROOT / "docs" / "reliability" / "rows.json"
#: The bound of the whole run.
MOST_S = 1800.0
#: What a mode may take beyond its share, while there is time.
_GRACE_S = 180.0
#: With less than this no mode is begun.
_LEAST_S = 5.0


def modes() -> list[Mode]:
    """Return the modes of all files `modes_*.py` beside this one."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("modes_*.py"))
    return [
        mode for name in names for mode in importlib.import_module(f"tests.faults.{name}").MODES
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modes that are asked for."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="words of modes' names or files")
    parser.add_argument("--seconds", type=float, default=MOST_S, help="bound of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="print the rows only")
    parser.add_argument(
        "--page", action="store_true", help="run nothing; make the page of what is kept"
    )
    args = parser.parse_args(argv)
    # What breaks is said in the table; the links' own words of it are many.
    logging.disable(logging.ERROR)
    every = modes()
    chosen = [
        m for m in every if not args.only or any(w in f"{m.where}: {m.name}" for w in args.only)
    ]
    signal.signal(signal.SIGTERM, _interrupt)
    rows: list[Row] = []
    try:
        for row in () if args.page else _run_all(chosen, args.seconds, args.seed):
            rows.append(row)
            _say(row)
    except KeyboardInterrupt:
        sys.stdout.write("interrupted\n")
    if not args.no_write:
        _write(every, rows, args.seed)
    failed = [row.name for row in rows if not row.passed]
    missing = 0 if args.page else len(chosen) - len(rows)
    if failed or missing:
        sys.stdout.write(f"failed: {', '.join(failed) or 'none'}; not run: {missing}\n")
    return 1 if failed or missing else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # which ends what runs in order


def _say(row: Row) -> None:
    sys.stdout.write(f"{'ok    ' if row.passed else 'FAILED'} {row.took_s:5.0f} s  {line(row)}\n")
    sys.stdout.flush()


def _run_all(chosen: Sequence[Mode], seconds: float, seed: int) -> Iterator[Row]:
    """Run one mode after the other. What is over before its time leaves it to those that follow."""
    end = clock.monotonic() + seconds
    commit = _said("git", "rev-parse", "--short", "HEAD")
    for i, mode in enumerate(chosen):
        began = clock.monotonic()
        left_s = end - began
        if left_s < _LEAST_S:
            return
        weights = sum(later.weight for later in chosen[i:]) or 1.0
        free_s = max(0.0, left_s - sum(later.takes_s for later in chosen[i:]))
        budget_s = free_s * mode.weight / weights
        result = _run(mode, budget_s, seed, min(left_s, budget_s + mode.takes_s + _GRACE_S))
        took_s = clock.monotonic() - began
        yield row_of(mode, result, took_s=took_s, commit=commit, day=clock.now_text()[:10])


def _run(mode: Mode, budget_s: float, seed: int, most_s: float) -> Result:
    with TemporaryDirectory(prefix="hwt-", ignore_cleanup_errors=True) as folder:
        trial = Trial(Path(folder), budget_s, seed)
        try:
            return asyncio.run(_bounded(mode, trial, most_s))
        except Exception as error:  # noqa: BLE001 - one mode that breaks must not hide the others
            traceback.print_exc()
            return Result(tries=1, faults=[f"the row broke: {type(error).__name__}: {error}"])


async def _bounded(mode: Mode, trial: Trial, most_s: float) -> Result:
    async with asyncio.timeout(most_s):
        return await mode.run(trial)


def _write(every: Sequence[Mode], rows: Sequence[Row], seed: int) -> None:
    """Put the rows in the place of those that are kept of the same modes, and make the page of all."""
    kept = {}
    if ROWS.exists():
        kept = {row.name: row for row in msgspec.json.decode(ROWS.read_bytes(), type=list[Row])}
    kept |= {row.name: row for row in rows}
    whole = [kept[mode.name] for mode in every if mode.name in kept]
    if not whole:
        return
    ROWS.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    PAGE.write_text(page(whole, _facts(whole, seed), section(read())))


def _facts(rows: Sequence[Row], seed: int) -> list[str]:
    commits = sorted({(row.day, row.commit) for row in rows})
    made = ", ".join(f"{commit} on {day}" for day, commit in commits)
    return [
        f"commit {made}; seed {seed}; {sum(row.took_s for row in rows) / 60:.0f} minutes",
        f"{_said(binary(), '--version')}; {_said('iptables', '--version')};"
        f" {_said('bird', '--version')}; Linux {_said('uname', '-r')}",
    ]


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    raise SystemExit(main())
