"""What runs of many worlds found, as it is kept for the page of `docs/reliability.md`. Pure, but for reading and writing."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.simulator.run import Tally

KEPT = Path(__file__).parents[2] / "docs" / "reliability" / "simulator.json"
#: As many seeds are to be lived without a failure.
BAR = 100_000


class Kept(Struct, frozen=True, kw_only=True):
    """One run: `seeds` worlds from the number `first` on."""

    commit: str
    day: str
    first: int
    seeds: int
    packets: int
    opened: int
    closed: int
    lost: int
    failing: tuple[int, ...] = ()


def kept_of(tally: Tally, *, first: int, commit: str, day: str) -> Kept:
    """Return what is kept of a run."""
    return Kept(
        commit=commit,
        day=day,
        first=first,
        seeds=tally.seeds,
        packets=tally.asked,
        opened=tally.open,
        closed=tally.closed,
        lost=tally.lost,
        failing=tally.failing,
    )


def read(path: Path = KEPT) -> list[Kept]:
    """Return the runs that are kept."""
    return msgspec.json.decode(path.read_bytes(), type=list[Kept]) if path.exists() else []


def keep(run: Kept, path: Path = KEPT) -> None:
    """Keep a run, in the place of a shorter one of the same worlds by the same commit."""
    others = [one for one in read(path) if (one.commit, one.first) != (run.commit, run.first)]
    runs = sorted([*others, run], key=lambda one: (one.day, one.commit, one.first))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(runs), indent=1) + b"\n")


def section(runs: Sequence[Kept]) -> list[str]:
    """Return the page's lines on simulated clouds."""
    seeds = sum(run.seeds for run in runs)
    lines = [
        "## Simulated clouds, by seed",
        "",
        "Each seed is a cloud of real calc and real agents on virtual time, with crashes at any write, cuts, lost and"
        " disordered messages, exchanged servers and racing API replicas; packets are asked after every write"
        " (`python -m tests.simulator --seeds N --keep`). No mixture of two states is excused.",
        "",
        "Once what was wrong is mended, a seed that failed is lived by `tests/simulator/test_simulator.py` for"
        " ever; what is not mended yet is in section 8 of ARCHITECTURE.md.",
        "",
        f"{seeds:,} seeds of {BAR:,} that are wanted; {sum(run.packets for run in runs):,} packets.",
        "",
        "| seeds | from | packets | open | closed | worlds with a loss | failing seeds | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        failing = ", ".join(map(str, run.failing)) or "none"
        lines.append(
            f"| {run.seeds:,} | {run.first:,} | {run.packets:,} | {run.opened} | {run.closed} | {run.lost}"
            f" | {failing} | {run.commit} on {run.day} |"
        )
    return [*lines, ""]
