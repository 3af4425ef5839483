"""One policy chain changes: our plan and driver against a bare long-lived restore fed the same text.

`python -m tests.bench.bench_iptables` as root. Both take turns in one namespace of their own, paced, so
that neither waits for what the other freed.
"""

import asyncio
import statistics
import subprocess
import sys
import time

from hopwall_dataplane.iptables.backend import choose
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.table import Chain, Jump, TableState
from hopwall_dataplane.iptables.transaction import Applied, ChainWrite, Transaction, record
from hopwall_dataplane.outcome import Family
from tests.bench.result import Result, table
from tests.support.netns import Netns

N_ROUNDS = 25
PACE_S = 0.045
BOUND = 1.5
JUMPS = (Jump("FORWARD", "hw-FORWARD"),)


def bodies(chain: int, version: int) -> Chain:
    """Spell ten lines that differ between versions."""
    return (
        "-m conntrack --ctstate INVALID -j DROP",
        *(f"-p tcp -m multiport --dports {80 + n},{8000 + version} -j ACCEPT" for n in range(7)),
        f"-s 10.{chain // 256}.{chain % 256}.0/24 -m mark --mark 0x10000/0x10000 -j RETURN",
        '-m comment --comment "hw-rule:default drop" -j DROP',
    )


class Bare:
    """The floor: a restore process, blocking writes and reads, nothing else."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        """Start it."""
        self.argv = argv
        self.process = self._started()
        self.n = 0

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def apply(self, text: str) -> None:
        """Feed text and wait for its token."""
        if self.process.poll() is not None:
            # legacy ends by itself some seconds after a transaction (--wait); ours starts a new one too.
            self.process = self._started()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.n += 1
        token = f"# bare {self.n}\n".encode()
        self.process.stdin.write(text.encode() + token)
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line == token:
                return
        raise RuntimeError("the bare restore process ended")

    def close(self) -> None:
        """End it."""
        self.process.communicate()


async def measure(ns: Netns, kind: str, n_chains: int) -> Result:
    """Load the table, then let both change one chain in turn."""
    prefix = ("ip", "netns", "exec", ns.name)
    backend = await choose(
        "nft" if kind == "nft" else "legacy", families=(Family.V4,), command_prefix=prefix
    )
    restore = Restore(Family.V4, backend, command_prefix=prefix)
    bare = Bare((*prefix, *backend.restore_argv(Family.V4, "-v")))
    try:
        chains = {f"hw-p-{n}": bodies(n, 0) for n in range(n_chains)}
        # Root jumps by dozens, so that every line can be reached and no chain is long.
        roots = {
            f"hw-r-{n}": tuple(f"-j hw-p-{m}" for m in range(n, min(n + 32, n_chains)))
            for n in range(0, n_chains, 32)
        }
        chains |= roots | {"hw-FORWARD": tuple(f"-j {name}" for name in roots)}
        actual = TableState()
        load = plan_table("filter", chains, JUMPS, actual).now
        assert load is not None
        assert await restore.apply(load) == Applied()
        record(actual, load)
        return await race(restore, bare, chains, actual, f"iptables {kind} {n_chains * 10}")
    finally:
        await restore.close()
        bare.close()


async def race(
    restore: Restore, bare: Bare, chains: dict[str, Chain], actual: TableState, name: str
) -> Result:
    """Take turns, and compare the medians."""
    ours_ms, floor_ms = [], []
    half = sum(name.startswith("hw-p-") for name in chains) // 2
    for n in range(-3, N_ROUNDS):
        chain = n % half
        key = f"hw-p-{chain}"
        await asyncio.sleep(PACE_S)
        began_at = time.perf_counter()
        chains[key] = bodies(chain, n + 10)
        tx = plan_table("filter", chains, JUMPS, actual, dirty={key}).now
        assert tx is not None
        assert await restore.apply(tx) == Applied()
        record(actual, tx)
        ours = time.perf_counter() - began_at
        floor = await turn_of_bare(bare, chain + half, n)
        if n >= 0:  # The first rounds warm both up.
            ours_ms.append(ours * 1000)
            floor_ms.append(floor * 1000)
    ours, floor = statistics.median(ours_ms), statistics.median(floor_ms)
    return Result(name, ours, floor, ours / floor, BOUND)


async def turn_of_bare(bare: Bare, chain: int, n: int) -> float:
    """Let the floor write a chain of the other half, in text of the same length."""
    write = ChainWrite(f"hw-p-{chain}", bodies(chain, n + 10), new=False)
    text = Transaction("filter", (write,)).text
    await asyncio.sleep(PACE_S)
    began_at = time.perf_counter()
    bare.apply(text)
    return time.perf_counter() - began_at


def main() -> list[Result]:
    """Measure both backends at both sizes."""
    results = []
    for kind in ("nft", "legacy"):
        for n_chains in (100, 1000):
            with Netns("bench") as ns:
                results.append(asyncio.run(measure(ns, kind, n_chains)))
    return results


if __name__ == "__main__":
    sys.stdout.write(table(main()))
