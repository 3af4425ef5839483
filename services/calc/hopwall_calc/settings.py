"""What can be set of the calculation service."""

from typing import Literal

from hopwall_runtime.config import CommonSettings, Heartbeat

Routing = Literal["direct", "bgp"]


class CalcSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of calc, besides the common ones."""

    #: direct: hosts get each other's workload routes from calc; bgp: the routing daemons spread them.
    routing: Routing = "direct"
    heartbeat_s: Heartbeat = 5.0
    #: Check after each flush that recomputing everything gives the same: for tests, not for production.
    validate: bool = False
