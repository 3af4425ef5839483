"""Send every hostile shape and say what became of it: `python -m tests.faults.hostile [--write]`."""

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

from tests.faults.hostile.rig import Result, Rig
from tests.support.site import Site

_PAGE = Path(__file__).parents[3] / "docs" / "reliability" / "hostile.md"
_HEAD = """# Hostile workloads: what they send, and where it comes

Made by `python -m tests.faults.hostile --write`. One workload sends each shape from its own interface as raw frames; its
neighbour, a machine beyond the host and the host's own sockets listen. The policy in force allows UDP port 7000 and TCP port 80
between everybody, so a shape is stopped by what it is. *0* means that nothing of it came anywhere it must not, that the
host's stack did not answer, and that nobody's routes, addresses and neighbours are others than before. The genuine ones must
arrive: they show that the ears hear.

Floods are tests of their own (`tests/faults/hostile/test_*.py`): thousands of senders named by ARP and by solicitations of
IPv6 leave the kernel's table of neighbours free, and a flood of new flows ends at `max_flows`; others connect meanwhile. What the
host would tell others of packets that no line has judged is a test, too.

Two things are not stopped, as they are the kernel's before and behind all lines of iptables (ARCHITECTURE.md, 8): a flood of
fragments that are never completed leaves no room for those of others, and an offloaded checksum that its sender has put over
the ports.
"""


def results(backend: str, only: str = "", *, bare: bool = False) -> list[Result]:
    """Build the scene and send; `bare` takes our rules away first, so that the ears can be seen to hear."""
    with Site(backend) as site, contextlib.closing(Rig(site, bare=bare)) as rig:
        return rig.run(only)


def table(found: list[Result]) -> str:
    """Write one line a shape, with what became of it per backend."""
    backends = sorted({r.backend for r in found}, reverse=True)
    by_shape: dict[tuple[int, str], dict[str, Result]] = {}
    for one in found:
        by_shape.setdefault((one.shape.family, one.shape.name), {})[one.backend] = one
    lines = [f"| shape | family | {' | '.join(backends)} |", f"|---|---|{'---|' * len(backends)}"]
    for (family, name), per in by_shape.items():
        cells = []
        for backend in backends:
            one = per[backend]
            arrived = "arrives" if one.shape.passes else "0"
            cells.append(f"**{one.fault}**" if one.fault else arrived)
        lines.append(f"| {name} | v{family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE}")
    parser.add_argument("--only", default="", help="shapes whose name has this in it")
    parser.add_argument("--backend", choices=("nft", "legacy"))
    parser.add_argument("--bare", action="store_true", help="without our rules: what would come")
    options = parser.parse_args()
    backends = (options.backend,) if options.backend else ("nft", "legacy")
    found = [
        one for backend in backends for one in results(backend, options.only, bare=options.bare)
    ]
    leaks = [one for one in found if one.fault]
    per = Counter(one.shape.family for one in found if one.backend == backends[0])
    summary = f"{per[4]} shapes of IPv4 and {per[6]} of IPv6 with {' and '.join(backends)}: {len(leaks)} leaks."
    text = table(found)
    print(text if not leaks else table(leaks) if len(backends) == 1 else text)
    print(summary)
    if options.write:
        _PAGE.parent.mkdir(exist_ok=True)
        _PAGE.write_text(f"{_HEAD}\n{summary}\n\n{text}\n")
    return 1 if leaks or not found else 0


if __name__ == "__main__":
    sys.exit(main())
