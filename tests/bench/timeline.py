"""Where the time of one policy change goes: stamps of all services of a lab on one clock, as medians.

Not one of `make bench`: the stamps themselves cost (about 3 µs each). `python -m tests.bench.timeline --write` makes
docs/design/latency.md.
"""

import argparse
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
PAGE = Path(__file__).parents[2] / "docs" / "design" / "latency.md"
#: What is seen in fewer samples is none of the usual path.
_USUAL = 0.5
_HEAD = """# Where the time of a change of policy goes

Made by `python -m tests.bench.timeline --write` (as root, on a quiet machine; two minutes): a lab of two hosts on two shared
cores, everything real, NATS with an fsync per write; a policy of all four workloads changes its port, and the call waits
for `programmed`. Milliseconds after the call, each the median of {n} changes; what is in one row twice happens again, and
`restore` is a transaction of iptables with its commit. `turn` of a host spans all that it does; `flows` looks for flows
that are now denied. [dataplane.md](dataplane.md) 2 and 13 say why it is done so. What else ran on the machine: a load of {load:.0f}.

| from | to | where | what |
|---|---|---|---|
"""


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
) -> dict[tuple[str, int], float]:
    """Return the usual stamps: (text, how often it had come before) → ms after the call."""
    offsets: dict[tuple[str, int], list[float]] = defaultdict(list)
    for began, ended in spans:
        seen: Counter[str] = Counter()
        for at, text in found:
            if began <= at <= ended:
                offsets[text, seen[text]].append((at - began) * 1000)
                seen[text] += 1
        offsets["client answered ends", 0].append((ended - began) * 1000)
    return {t: statistics.median(o) for t, o in offsets.items() if len(o) >= _USUAL * len(spans)}


def rows(usual: dict[tuple[str, int], float]) -> list[str]:
    """Return what was done, one row for each begin and its end, in the order of the begins."""
    found = []
    for (text, nth), at in usual.items():
        what, _, edge = text.rpartition(" ")
        if edge == "begins":
            end = usual.get((f"{what} ends", nth))
            found.append((at, f"{end:.1f}" if end is not None else "", what))
    answered = usual["client answered ends", 0]
    found.append((answered, f"{answered:.1f}", "client answered"))
    return [
        f"| {at:.1f} | {end} | {what.partition(' ')[0]} | {what.partition(' ')[2]} |"
        for at, end, what in sorted(found)
    ]


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    writes = parser.parse_args().write
    with tempfile.TemporaryDirectory() as name:
        spans = asyncio.run(measure(Path(name)))
        lines = rows(medians(spans, stamps(Path(name))))
    page = _HEAD.format(n=N_SAMPLES, load=os.getloadavg()[1]) + "".join(
        f"{line}\n" for line in lines
    )
    if writes:
        PAGE.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
