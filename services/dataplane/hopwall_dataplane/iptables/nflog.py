"""Log lines: what is said of a packet by NFLOG, how often at most, and the drops that are said.

A message's prefix is `hw:<i|e|->:<verdict>:<tier>:<policy>:<identity>`: hashes, "-" for none, 36 characters of
the 63 there are. `hopwall rules` tells what they stand for; the policy's part is also in its chains' names.

Pure. No user text ever reaches a prefix.
Source: iptables-extensions(8), NFLOG and limit; linux/netfilter/xt_NFLOG.h (64 bytes of prefix, NUL counted).
"""

import re
from dataclasses import dataclass
from typing import Literal

from hopwall_dataplane.iptables.identity import Denial, Origin
from hopwall_dataplane.iptables.table import bearing
from hopwall_model.names import chain_name, digest

_TIER_CHARS = 6
_POLICY_CHARS = 8

_RATE = re.compile(r"([1-9][0-9]{0,4})/(second|minute|hour)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
#: Source: net/netfilter/xt_limit.c: 10,000 a second at most; credits for a day fit its 32 bits.
_MAX_RATE = 10_000
_MAX_SPAN_S = 86_400
#: Source: iptables, extensions/libxt_limit.c.
_MAX_BURST = 10_000
_MAX_GROUP = 65_535


class LogSettingsError(ValueError):
    """A setting the kernel or the tool would not take; one sentence."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where log messages go, how many of each line, and whether denials are logged too.

    Errors: LogSettingsError.
    """

    group: int = 100
    rate: str = "10/second"
    burst: int = 20
    denied: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.group <= _MAX_GROUP:
            raise LogSettingsError(f"log_group is {self.group}; it must be 0 to {_MAX_GROUP}.")
        if not 1 <= self.burst <= _MAX_BURST:
            raise LogSettingsError(f"log_burst is {self.burst}; it must be 1 to {_MAX_BURST}.")
        found = _RATE.fullmatch(self.rate)
        if found is None or int(found[1]) > _MAX_RATE:
            raise LogSettingsError(
                f"log_rate is {self.rate!r}; it must be a number from 1 to {_MAX_RATE} and a time, "
                "as 10/second, 10/minute or 10/hour."
            )
        if self.burst * _SECONDS[found[2]] >= _MAX_SPAN_S * int(found[1]):
            raise LogSettingsError(
                f"log_burst {self.burst} at log_rate {self.rate} spans a day or more, which a kernel may "
                "not be able to count: lower the burst."
            )


def prefix(origin: Origin, verdict: Literal["deny", "log"]) -> str:
    """Spell the prefix of a message."""
    tier = digest(origin.tier, _TIER_CHARS) if origin.tier else "-"
    policy = policy_hash(origin.policy)[:_POLICY_CHARS] if origin.policy else "-"
    return f"hw:{origin.direction[:1] or '-'}:{verdict}:{tier}:{policy}:{origin.identity}"


def policy_hash(policy: str) -> str:
    """Return the hash that the names of a policy's chains end in."""
    return chain_name("p", policy).rpartition("-")[2]


def log_action(origin: Origin, verdict: Literal["deny", "log"], settings: LogSettings) -> str:
    """Return what follows the conditions of a log line.

    The limit comes after them, so that only what they match is counted against it.
    """
    text = (
        f"-m limit --limit {settings.rate} --limit-burst {settings.burst} -j NFLOG "
        f'--nflog-group {settings.group} --nflog-prefix "{prefix(origin, verdict)}"'
    )
    return bearing(text, origin.identity, counts=verdict == "log")


def deny_actions(origin: Origin, settings: LogSettings) -> tuple[str, ...]:
    """Return what follows the conditions of the lines that deny: the log line, if wanted, and the drop."""
    drop = bearing("-j DROP", origin.identity)
    return (log_action(origin, "deny", settings), drop) if settings.denied else (drop,)


def denial(why: Denial, settings: LogSettings, match: str = "") -> tuple[str, ...]:
    """Return the lines of a default denial of what matches."""
    return tuple(f"{match} {action}".lstrip() for action in deny_actions(why.origin, settings))
