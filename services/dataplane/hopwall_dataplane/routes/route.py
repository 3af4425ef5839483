"""What a route is here, and what can be done to one.

Pure. It refuses everything the data path does not need: multipath, metrics, rules, further tables.
"""

from typing import Literal, NamedTuple

from msgspec import Struct

from hopwall_dataplane.outcome import Family

#: Marks a route as ours, for a process with no memory.
#: Source: Calico, DeviceRouteProtocol: 80 is "exclusively ours" (felix/docs/config-params.json).
ROUTE_PROTOCOL = 80

# rtnetlink(7): RT_TABLE_MAIN, RT_TABLE_LOCAL.
TABLE_MAIN = 254
TABLE_LOCAL = 255

_new_tuple = tuple.__new__

RouteKind = Literal["link", "via", "local", "other"]


class RouteKey(NamedTuple):
    """What the kernel tells routes of one kind apart by.

    The priority belongs to it: the kernel holds routes of two priorities side by side, so a changed
    priority is a new route and then a removal, and no packet sees a gap.
    """

    #: First, as it tells most keys apart: sorting is quicker.
    cidr: str
    table: int = TABLE_MAIN
    priority: int = 0


class Route(Struct, frozen=True, gc=False):
    """A route of ours.

    Shape: `link`: the destination is on `interface`. `via`: it is behind `gateway`, whose interface the
           kernel finds, so `interface` is "". `local`: the host itself answers for it (table local, lo).
           `other`: read only: ours by its mark, but changed into something we never write.
           `cidr` is canonical and always has its prefix length.
    Units: `priority` 0 is the kernel's default for the family (v6: 1024, which is never written out).
    """

    cidr: str
    kind: RouteKind
    gateway: str = ""
    interface: str = ""
    priority: int = 0

    @property
    def key(self) -> RouteKey:
        """The place the route takes."""
        table = TABLE_LOCAL if self.kind == "local" else TABLE_MAIN
        # Not RouteKey(…): half the time, and a cold start makes one for each route.
        return _new_tuple(RouteKey, (self.cidr, table, self.priority))

    @property
    def family(self) -> Family:
        """The family, told by the destination."""
        return Family.of(self.cidr)

    def __str__(self) -> str:
        """Write the route as `ip route` would."""
        via = f" via {self.gateway}" if self.gateway else ""
        dev = f" dev {self.interface}" if self.interface else ""
        metric = f" metric {self.priority}" if self.priority else ""
        return f"{'local ' if self.kind == 'local' else ''}{self.cidr}{via}{dev}{metric}"


class ReplaceRoute(Struct, frozen=True, gc=False):
    """Make the route stand at its key, in the place of `old`, which is ours; without one, in an empty place."""

    key: RouteKey
    route: Route
    old: Route | None = None


class DeleteRoute(Struct, frozen=True, gc=False):
    """Take our route away."""

    key: RouteKey


RouteOp = ReplaceRoute | DeleteRoute
