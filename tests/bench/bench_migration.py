"""Workloads that move: how long nobody is answered, and whether two hosts ever attract one address.

`python -m tests.bench.bench_migration --runs 50 --write` runs each variant that often in each kind of lab and writes
the table of docs/design/migration.md. With `--lab`, `--only` or `--skip` it runs a part, and writes the rows of that
part; the others stay. Nothing is written when a stream broke. Of a wrong turn it prints what led to it. Everything is real; a caller on a third host sends a datagram each
millisecond, and each host is asked each millisecond which way it takes.

Refuses to be part of `make bench`: there is no bare tool to compare with. `tests/e2e/test_migration.py` runs each
variant once.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from hopwall_cli.demo import reached
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload
from tests.support.moving import Vm
from tests.support.moving_story import Story
from tests.support.moving_variants import CONVERGENCE_S, TROUBLES, VARIANTS, Variant, wrong_turns
from tests.support.talk import Talk

#: What the issue holds it to.
P99_S = 1.0
LABS: dict[str, tuple[Routing, Topology]] = {
    "routes by calc": ("direct", "mesh"),
    "BGP mesh": ("bgp", "mesh"),
    "BGP by a reflector": ("bgp", "reflector"),
}
_DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "migration.md"
_BEGIN, _END = "<!-- measured -->", "<!-- /measured -->"


class Row:
    """What the runs of one variant in one lab came to."""

    def __init__(self, lab: str, variant: str) -> None:
        self.lab, self.variant = lab, variant
        self.blackouts_s: list[float] = []
        self.wrong: list[str] = []
        #: What led to the wrong turns.
        self.story: list[str] = []

    def quantile_ms(self, share: float) -> float:
        """Return the blackout that so large a share of the runs stays within."""
        ordered = sorted(self.blackouts_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def cells(self) -> list[str]:
        """Return the row of the table."""
        quantiles = [f"{self.quantile_ms(share):.0f}" for share in (0.5, 0.99)]
        worst = f"{1000 * max(self.blackouts_s):.0f}"
        n_runs = str(len(self.blackouts_s))
        return [self.lab, self.variant, n_runs, *quantiles, worst, str(len(self.wrong))]


async def run_lab(label: str, runs: int, variants: dict[str, Variant]) -> tuple[list[Row], int]:
    """Run all variants in one lab; return their rows, and how many of two streams broke."""
    routing, topology = LABS[label]
    flags = ["--migration-convergence-s", str(CONVERGENCE_S)]
    rows = []
    async with Lab(
        "migbench", hosts=3, routing=routing, topology=topology, agent_flags=flags
    ) as lab:
        await lab.client.apply([topo.open_profile("open")])
        await lab.add(Workload(name="far", host="h3", ipv4="10.65.78.8", profiles=("open",)))
        assert reached(await lab.declare())
        address = "10.65.77.7"
        if routing == "bgp":
            address = (await lab.assign("blocked", "h1")).ipv4
        async with Vm(lab, address) as vm:
            vm.call_from(lab.namespace("far"))
            await vm.found_at("h1")
            talks = _streams(vm)
            for name, variant in variants.items():
                row = Row(label, name)
                rows.append(row)
                for _ in range(runs):
                    story = Story(vm)
                    run = await variant(vm, "h2" if vm.at == "h1" else "h1")
                    await asyncio.sleep(0.05)
                    row.blackouts_s.append(await vm.blackout_s(run.began_at))
                    if wrong := wrong_turns(vm, run):
                        row.wrong += wrong
                        row.story += [*wrong, *story.tell(run)]
                lines = [" | ".join(row.cells()), *row.story]
                sys.stderr.write("".join(f"{line}\n" for line in lines))
            before = time.monotonic()
            await asyncio.sleep(3.0)
            broken = sum(talk.last_at() <= before for talk in talks)
            for talk in talks:
                talk.close()
    return rows, broken


def _streams(vm: Vm) -> list[Talk]:
    """Begin a stream from the workload and one to it; both last as long as the lab."""
    far = vm.lab.namespace("far")
    serving = [
        Talk(far, "serve", "tcp", "0.0.0.0", 7101),
        Talk(vm.inside, "serve", "tcp", "0.0.0.0", 7102),
    ]
    calling = [
        Talk(vm.inside, "call", "tcp", "10.65.78.8", 7101),
        Talk(far, "call", "tcp", vm.v4, 7102),
    ]
    return serving + calling


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    head = ["lab", "variant", "runs", "p50 ms", "p99 ms", "longest ms", "wrong turns"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def merged(old: str, new: str) -> str:
    """Return a table with the new rows, and those of the old one that were not measured again."""
    order = [(lab, variant) for lab in LABS for variant in (VARIANTS | TROUBLES)]
    rows: dict[tuple[str, str], str] = {}
    for line in (*old.splitlines(), *new.splitlines()):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if tuple(cells[:2]) in order:
            rows[cells[0], cells[1]] = line.strip()
    head = new.splitlines()[:2]
    return "".join(f"{line}\n" for line in (*head, *(rows[k] for k in order if k in rows)))


def write(path: Path, text: str) -> None:
    """Put the rows of a table between the marks in a document."""
    whole = path.read_text()
    before, _, rest = whole.partition(_BEGIN)
    old, _, after = rest.partition(_END)
    path.write_text(f"{before}{_BEGIN}\n{merged(old, text)}{_END}{after}")


def main() -> int:
    """Run, print, and write if told to; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure live migrations.")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--lab", choices=tuple(LABS), action="append", default=[])
    parser.add_argument("--only", default="", help="variants whose name has this")
    parser.add_argument("--skip", default="-", help="variants whose name has this are left out")
    parser.add_argument("--write", type=Path, nargs="?", const=_DOCUMENT)
    args = parser.parse_args()
    rows: list[Row] = []
    broken = 0
    every = (VARIANTS | TROUBLES).items()
    variants = {n: v for n, v in every if args.only in n and args.skip not in n}
    for label in args.lab or LABS:
        found, its = asyncio.run(run_lab(label, args.runs, variants))
        rows += found
        broken += its
    text = table(rows)
    sys.stdout.write(text)
    sys.stdout.write(f"\nEnds of the two TCP streams of each lab that had gone silent: {broken}.\n")
    if args.write and not broken:
        write(args.write, text)
    late = any(row.quantile_ms(0.99) > 1000 * P99_S for row in rows)
    return 1 if broken or late or any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
