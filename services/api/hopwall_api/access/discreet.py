"""What a caller who is limited to namespaces is told of how far a write has come. Pure.

The reasons of hosts name what stands in the way, which may be another namespace's: an address is that of an older
endpoint, a host refuses a policy. That there is such a thing the caller must know; whose it is, not.
"""

import re
from re import Match

from msgspec.structs import replace

from hopwall_api.access.roles import Caller
from hopwall_api.progress import Progress

#: "endpoint prod/db-1", "policy np/prod/db-in".
_NAMED = re.compile(r"\b(endpoint |policy np/)([^\s/]+)/[^\s,:;]+")
_INSTEAD = {
    "endpoint ": "an endpoint of another namespace",
    "policy np/": "a policy of another namespace",
}


def told(caller: Caller, progress: Progress) -> Progress:
    """Return the progress without names of namespaces that the caller does not see."""
    if not caller.namespaces:
        return progress

    def without(found: Match[str]) -> str:
        return found[0] if caller.sees(found[2]) else _INSTEAD[found[1]]

    return replace(
        progress,
        laggards=tuple(
            replace(one, reason=_NAMED.sub(without, one.reason)) for one in progress.laggards
        ),
    )
