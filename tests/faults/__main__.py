"""Run every mode of failure and write the table: `python -m tests.faults` (`make test-faults`).

Exit code: 0 when nothing was lost, open or otherwise wrong and every known-bad mode was caught.
"""

import argparse
import asyncio
import importlib
import logging
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hopwall_cli.nats_server import binary
from hopwall_runtime import clock
from tests.faults.table import Mode, Result, Trial, page, row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
#: Starting, judging and cleaning up take their time too: the modes get this much of the bound.
_SHARE = 0.6
MOST_S = 1800.0


def modes() -> list[Mode]:
    """Return the modes of all files `modes_*.py` beside this one."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("modes_*.py"))
    return [
        mode for name in names for mode in importlib.import_module(f"tests.faults.{name}").MODES
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modes that are asked for."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="words of the modes' names")
    parser.add_argument("--seconds", type=float, default=MOST_S, help="bound of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    args = parser.parse_args(argv)
    # What breaks is said in the table; the links' own words of it are many.
    logging.disable(logging.ERROR)
    chosen = [m for m in modes() if not args.only or any(w in m.name for w in args.only)]
    whole = not args.only and not args.no_write
    weights = sum(mode.weight for mode in chosen)
    rows, failed = [], []
    for mode in chosen:
        budget_s = args.seconds * _SHARE * mode.weight / weights
        result = _run(mode, budget_s, args.seed)
        rows.append(row(mode, result))
        sys.stdout.write(rows[-1] + "\n")
        sys.stdout.flush()
        if not mode.passed(result):
            failed.append(mode.name)
            sys.stdout.writelines(f"    {fault}\n" for fault in result.faults[:20])
    if whole:
        PAGE.write_text(page(rows, _facts(args.seed)))
    if failed:
        sys.stdout.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def _run(mode: Mode, budget_s: float, seed: int) -> Result:
    with TemporaryDirectory(prefix="hwt-") as folder:
        trial = Trial(Path(folder), budget_s, seed)
        try:
            return asyncio.run(_bounded(mode, trial))
        except Exception as error:  # noqa: BLE001 - one mode that breaks must not hide the others
            traceback.print_exc()
            return Result(tries=1, faults=[f"the mode broke: {type(error).__name__}: {error}"])


async def _bounded(mode: Mode, trial: Trial) -> Result:
    async with asyncio.timeout(trial.budget_s * 3 + 240):
        return await mode.run(trial)


def _facts(seed: int) -> list[str]:
    return [
        f"{clock.now_text()[:10]}, commit {_said('git', 'rev-parse', '--short', 'HEAD')}, seed {seed}",
        f"{_said(binary(), '--version')}; {_said('iptables', '--version')}; Linux {_said('uname', '-r')}",
        "lost: acknowledged writes that are not stored; open: verdicts that had to be closed;"
        " recovery: from the fault until the next acknowledged write, or as the mode says",
    ]


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    raise SystemExit(main())
