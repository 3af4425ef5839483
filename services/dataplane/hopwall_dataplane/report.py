"""What a host's status names, and how much of it: a status must fit one message.

Pure.
"""

from collections.abc import Mapping, Sequence

from msgspec import structs

from hopwall_model.status import HostStatus, Refusal

#: Refused objects, and waiting ones, that a status names at most.
MAX_NAMED = 2000
_MAX_REASON = 500


def shortened(refused: Mapping[str, str]) -> list[Refusal]:
    """Return what is refused, by name, each with as much of its reason as there is room for."""
    return [Refusal(object=o, reason=reason[:_MAX_REASON]) for o, reason in sorted(refused.items())]


def capped(refused: Sequence[Refusal], n_waiting: int) -> tuple[Refusal, ...]:
    """Return as many as can be named; the first says how many more are refused or wait."""
    unnamed = max(len(refused), n_waiting) - MAX_NAMED
    if unnamed <= 0:
        return tuple(refused)
    text = f"{unnamed} or more further objects are refused or wait: see the host's log."
    return (Refusal(object="status", reason=text), *refused[:MAX_NAMED])


def same(a: HostStatus, b: HostStatus) -> bool:
    """Tell whether two statuses differ in nothing but their time and what was rejected."""
    return _lasting(a) == _lasting(b)


def _lasting(status: HostStatus) -> HostStatus:
    return structs.replace(status, at="", rejected_messages=0)
