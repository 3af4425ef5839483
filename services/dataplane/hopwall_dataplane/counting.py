"""How often the rules of this host were met, for whoever asks: read beside the loop, by a process of its own."""

import asyncio

from hopwall_dataplane.iptables.counters import together
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.listing import list_rules
from hopwall_model import codec
from hopwall_model.counts import HostRules, RuleCount, RulesRequest
from hopwall_runtime import clock


async def answer_rules(kernel: Kernel, request: RulesRequest) -> bytes:
    """Return the counts, or why there are none, as they travel."""
    host, at = kernel.desired.host, clock.now_text()
    try:
        rules = await rule_counts(kernel, request)
    except OSError as error:  # TimeoutError is one
        reason = f"The tables of host {host} cannot be read: {error}."
        return codec.encode(HostRules(host=host, at=at, failure=reason))
    return codec.encode(HostRules(host=host, at=at, rules=rules))


async def rule_counts(kernel: Kernel, request: RulesRequest) -> tuple[RuleCount, ...]:
    """Say how often the rules that stand were met. Nothing is changed by it.

    Errors: OSError when the tables cannot be read.
    """
    parts = await asyncio.gather(*(restore.counts() for restore in kernel.restores.values()))
    desired = kernel.desired
    tiers = {tier.name for key in desired.classes.classes for tier in key.tiers}
    return list_rules(
        desired.chains.policies, tiers, together(parts), kernel.refused_chains, request
    )
