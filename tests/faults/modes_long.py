"""A long run: what comes and goes leaves nothing behind, in no process, no kernel, no file and no stream."""

import asyncio

from hopwall_cli.client import Problem
from hopwall_cli.kinds import kind_named
from hopwall_runtime import clock
from tests.faults.cloud import Cloud, Json, document, lets_in
from tests.faults.gauges import MIB, Gauge, in_kernel, n_bytes, n_open, rss_mib
from tests.faults.table import Mode, Trial
from tests.faults.watch import Watch, on_a_cloud

#: What comes and goes in one turn: so many sets, by names never used before, and as many policies that name them.
N_EACH = 20
_SAMPLE_S = 2.0
#: By how much the second half of a run may grow, and what is noise whatever its share: an allocator's arenas, a
#: buffer that has once been as large as ever it will be.
_MOST_SHARE, _NOISE = 0.10, {"rss": 8.0, "files": 4.0, "kept": 0.25}
#: What one removed name may leave in the stream until its tombstone goes: an event, and its index.
_MOST_BYTES_A_WRITE = 4096
#: Who remembers a removed name until then: the broker's index, and the two that follow all events.
_REMEMBER = ("rss of nats", "rss of api", "rss of calc")
_FIRST_PORT = 20000
_HERE = "tests/faults/modes_long.py"
_SETS, _POLICIES = kind_named("globalnetworkset"), kind_named("globalnetworkpolicy")


class Gauges:
    """All that is read, by name."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.all: dict[str, Gauge] = {}

    def read(self) -> None:
        """Read everything once."""
        now, folder = clock.monotonic(), self._cloud.folder.path
        for name, child in self._cloud.services.items():
            self._note(f"rss of {name}", now, rss_mib(child.pid))
            self._note(f"files of {name}", now, n_open(child.pid))
        for host in self._cloud.hosts:
            self._note(f"kept by {host}", now, n_bytes(folder / f"state-{host}") / MIB)

    def _note(self, name: str, at: float, value: float) -> None:
        self.all.setdefault(name, Gauge(name)).read(at, value)

    def growing(self, n_gone: int) -> list[str]:
        """Name what grows: by the slope of the second half, and by more than noise and what the names gone leave."""
        found = []
        left = n_gone / 2 * _MOST_BYTES_A_WRITE / MIB
        for gauge in self.all.values():
            values, grown = gauge.late[1], gauge.grown
            most = max(_NOISE[gauge.name.split()[0]], _MOST_SHARE * values[0])
            if grown > most + (left if gauge.name in _REMEMBER else 0.0):
                found.append(f"{gauge.name} grew by {grown:.1f}, to {values[-1]:.1f}")
        return found

    def most(self, kind: str) -> str:
        """Say which of a kind has most at the end."""
        last = {g.name: g.values[-1] for g in self.all.values() if g.name.startswith(kind)}
        name = max(last, key=lambda one: last[one])
        return f"{name} {last[name]:.0f}"


async def come_and_go(watch: Watch, trial: Trial) -> None:
    """Declare and withdraw sets and policies, turn after turn, and see that all is as before."""
    cloud, gauges = watch.cloud, Gauges(watch.cloud)
    async with watch.changes.standing_still():
        before = {host: await in_kernel(cloud, host) for host in cloud.hosts}
    store = cloud.folder.path / "nats" / "store"
    kept, n_written = n_bytes(store), 0
    reading = asyncio.get_running_loop().create_task(_read_on(gauges))
    try:
        while trial.goes_on():
            # By themselves: who is judged by other policies while members move is closed for that moment (decision 30).
            async with watch.changes.standing_still():
                n_written += await _turn(cloud, watch.result.tries)
            watch.result.tries += 1
            await watch.recovered()
    finally:
        reading.cancel()
    a_write = (n_bytes(store) - kept) / max(1, n_written)
    watch.result.faults += [] if trial.brief else gauges.growing(2 * N_EACH * watch.result.tries)
    if a_write > _MOST_BYTES_A_WRITE:
        watch.result.faults.append(f"the store grew by {a_write:.0f} bytes a write")
    watch.result.faults += await _left(watch, before)
    watch.result.note = (
        f"{n_written:,} objects came and went; {gauges.most('rss')} MiB, {gauges.most('files')};"
        f" the store grew by {a_write:.0f} bytes a write"
    )


async def _read_on(gauges: Gauges) -> None:
    while True:
        gauges.read()
        await asyncio.sleep(_SAMPLE_S)


async def _turn(cloud: Cloud, turn: int) -> int:
    """Let objects come, be changed and go; return how many writes that was."""
    names = [f"turn-{turn}-{number}" for number in range(N_EACH)]
    sets = [_set(name, number) for number, name in enumerate(names)]
    policies = [
        lets_in(name, _FIRST_PORT + number, f"turn == '{name}'")
        for number, name in enumerate(names)
    ]
    await cloud.client.apply([*sets, *policies], wait="programmed")
    others = [_set(name, number + 100) for number, name in enumerate(names)]
    await cloud.client.apply(others, wait="programmed")
    for kind in (_POLICIES, _SETS):
        for name in names:
            await _gone(cloud, kind, name, wait="programmed" if name == names[-1] else "")
    return 5 * N_EACH


async def _gone(cloud: Cloud, kind: type, name: str, wait: str) -> None:
    try:
        await cloud.client.delete(kind, namespace="", name=name, wait=wait)
    except Problem as problem:
        if problem.status != 404:
            raise


def _set(name: str, number: int) -> Json:
    spec = {"nets": [f"198.18.{number}.0/24", f"2001:db8:{number:x}::/64"]}
    return document("GlobalNetworkSet", name, spec, labels={"turn": name})


async def _left(watch: Watch, before: dict[str, dict[str, int]]) -> list[str]:
    """Say what is more in a kernel than before, once what nothing names is swept."""
    found: list[str] = []
    async with watch.changes.standing_still():
        for host, counts in before.items():
            end = clock.monotonic() + 60.0
            now = await in_kernel(watch.cloud, host)
            while _more(now, counts) and clock.monotonic() < end:
                await asyncio.sleep(0.5)
                now = await in_kernel(watch.cloud, host)
            if more := _more(now, counts):
                found.append(f"{host} has more than before in its kernel: {more}")
    return found


def _more(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return what is more by what the other changes do not explain: an endpoint, and a set of it."""
    room = {"lines": 60, "sets": 6, "members": 20, "routes": 2}
    return {what: n - before[what] for what, n in now.items() if n > before[what] + room[what]}


MODES = (
    Mode("a long run", f"{2 * N_EACH} objects come and go each turn, by new names", on_a_cloud(come_and_go), ("C10",), weight=8, where=_HERE, takes_s=20.0),
)  # fmt: skip
