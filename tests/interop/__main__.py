"""`make bgp-report`: every peer asked everything, and the answers written to docs/bgp-interop.md.

Ends with 1 when something did not come out; it is in the page then.
"""

import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.bench import bench_bgp_convergence
from tests.bench.result import Result
from tests.interop import cases, liveness, moved, places, restarts, rogues
from tests.interop.scene import FAMILIES, Row
from tests.support.bird_hosts import AS
from tests.support.peers import KINDS

log = logging.getLogger(__name__)

PAGE = Path(__file__).parents[2] / "docs" / "bgp-interop.md"
#: Each job has namespaces of its own, and waits most of the time.
N_WORKERS = 6


@dataclass(frozen=True)
class Job:
    """One case with one make of peer: where its rows belong, and what to run."""

    section: str
    group: str
    kind: str
    run: Callable[[str, Path], Iterator[Row]]


@dataclass
class Table:
    """Rows by what was asked and the family; a column for each make."""

    cells: dict[tuple[str, str, int], dict[str, str]] = field(default_factory=dict)

    def put(self, group: str, kind: str, row: Row) -> None:
        """Add a cell."""
        self.cells.setdefault((group, row.what, row.family), {})[kind] = row.seen


def jobs() -> list[Job]:
    """Return all there is to do, the long ones first."""
    found: list[Job] = []
    all_cases = cases.CASES | liveness.CASES | places.CASES | moved.CASES
    for kind in KINDS:
        found += [
            Job("rogue", title, kind, partial(run, relation=relation))
            for relation, title in rogues.RELATIONS.items()
            for run in (rogues.flood, rogues.lies, rogues.stranger)
        ]
        found += [Job("crash", "", kind, run) for run in restarts.PEER_CASES]
        found += [Job("peers", title, kind, case) for title, case in all_cases.items()]
    ours = [Job("ours", "", "bird", run) for run in (restarts.ours, restarts.reflected)]
    return ours + found


def done(job: Job) -> tuple[Job, list[Row], str]:
    """Run one in a folder of its own; return its rows, and why it ended early, if it did."""
    folder = Path(tempfile.mkdtemp(prefix="hwt-interop-"))
    rows: list[Row] = []
    try:
        rows.extend(job.run(job.kind, folder))
    except Exception as error:  # noqa: BLE001 - it is said in the page
        where = traceback.extract_tb(error.__traceback__)[-2]
        return job, rows, f"{type(error).__name__} at line {where.lineno}: {str(error)[:300]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return job, rows, ""


def main() -> int:
    """Do everything, write the page, return the exit code."""
    began_at = time.monotonic()
    tables = {name: Table() for name in ("peers", "rogue", "crash", "ours")}
    failures: list[str] = []
    todo = jobs()
    with ProcessPoolExecutor(N_WORKERS) as pool:
        for n, (job, rows, failure) in enumerate(pool.map(done, todo), 1):
            name = f"{KINDS[job.kind].title}: {job.group or job.section}"
            sys.stderr.write(f"{n}/{len(todo)} {name} {failure or 'done'}\n")
            for row in rows:
                tables[job.section].put(job.group, job.kind, row)
            if failure:
                failures.append(f"{name}: {failure}")
    # Written twice: what was seen so far is not lost when the measurement fails.
    PAGE.write_text(page(tables, failures, (), time.monotonic() - began_at))
    speed = bench_bgp_convergence.main()
    failures += [f"{r.name}: above its bound" for r in speed if not r.holds]
    PAGE.write_text(page(tables, failures, speed, time.monotonic() - began_at))
    sys.stdout.write(f"{PAGE}: {len(failures)} failed\n")
    return 1 if failures else 0


# ---------------------------------------------------------------- the page


class Notes:
    """Reasons, each said once below its table."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: list[str] = []

    def mark(self, seen: str) -> str:
        """Return the cell with its reason as a number."""
        head, colon, reason = seen.partition(": ")
        if not colon:
            return seen
        if reason not in self._found:
            self._found.append(reason)
        return f"{head} ({self._found.index(reason) + 1})"

    def lines(self) -> list[str]:
        """Return the reasons."""
        found = [f"({n}) {reason}." for n, reason in enumerate(self._found, 1)]
        return ["", *found] if found else []


def page(
    tables: dict[str, Table], failures: Sequence[str], speed: Sequence[Result], took_s: float
) -> str:
    """Return the whole page."""
    versions = ", ".join(f"{kind.title} {kind.version()}" for kind in KINDS.values())
    lines = [
        "# BGP with peers of other makes",
        "",
        f"Made by `make bgp-report` on {datetime.now(UTC):%Y-%m-%d} in {took_s / 60:.0f} minutes; "
        f"{len(failures)} failed. Peers: {versions} (Debian 12), as our host's neighbour on one link, "
        f"our AS {AS}. Our side is BIRD with what calc says of the declared resources. "
        "`make test` asks the first table's first part.",
        "",
    ]
    lines += [f"**Failed:** {one}\n" for one in failures]
    lines += ["## What works with whom", ""]
    lines += _table(tables["peers"], list(KINDS))
    lines += [
        "",
        "## A peer that lies",
        "",
        "Each announces what it may not beside one thing it may; when that is in, what the kernel has "
        "besides is counted. What did not reach the filters BIRD or the peer dropped before.",
        "",
        *_table(tables["rogue"], list(KINDS)),
        "",
        "## Crashes",
        "",
        f"{restarts.N_ROUTES} routes in each family, one run; routes that left the kernel (of GoBGP, its "
        "table) of who has learnt them, by its monitor. Between two hosts of ours:",
        "",
        *_table(tables["ours"], ["bird"], heads={"bird": "seen"}),
        "",
        "With a router of another make:",
        "",
        *_table(tables["crash"], list(KINDS)),
        "",
        "## 10,000 addresses to a third host",
        "",
        f"By a reflector, all BIRD, {bench_bgp_convergence.N_ROUNDS} rounds, interleaved, medians: from the "
        "first route in the kernel of the host that has them until all are there and the third host's "
        "kernel has its ways. Plain BIRDs have no filters and get the routes by `ip -batch`.",
        "",
        "| | ours, ms | plain BIRDs, ms | ratio | bound |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name.partition(': against')[0]} | {r.ours_ms:.0f} | {r.floor_ms:.0f} | {r.ratio:.2f} | {r.bound:g} |"
            for r in speed
        ),
        "",
    ]
    return "\n".join(lines)


def _table(table: Table, kinds: list[str], heads: dict[str, str] | None = None) -> list[str]:
    """Return a table, both families in one row where they say the same."""
    notes = Notes()
    titles = [(heads or {}).get(kind, KINDS[kind].title) for kind in kinds]
    lines = [f"| | | {' | '.join(titles)} |", "|---|---|" + "---|" * len(kinds)]
    group_before = None
    for group, what in dict.fromkeys((group, what) for group, what, _ in table.cells):
        if group and group != group_before:
            lines.append(f"| **{group}** | |" + " |" * len(kinds))
            group_before = group
        by_family = {
            f: [table.cells.get((group, what, f), {}).get(kind, "-") for kind in kinds]
            for f in FAMILIES
        }
        same = by_family[4] == by_family[6]
        for f in FAMILIES[:1] if same else FAMILIES:
            cells = " | ".join(notes.mark(cell) for cell in by_family[f])
            lines.append(f"| {what} | {'v4, v6' if same else f'v{f}'} | {cells} |")
    return lines + notes.lines()


if __name__ == "__main__":
    raise SystemExit(main())
