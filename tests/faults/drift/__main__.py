"""Do every kind of damage and say what became of it: `python -m tests.faults.drift [--write] [--quick]`."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.drift.scene import BOUND_S, Row
from tests.faults.streams import Verdict
from tests.support.site import Site

_PAGE = Path(__file__).parents[3] / "docs" / "reliability" / "drift.md"
_HEAD = """# Drift: what others do to what is ours

Made by `python -m tests.faults.drift --write`. Each kind of damage was done once per family and backend to a host with a
running agent, whose refresh was off (3,600 s), while three streams a family ran at 100 packets a second each: one that policy
lets by, two that it does not. *Repair* is from the end of the damage until all that is ours is as it was, seen by a
reader that looks every 20 to 60 ms. *Open* and *closed* are packets that policy says otherwise of, and the time from the first of
them to the last: damage opens at once, and nothing but the repair closes, so these are bounded by the repair. Found by *event*:
the kernel tells; bound 1 s. *audit*: it does not; bound 30 s. *foreign*: not ours, so it stays, and what was told of it is checked.
"""


def rows_of(backend: str, only: str, folder: Path) -> Iterator[Row]:
    """Build the scene and do the damages; `only` is "quick", a part of a name, or "" for all."""
    with Site(backend) as site:
        namespaces = {"remote": site.remote.name} | {n: w.name for n, w in site.workloads.items()}
        argv = [
            sys.executable,
            "-m",
            "tests.faults.drift.scene",
            backend,
            str(folder),
            json.dumps(namespaces),
            only,
        ]
        process = subprocess.Popen(site.host.command(argv), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.startswith("{"):
                    found = json.loads(line)
                    yield Row(**found | {"verdict": Verdict(**found["verdict"])})
        if process.wait() != 0:
            message = f"the scene ended with {process.returncode}"
            raise RuntimeError(message)


def table(rows: list[Row]) -> str:
    """Write the rows as a table."""
    lines = [
        "| damage | family | backend | found by | repair | open | closed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        v = row.verdict
        repair = f"{row.repair_s * 1000:.0f} ms" if row.found in BOUND_S else "stays"
        opened = f"{v.n_open} in {v.open_s * 1000:.0f} ms" if v.n_open else "0"
        closed = f"{v.n_closed} in {v.closed_s * 1000:.0f} ms" if v.n_closed else "0"
        name = row.name if not row.fault else f"**{row.name}: {row.fault}**"
        lines.append(
            f"| {row.kind}: {name} | v{row.family} | {row.backend} | {row.found} | {repair} | {opened} | {closed} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.drift")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE}")
    parser.add_argument("--quick", action="store_true", help="only what make test does")
    parser.add_argument("--only", default="", help="damages whose name has this in it")
    parser.add_argument("--backend", choices=("nft", "legacy"))
    options = parser.parse_args()
    rows: list[Row] = []
    for backend in (options.backend,) if options.backend else ("nft", "legacy"):
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(backend, "quick" if options.quick else options.only, Path(folder)):
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
    failed = [row for row in rows if row.fault]
    worst = {f: max((r.repair_s for r in rows if r.found == f), default=0.0) for f in BOUND_S}
    summary = (
        f"{len(rows)} damages, {len(failed)} not as they must be; slowest repair {worst['event'] * 1000:.0f} ms "
        f"by event, {worst['audit']:.1f} s by audit."
    )
    print(summary)
    if options.write:
        _PAGE.parent.mkdir(exist_ok=True)
        _PAGE.write_text(f"{_HEAD}\n{summary}\n\n{table(rows)}\n")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
