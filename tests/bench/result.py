"""What a benchmark found, and how it is printed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """Our time against a floor measured in the same run.

    Units: `ratio` is ours / floor, and `bound` the largest ratio that is good enough.
    """

    name: str
    ours_ms: float
    floor_ms: float
    ratio: float
    bound: float

    @property
    def holds(self) -> bool:
        """Say whether the bound is kept."""
        return self.ratio <= self.bound


def compare(name: str, ours_ms: Sequence[float], floor_ms: Sequence[float], bound: float) -> Result:
    """Make a result of the medians of interleaved runs."""
    ours, floor = statistics.median(ours_ms), statistics.median(floor_ms)
    return Result(name, ours, floor, ours / floor, bound)


def timed_ms(call: Callable[[], object]) -> float:
    """Call once and return how long it took."""
    began_at = time.perf_counter()
    call()
    return (time.perf_counter() - began_at) * 1000


def table(results: Sequence[Result]) -> str:
    """Write results as a table."""
    width = max(len(result.name) for result in results)
    lines = [f"{'':{width}}  {'ours ms':>9}  {'floor ms':>9}  {'ratio':>6}  {'bound':>6}"]
    lines += [
        f"{r.name:{width}}  {r.ours_ms:9.2f}  {r.floor_ms:9.2f}  {r.ratio:6.2f}  {r.bound:6.2f}"
        f"  {'ok' if r.holds else 'TOO SLOW'}"
        for r in results
    ]
    return "".join(f"{line}\n" for line in lines)
