"""What looking for damage costs a host of 100 and of 5,000 endpoints, on both backends.

Run as root: `python -m tests.bench.bench_watch`. It works in namespaces of its own. A look is held against the
bare listing it digests; the share of a core that all looks take, in percent, against one percent.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

from hopwall_dataplane.feed import Step
from hopwall_dataplane.ipsets.codec import list_message
from hopwall_dataplane.links.monitor import LinkMonitor
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.watch.audit import LegacyAudit, SetsAudit, SettingsAudit, pause_s
from hopwall_dataplane.watch.codec import neighbour_message, settings_message
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    TierPolicies,
    Update,
)
from tests.bench.result import Result, compare, table
from tests.support.netns import Netns

SIZES = (100, 5000)
N_CLASSES = 20
N_ROUNDS = 7
Costs = dict[str, list[float]]


def wanted(n: int) -> tuple[Update, ...]:
    """Return endpoints of both families in some classes."""
    rules = tuple(ResolvedRule(id=f"r{i}", action="allow", protocol=i + 1) for i in range(10))
    policies = [
        PolicySet(id=PolicyId(f"gnp/p{j}"), version=1, ingress=rules, egress=rules)
        for j in range(N_CLASSES)
    ]
    endpoints = []
    for i in range(n):
        ids = (PolicyId(f"gnp/p{i % N_CLASSES}"),)
        endpoints.append(
            EndpointSet(
                id=EndpointId(f"d/{i}"),
                interface=f"tap{i}",
                addresses=(f"10.65.{i >> 8}.{i & 255}/32", f"fd65::{i:x}/128"),
                tiers=(TierPolicies(name="t", ingress=ids, egress=ids),),
            )
        )
    return (*policies, *endpoints)


def spent_ms(call: Callable[[], object]) -> float:
    """Call once and return what it took of a core."""
    began = time.thread_time()
    call()
    return (time.thread_time() - began) * 1000


def measure(n: int, backend: str) -> Costs:
    """Build the host, then look and list in turn."""
    lines = "".join(f"tuntap add tap{i} mode tap\n" for i in range(n))
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)

    async def whole() -> Costs:
        settings = DataplaneSettings(backend=backend, host="h1")
        kernel = await open_kernel(settings)
        monitor = LinkMonitor()
        kernel.desired.set_links({a: LinkState(x.index, True) for a, x in monitor.links.items()})
        kernel.desired.apply(Step("e", 1, full=True, updates=wanted(n)))
        await kernel.resync()
        await kernel.apply()
        sets, links = NetlinkSocket(NETLINK_NETFILTER), NetlinkSocket(NETLINK_ROUTE)
        ways: dict[str, Callable[[], object]] = {
            "sets": SetsAudit().look,
            "bare sets": lambda: sets.dump(list_message()),
            "sysctls": SettingsAudit().look,
            "bare sysctls": lambda: (
                links.dump(settings_message()),
                links.dump(neighbour_message()),
            ),
        }
        if backend == "legacy":
            ways["tables"] = LegacyAudit(kernel.restores).look
        costs = {name: [spent_ms(look) for _ in range(N_ROUNDS)] for name, look in ways.items()}
        monitor.close()
        await kernel.close()
        return costs

    return asyncio.run(whole())


def main() -> list[Result]:
    """Measure all."""
    results = []
    for n in SIZES:
        for backend in ("nft", "legacy"):
            with Netns("bench") as ns:
                costs = ns.python(measure, n, backend)
            if backend == "nft":
                results += [
                    compare(f"{what}, {n} endpoints", costs[what], costs[f"bare {what}"], 8.0)
                    for what in ("sets", "sysctls")
                ]
            looks = [sorted(c)[len(c) // 2] / 1000 for w, c in costs.items() if "bare" not in w]
            share = 100 * sum(cost / (cost + pause_s(cost)) for cost in looks)
            name = f"all looks, {n} endpoints, {backend}: percent of a core"
            results.append(Result(name, share, 1.0, share, 2.5))
    return results


if __name__ == "__main__":
    sys.stdout.write(table(main()))
