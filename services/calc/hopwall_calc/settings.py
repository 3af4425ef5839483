"""What can be set of the calculation service."""

from typing import Annotated, Literal

from msgspec import Meta

from hopwall_model.epochs import SILENT_S
from hopwall_runtime.config import CommonSettings

Routing = Literal["direct", "bgp"]


class CalcSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of calc, besides the common ones."""

    #: direct: hosts get each other's workload routes from calc; bgp: the routing daemons spread them.
    routing: Routing = "direct"
    #: Three of them without a word, and another calc takes over (`hopwall_model.epochs`).
    heartbeat_s: Annotated[float, Meta(ge=0.05, le=SILENT_S / 3)] = 5.0
    #: Check after each flush that recomputing everything gives the same: for tests, not for production.
    validate: bool = False
