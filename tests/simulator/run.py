"""Many worlds: how each ended, and all of them in one line.

`python -m tests.simulator` prints it; `row` is the same for the table of `docs/reliability.md`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from tests.proof.line_text import forget
from tests.simulator.world import N_STEPS, World, live

#: Worlds that one process lives before it forgets the lines it has read.
_CHUNK = 20
Switch = Callable[[World], None]


@dataclass(frozen=True)
class Ending:
    """How one world ended."""

    number: int
    n_asked: int
    n_open: int
    n_closed: int
    #: Hosts that never came to the newest revision, writes that did not last, processes that ended by themselves.
    lost: tuple[str, ...]
    told: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[str]:
        """What is wrong with it."""
        found = {"open": self.n_open, "closed": self.n_closed, "lost": len(self.lost)}
        return frozenset(kind for kind, n in found.items() if n)


class Row(NamedTuple):
    """A row of the table of faults. Counts are packets, and for `lost` worlds in which a host stayed behind or a write was lost."""

    name: str
    seeds: int
    lost: int
    open: int
    closed_when_open: int


@dataclass(frozen=True)
class Tally:
    """Many endings."""

    seeds: int = 0
    asked: int = 0
    open: int = 0
    closed: int = 0
    lost: int = 0
    failing: tuple[int, ...] = ()

    def plus(self, ending: Ending) -> "Tally":
        """Count one more."""
        return Tally(
            self.seeds + 1,
            self.asked + ending.n_asked,
            self.open + ending.n_open,
            self.closed + ending.n_closed,
            self.lost + bool(ending.lost),
            self.failing + ((ending.number,) if ending.kinds else ()),
        )

    @property
    def line(self) -> str:
        """Say it to a person, in a line."""
        said = (
            f"{self.seeds:,} worlds, {self.asked:,} packets: {self.open} let by that nothing lets by, {self.closed}"
            f" stopped that everything lets by, {self.lost} worlds in which a host stayed behind or a write was lost"
        )
        return said if not self.failing else f"{said}; first failing seed {min(self.failing)}"

    @property
    def row(self) -> Row:
        """Return it for the table."""
        return Row("simulated clouds, by seed", self.seeds, self.lost, self.open, self.closed)


def end_of(
    number: int, steps: Iterable[int] = range(N_STEPS), switch: Switch | None = None
) -> Ending:
    """Let one world live, and say how it ended."""
    world = World(number)
    if switch is not None:
        switch(world)
    live(world, steps)
    n_open = sum(fault.kind == "open" for fault in world.faults)
    behind = [f"host {name} does not enforce the newest revision" for name in world.behind()]
    return Ending(
        number,
        world.n_asked,
        n_open,
        len(world.faults) - n_open,
        (*world.broken, *behind, *world.lost),
        tuple(world.told) if world.faults or world.broken or behind or world.lost else (),
    )


def run(first: int, n_seeds: int, jobs: int = 1) -> Iterator[Ending]:
    """Let worlds live, in so many processes; yield how each ended."""
    chunks = [
        range(start, min(start + _CHUNK, first + n_seeds))
        for start in range(first, first + n_seeds, _CHUNK)
    ]
    if jobs == 1:
        for chunk in chunks:
            yield from _ends_of(chunk)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for endings in pool.map(_ends_of, chunks):
            yield from endings


def row(n_seeds: int, first: int = 0, jobs: int = 1) -> Row:
    """Let worlds live and return the row of the table."""
    tally = Tally()
    for ending in run(first, n_seeds, jobs):
        tally = tally.plus(ending)
    return tally.row


def _ends_of(numbers: Iterable[int]) -> list[Ending]:
    logging.disable(logging.CRITICAL)
    forget()
    try:
        return [end_of(number) for number in numbers]
    finally:
        logging.disable(logging.NOTSET)
