"""A mode of failure, and one run of it."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hopwall_runtime import clock

if TYPE_CHECKING:
    from tests.faults.cloud import Cloud

#: Why a row judges no packets.
BROKER_ALONE = "broker and API alone"
TESTS_JUDGE = "its tests judge"


@dataclass(slots=True)
class Result:
    """What became of a mode."""

    tries: int = 0
    #: Acknowledged writes that were looked for afterwards, and those that were not there.
    acked: int = 0
    lost: int = 0
    #: Packets that were held against the model; those that came and must not have, and the other way round.
    probes: int = 0
    opened: int = 0
    closed: int = 0
    #: Which of them, by stream.
    wrong: list[str] = field(default_factory=list)
    #: Processes that were killed, and changes that were enforced meanwhile.
    kills: int = 0
    changes: int = 0
    recovery: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    #: Figures worth a line in the table.
    note: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, open or otherwise wrong, and something was tried."""
        return self.tries > 0 and not (self.lost or self.opened or self.closed or self.faults)


@dataclass(slots=True)
class Trial:
    """What a mode is given: a folder, a time, a seed."""

    folder: Path
    budget_s: float
    seed: int
    least: int = 1
    most: int = 1_000_000
    #: A cloud that is there already; else a mode that needs one makes it.
    cloud: "Cloud | None" = None
    chance: random.Random = field(init=False)
    _n: int = 0
    _end: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def brief(self) -> bool:
        """Whether this is the short form: waits may be as short as they can."""
        return self.budget_s <= 0

    def goes_on(self) -> bool:
        """Tell whether to try once more. The time begins with the first question: when all is built."""
        self._end = self._end or clock.monotonic() + self.budget_s
        self._n += 1
        if self._n <= self.least:
            return True
        return self._n <= self.most and clock.monotonic() < self._end


Run = Callable[[Trial], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to break. A `bad` one must be caught: it proves that its sibling can see.

    Shape: `covers` are failure modes of `catalogue`; `packets` is why no packet is judged, and "" where they are:
           such a row fails when nothing was. `closes` is why packets that did not come are shown and not judged.
    """

    name: str
    what: str
    run: Run
    covers: tuple[str, ...]
    packets: str = ""
    weight: float = 1.0
    bad: bool = False
    #: The file in which it is written.
    where: str = ""
    #: What it takes beside its share of the time, about: to build, to judge, to clean up.
    takes_s: float = 14.0
    closes: str = ""

    def passed(self, result: Result) -> bool:
        """Tell whether the result is as it must be."""
        judged = bool(self.packets) or result.probes > 0
        clean = replace(result, closed=0).clean if self.closes else result.clean
        return judged and result.tries > 0 and clean != self.bad


async def quick(
    mode: Mode, folder: Path, *, tries: int = 1, seed: int = 1, cloud: "Cloud | None" = None
) -> Result:
    """Run the short form of a mode and see that it is as it must be."""
    result = await mode.run(Trial(folder, 0.0, seed, least=tries, most=tries, cloud=cloud))
    assert mode.passed(result), f"{mode.name}: {result}"
    return result
