"""What a host's BGP daemon does, as the REST answers say it. It refuses to judge: these are the daemon's words."""

from msgspec import Struct
from msgspec.structs import asdict

from hopwall_model.status import BgpStatus


class BgpSessionView(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One session as the daemon sees it; numbers are routes."""

    name: str
    state: str
    since: str = ""
    imported: int = 0
    filtered: int = 0
    exported: int = 0
    last_error: str = ""


class BgpView(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Whether the daemon runs what is wanted, and why not. `sessions` is there when one host is asked for."""

    in_sync: bool
    reason: str = ""
    version: str = ""
    router_id: str = ""
    last_reconfigured: str = ""
    n_sessions: int = 0
    n_established: int = 0
    sessions: tuple[BgpSessionView, ...] = ()


def bgp_view(status: BgpStatus | None, *, sessions: bool) -> BgpView | None:
    """Return what a host said of BGP; None where it has no part in it."""
    if status is None:
        return None
    shown = tuple(BgpSessionView(**asdict(one)) for one in status.sessions) if sessions else ()
    return BgpView(**(asdict(status) | {"sessions": shown}))
