"""Where the time of one policy change goes: stamps of all services of a lab on one clock, as medians.

Not one of `make bench`: the stamps themselves cost (about 3 µs each). `python -m tests.bench.timeline`
"""

import asyncio
import os
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from hopwall_runtime import clock
from tests.bench.bench_latency import policy, timed_puts, two_hosts

N_SAMPLES = 100
STAMPS = Path(__file__).parent / "stamps"
#: A stamp that is seen in fewer samples is none of the usual path.
_USUAL = 0.5


async def measure(folder: Path) -> list[tuple[float, float]]:
    """Return when each change was called for and answered, on the clock of the stamps."""
    os.environ["HOPWALL_STAMPS"] = str(folder)
    os.environ["PYTHONPATH"] = str(STAMPS)
    async with two_hosts("timeline") as lab:
        await timed_puts(lab, [policy(1)])
        spans = []
        for n in range(N_SAMPLES):
            began = clock.monotonic()
            (took,) = await timed_puts(lab, [policy(1000 + n)])
            spans.append((began, began + took / 1000))
    return spans


def stamps(folder: Path) -> list[tuple[float, str]]:
    """Return all stamps as (seconds, text), in order."""
    lines = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    parts = (line.partition(" ") for line in lines)
    return sorted((int(at) / 1e9, text) for at, _, text in parts)


def medians(
    spans: list[tuple[float, float]], found: list[tuple[float, str]]
) -> list[tuple[float, str]]:
    """Return the usual stamps as (ms after the call, text), in order; the nth of one text is a text of its own."""
    offsets: dict[str, list[float]] = defaultdict(list)
    for began, ended in spans:
        seen: Counter[str] = Counter()
        for at, text in found:
            if began <= at <= ended + 0.02:
                seen[text] += 1
                offsets[f"{text} #{seen[text]}" if seen[text] > 1 else text].append(
                    (at - began) * 1000
                )
        offsets["client answered"].append((ended - began) * 1000)
    usual = {t: o for t, o in offsets.items() if len(o) >= _USUAL * len(spans)}
    return sorted((statistics.median(o), t) for t, o in usual.items())


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        spans = asyncio.run(measure(Path(name)))
        found = stamps(Path(name))
    for at, text in medians(spans, found):
        sys.stdout.write(f"{at:8.2f}  {text}\n")


if __name__ == "__main__":
    main()
