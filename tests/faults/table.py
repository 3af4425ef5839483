"""A mode of failure, one run of it, and the table of all."""

import random
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hopwall_runtime import clock


@dataclass(slots=True)
class Result:
    """What became of a mode."""

    tries: int = 0
    #: Acknowledged writes that were looked for afterwards, and those that were not there.
    acked: int = 0
    lost: int = 0
    #: Verdicts that were open and had to be closed; None where no packet is judged.
    opened: int | None = None
    recovery: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    #: Figures worth a line in the table.
    note: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, open or otherwise wrong, and something was tried."""
        return self.tries > 0 and not (self.lost or self.opened or self.faults)


@dataclass(slots=True)
class Trial:
    """What a mode is given: a folder, a time, a seed."""

    folder: Path
    budget_s: float
    seed: int
    least: int = 1
    most: int = 1_000_000
    chance: random.Random = field(init=False)
    _n: int = 0
    _end: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._end = clock.monotonic() + self.budget_s

    @property
    def brief(self) -> bool:
        """Whether this is the short form: waits may be as short as they can."""
        return self.budget_s <= 0

    def goes_on(self) -> bool:
        """Tell whether to try once more."""
        self._n += 1
        if self._n <= self.least:
            return True
        return self._n <= self.most and clock.monotonic() < self._end


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to break. A `bad` one must be caught: it proves that its sibling can see."""

    name: str
    what: str
    run: Callable[[Trial], Awaitable[Result]]
    weight: float = 1.0
    bad: bool = False

    def passed(self, result: Result) -> bool:
        """Tell whether the result is as it must be."""
        return result.tries > 0 and result.clean != self.bad


async def quick(mode: Mode, folder: Path, *, tries: int = 1, seed: int = 1) -> Result:
    """Run the short form of a mode and see that it is as it must be."""
    result = await mode.run(Trial(folder, 0.0, seed, least=tries, most=tries))
    assert mode.passed(result), f"{mode.name}: {result}"
    return result


HEAD = (
    "| failure mode | tried | acknowledged | lost | open | recovery p50 / max | |",
    "|---|---|---|---|---|---|---|",
)


def row(mode: Mode, result: Result) -> str:
    """Return the line of the table."""
    seconds = result.recovery
    recovery = f"{statistics.median(seconds):.2f} s / {max(seconds):.2f} s" if seconds else "-"
    opened = "-" if result.opened is None else str(result.opened)
    acked = f"{result.acked:,}" if result.acked else "-"
    words = [result.note, *result.faults[:3]]
    if mode.bad:
        words.insert(0, "known bad, caught" if mode.passed(result) else "known bad, NOT caught")
    elif not mode.passed(result):
        words.insert(0, "FAILED")
    said = "; ".join(word for word in words if word)
    return (
        f"| {mode.name}: {mode.what} | {result.tries} | {acked} | {result.lost} | {opened} |"
        f" {recovery} | {said} |"
    )


def page(rows: Sequence[str], facts: Sequence[str]) -> str:
    """Return the whole page."""
    return "\n".join(
        [
            "# Reliability",
            "",
            "Made by `make test-faults`; do not change it by hand. How each mode works: `tests/faults`.",
            "",
            *(f"- {fact}" for fact in facts),
            "",
            *HEAD,
            *rows,
            "",
        ]
    )
