"""A large policy on the real kernel, with both backends, and an agent without memory after it."""

import asyncio

import pytest
from msgspec import structs

from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.outcome import Family, Turn
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.updates import PolicySet, SetBucket
from tests.dataplane.test_desired import step
from tests.support.big_policy import big_policy
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

N_RULES = 96
#: 50 ports are four multiports a side: one line that begins, four, four, and one that ends.
LINES_A_RULE = 10


async def opened(backend: str) -> Kernel:
    """Open the kernel of this namespace, as the service does at its start."""
    kernel = await open_kernel(DataplaneSettings(host="h1", backend=backend))
    await kernel.resync()
    return kernel


def n_lines(kernel: Kernel, family: Family) -> int:
    """Count the lines that one family's filter table is to have."""
    return sum(map(len, kernel.desired.chains.tables[family, "filter"].desired.values()))


async def live(backend: str) -> list[Turn]:
    """Apply, change one member, start again with no memory, change one rule; return each turn."""
    updates = big_policy(N_RULES, n_ports=50, n_nets=256, mixed=True)
    turns = []
    kernel = await opened(backend)
    bare = {family: n_lines(kernel, family) for family in Family}
    kernel.desired.apply(step(*updates))
    for family in Family:
        lines = n_lines(kernel, family) - bare[family]
        assert 2 * N_RULES * LINES_A_RULE < lines < 2 * N_RULES * LINES_A_RULE + 50
    assert len(kernel.desired.members.specs.desired) == 2 * 2 * N_RULES
    turns.append(await kernel.apply())
    assert kernel.refused == {}
    bucket = next(u for u in updates if isinstance(u, SetBucket))
    kernel.desired.apply(step(structs.replace(bucket, members=bucket.members[1:])))
    turns.append(await kernel.apply())
    kernel.desired.apply(step(bucket))
    turns.append(await kernel.apply())
    await kernel.close()
    kernel = await opened(backend)
    kernel.desired.apply(step(*updates))
    turns.append(await kernel.apply())
    policy = next(u for u in updates if isinstance(u, PolicySet))
    kernel.desired.apply(step(structs.replace(policy, ingress=policy.ingress[1:])))
    turns.append(await kernel.apply())
    assert kernel.refused == {}
    await kernel.close()
    return turns


def run(backend: str) -> list[Turn]:
    """Do all of it in the present namespace."""
    return asyncio.run(live(backend))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_big_policy_is_applied_whole_and_found_again(backend: str) -> None:
    """A member is one op, a restart none, and a change of one direction leaves the other alone."""
    with Netns("big") as ns:
        first, less, more, again, changed = ns.python(run, backend)
    turns = (first, less, more, again, changed)
    assert [turn.held_by for turn in turns] == [""] * len(turns)
    assert (less.n_ops, more.n_ops, again.n_ops) == (1, 1, 0)
    one_direction = 2 * N_RULES * LINES_A_RULE
    assert changed.n_ops < one_direction + 50
    assert first.n_ops > 2 * one_direction
