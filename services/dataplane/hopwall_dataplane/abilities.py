"""What this host's kernel can do for the lines that not every kernel has, found by trials at the start.

Where it cannot, all other lines stand: what is then open, or missing, is said in the log and in the status.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hopwall_dataplane.iptables.backend import why_no_bpf, why_no_flow_limit, why_no_log
from hopwall_dataplane.iptables.driver import Backend
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.links.sources import (
    CHECK_ALL,
    MOST_NEIGHBOURS,
    askers_rate,
    why_unchecked,
)
from hopwall_dataplane.links.sysctl import SysctlDriver
from hopwall_dataplane.outcome import Family
from hopwall_runtime.config import ConfigError

log = logging.getLogger(__name__)

_OPEN_TO_ERRORS = "A workload that guesses a flow of others can send an ICMP error about it: load the kernel module xt_bpf."


@dataclass(frozen=True, slots=True)
class Abilities:
    """What to render on this kernel; `lacking` says of what it has not what is open for that."""

    rendering: RenderSettings
    lacking: dict[str, str] = field(default_factory=dict)


async def fitted(
    asked: RenderSettings, backend: Backend, families: Sequence[Family], sysctls: SysctlDriver
) -> Abilities:
    """Return what of a rendering this kernel can take.

    Errors: ConfigError where a limit of flows is asked for and it has none; OSError for a sysctl.
    """
    lacking: dict[str, str] = {}
    rendering = asked
    if asked.log.denied and (reason := await why_no_log(backend, families)):
        log.warning("denied packets are not logged, as this kernel has no NFLOG: %s", reason)
        rendering = replace(rendering, log=replace(asked.log, denied=False))
    if reason := await why_no_bpf(backend, families):
        lacking["xt_bpf"] = f"{_OPEN_TO_ERRORS} {reason}"
        rendering = replace(rendering, check_errors=False)
    if asked.max_flows and (reason := await why_no_flow_limit(backend, families)):
        raise ConfigError(
            f"max_flows needs connlimit, which this kernel has not ({reason}): set it to 0."
        )
    held = sysctls.read((CHECK_ALL, MOST_NEIGHBOURS))
    if reason := why_unchecked(held[CHECK_ALL]):
        log.warning("%s", reason)
    for text in lacking.values():
        log.warning("%s", text)
    rendering = replace(rendering, askers_rate=askers_rate(held[MOST_NEIGHBOURS]))
    return Abilities(rendering, lacking)
