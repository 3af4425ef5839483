"""A policy of 1,024 rules, each with 50 ports and 256 networks a side: against a bare restore of the same text.

`python -m tests.bench.bench_big_policy` as root. Its 4,096 sets stand; what is timed is rendering, planning
and restoring its 41,000 lines, and then the change of a small policy while it stands.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family, Retry
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.stale import Stale
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    NeedRemoved,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    TierPolicies,
    Update,
)
from hopwall_runtime.main import tune_collector
from tests.bench.bench_iptables import PACE_S, Bare
from tests.bench.result import Result, compare, table
from tests.support.big_policy import big_policy
from tests.support.netns import Netns

N_RULES, N_PORTS, N_NETS = 1024, 50, 256
N_BIG, N_SMALL = 3, 15
SMALL = PolicyId("gnp/small")

Times = dict[str, list[float]]


class Recorded(Restore):
    """A restore that keeps the text of what it applied."""

    def __init__(self, restore: Restore) -> None:
        """Take the place of another one."""
        super().__init__(restore.family, restore.backend)
        self.texts: list[str] = []

    async def apply(
        self, tx: Transaction, *, timeout_s: float | None = None
    ) -> Applied | Failed | Retry:
        """Apply, and keep the text."""
        outcome = await super().apply(tx, timeout_s=timeout_s)
        self.texts.append(tx.text)
        return outcome


class Race:
    """Our agent's kernel and the bare tools, by turns, over the same chains."""

    def __init__(self, kernel: Kernel) -> None:
        """Start the bare tools."""
        self.kernel = kernel
        self.restores = {f: Recorded(restore) for f, restore in kernel.restores.items()}
        kernel.restores = dict(self.restores)
        self.bare = {f: Bare(r.backend.restore_argv(f, "-v")) for f, r in self.restores.items()}

    async def ours(self, *updates: Update) -> float:
        """Fold, render, plan and apply; return how long it took."""
        for restore in self.restores.values():
            restore.texts.clear()
        await asyncio.sleep(PACE_S)
        began_at = perf_counter()
        self.kernel.desired.apply(Step("e", 1, full=False, updates=updates, fresh=frozenset()))
        turn = await self.kernel.apply()
        took_s = perf_counter() - began_at
        assert not turn.held_by, turn.held_by
        return took_s * 1000

    async def floor(self, texts: dict[Family, str]) -> float:
        """Feed the texts to the bare tools at once; return how long it took."""
        await asyncio.sleep(PACE_S)
        began_at = perf_counter()
        await asyncio.gather(
            *(asyncio.to_thread(self.bare[f].apply, text) for f, text in texts.items())
        )
        return (perf_counter() - began_at) * 1000

    def texts(self) -> dict[Family, str]:
        """Return what was applied last."""
        return {family: "".join(restore.texts) for family, restore in self.restores.items()}

    async def look_again(self) -> None:
        """Learn what the bare tools wrote."""
        self.kernel.stale.add(Stale.TABLES)
        await self.kernel.resync()

    async def close(self) -> None:
        """End all tools."""
        for bare in self.bare.values():
            bare.close()
        await self.kernel.close()


def small(port: int) -> Sequence[Update]:
    """Return a policy of one rule, and an endpoint that has it."""
    side = Entity(ports=(PortRange(port, port),))
    rule = ResolvedRule(id="r", action="allow", protocol=6, destination=side)
    tier = TierPolicies(name="default", ingress=(SMALL,))
    return (
        PolicySet(id=SMALL, version=1, ingress=(rule,)),
        EndpointSet(id=EndpointId("d/small"), interface="tap2", tiers=(tier,)),
    )


async def measure(backend: str) -> Times:
    """Let both write the big policy, and then a small one beside it."""
    tune_collector()
    kernel = await open_kernel(DataplaneSettings(host="h1", backend=backend))
    race = Race(kernel)
    times: Times = {name: [] for name in ("big", "big floor", "small", "small floor")}
    await kernel.resync()
    updates = big_policy(N_RULES, n_ports=N_PORTS, n_nets=N_NETS, mixed=True)
    policy = next(update for update in updates if isinstance(update, PolicySet))
    closed = NeedRemoved(scope=policy.scope)
    await race.ours(*updates, closed, *small(1))
    for _ in range(N_BIG):
        times["big"].append(await race.ours(policy))
        texts = race.texts()
        await race.ours(closed)
        times["big floor"].append(await race.floor(texts))
        await race.look_again()
        await race.ours(closed)
    await race.ours(policy)
    await alternate(race.ours, race.floor, race.texts, times)
    await race.close()
    return times


async def alternate(
    ours: Callable[..., Awaitable[float]],
    floor: Callable[[dict[Family, str]], Awaitable[float]],
    texts: Callable[[], dict[Family, str]],
    times: Times,
) -> None:
    """Change the small policy by turns; the bare tools write what we wrote once more."""
    for n in range(-2, N_SMALL):
        ours_ms = await ours(small(1000 + n)[0])
        floor_ms = await floor(texts())
        if n >= 0:  # the first rounds warm both up
            times["small"].append(ours_ms)
            times["small floor"].append(floor_ms)


def run(backend: str) -> Times:
    """Measure in the present namespace."""
    return asyncio.run(measure(backend))


def main() -> list[Result]:
    """Measure both backends, each in a namespace of its own."""
    results = []
    for backend in ("nft", "legacy"):
        with Netns("benchbig", patience_s=600.0) as ns:
            times = ns.python(run, backend)
        name = f"{backend}, {N_RULES:,} rules"
        results += [
            compare(f"{name}: render, plan, apply", times["big"], times["big floor"], 2.0),
            compare(f"{name}: a small policy beside it", times["small"], times["small floor"], 1.5),
        ]
    return results


if __name__ == "__main__":
    sys.stdout.write(table(main()))
