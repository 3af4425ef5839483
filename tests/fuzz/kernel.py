"""What is admitted is taken by the kernel: broken policies through admission, calc and the drivers, in a namespace.

The tools are the judge: whatever admission lets in and the kernel then refuses is a fault of admission.
Source: CVE-2015-3221 and CVE-2019-9735, rules that were admitted and that iptables refused for ever.
"""

import asyncio
import json
from collections.abc import Iterator
from random import Random

from msgspec.structs import replace

from hopwall_calc.graph import Graph
from hopwall_dataplane.feed import Feed, Step
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.events import ResourceSet
from hopwall_model.resources import GlobalNetworkPolicy, NetworkPolicy, Resource
from hopwall_model.updates import HostBatch
from hopwall_model.validate import Invalid, admit
from tests.fuzz import mutate, seeds
from tests.support import states
from tests.support.netns import Netns

#: Policies that the kernel is given at once.
_TOGETHER = 20
_NAMESPACE: dict[type[Resource], str] = {GlobalNetworkPolicy: "", NetworkPolicy: "default"}
Policy = GlobalNetworkPolicy | NetworkPolicy


def admitted(chance: Random, count: int) -> Iterator[Policy]:
    """Yield policies that admission lets in, each a good one with something changed, for every workload."""
    donors = [d for d in seeds.documents() if json.loads(d)["kind"].endswith("Policy")]
    change = mutate.json_values(donors)
    found = 0
    while found < count:
        try:
            one = admit(change(chance.choice(donors), chance))
        except Invalid:
            continue
        if isinstance(one, Policy):
            found += 1
            metadata = replace(
                one.metadata, name=f"{one.metadata.name}-{found}", namespace=_NAMESPACE[type(one)]
            )
            yield replace(one, metadata=metadata, spec=replace(one.spec, selector="all()"))


def refused_by_kernel(number: int, count: int, backend: str) -> tuple[int, list[str]]:
    """Give the kernel so many admitted objects; return how many lines that were, and what it refuses."""
    with Netns("fuzz") as ns:
        given = list(admitted(Random(number), count))
        parts = [given[at : at + _TOGETHER] for at in range(0, len(given), _TOGETHER)]
        return ns.python(_all_parts, parts, backend)


def _all_parts(parts: list[list[Policy]], backend: str) -> tuple[int, list[str]]:
    return asyncio.run(_apply_all(parts, backend))


async def _apply_all(parts: list[list[Policy]], backend: str) -> tuple[int, list[str]]:
    kernel = await open_kernel(DataplaneSettings(host="h1", backend=backend))
    kernel.desired.set_links({"tap0": LinkState(1, up=True)})
    await kernel.resync()
    n_ops, found = 0, []
    try:
        for part in parts:
            for step in Feed().on_batch(_snapshot(part)):
                assert isinstance(step, Step)
                kernel.desired.apply(step)
            turn = await kernel.apply()
            n_ops += turn.n_ops
            found += [turn.held_by] if turn.held_by else []
            found += _refusals(kernel)
    finally:
        await kernel.close()
    return n_ops, found


def _refusals(kernel: Kernel) -> list[str]:
    found = [f"{r.object}: {r.reason}" for r in kernel.desired.refusals()]
    return found + [f"{name}: {why}" for name, why in kernel.refused.items()]


def _snapshot(part: list[Policy]) -> HostBatch:
    """Return what calc makes of these for a host with one workload, which all of them select."""
    graph = Graph("epoch")
    workload = states.endpoint("w", "h1", "10.65.0.1/32", "fd65::1/128")
    tiers = (
        states.tier(name, 1.0) for name in sorted({one.spec.tier or "default" for one in part})
    )
    others = (states.host("h1"), states.profile("default"), workload)
    for revision, one in enumerate((*others, *tiers, *part), 1):
        graph.on_event(ResourceSet(resource=one), revision)
    graph.flush()
    return graph.snapshot("h1")
