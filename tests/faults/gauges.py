"""How much processes and kernels hold: memory, open files, bytes on disk, chains and sets."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cloud import Cloud

MIB = 1024 * 1024


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")),
        0.0,
    )


def n_open(pid: int) -> int:
    """Return how many files a process has open."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def n_bytes(folder: Path) -> int:
    """Return how many bytes the files below a folder have."""
    sizes = 0
    for path in folder.rglob("*"):
        try:
            sizes += path.stat().st_size if path.is_file() else 0
        except OSError:  # it has just gone
            continue
    return sizes


async def in_kernel(cloud: Cloud, host: str) -> dict[str, int]:
    """Count what a host's kernel has of ours: lines, sets, members, routes."""
    lines = sum(
        [
            (await cloud.run(host, [tool])).count("\n-A ")
            for tool in ("iptables-save", "ip6tables-save")
        ]
    )
    saved = await cloud.run(host, ["ipset", "save"])
    routes = await cloud.run(host, ["ip", "route", "show", "proto", "80"])
    return {
        "lines": lines,
        "sets": saved.count("create "),
        "members": saved.count("add "),
        "routes": len(routes.splitlines()),
    }


@dataclass
class Gauge:
    """One figure, read again and again."""

    name: str
    at: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def read(self, at: float, value: float) -> None:
        """Note a reading."""
        self.at.append(at)
        self.values.append(value)

    @property
    def late(self) -> tuple[Sequence[float], Sequence[float]]:
        """The readings of the second half: by then everything has been done once."""
        half = len(self.at) // 2
        return self.at[half:], self.values[half:]

    @property
    def grown(self) -> float:
        """By how much it grew in the second half, as the slope by least squares says."""
        at, values = self.late
        if len(set(at)) < 2:
            return 0.0
        return statistics.linear_regression(at, values).slope * (at[-1] - at[0])
