"""calc → dataplane: what one host's BGP daemon is to do, as one full value.

All text is resolved: addresses are canonical, AS numbers are numbers, selectors are gone. A password never
travels: a session names a secret, which the host has as a file.

Source: Calico v3 API (BGPConfiguration, BGPPeer, BGPFilter, Node.spec.bgp); RFC 4271, RFC 4456, RFC 4724.
"""

from typing import Literal

from msgspec import Struct

FilterAction = Literal["accept", "reject"]
NextHopMode = Literal["auto", "self", "keep"]


class PrefixRange(Struct, frozen=True, array_like=True, gc=False):
    """Networks inside a CIDR, of these prefix lengths (both included)."""

    cidr: str
    shortest: int
    longest: int


class FilterRule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule of a BGPFilter: all given matches must hold; then the operations, then the action."""

    action: FilterAction
    family: Literal[4, 6]
    operator: Literal["equal", "not-equal", "in", "not-in", ""] = ""
    cidr: str = ""
    #: Prefix lengths, both included; 0 and 32 or 128 where not given.
    shortest: int = 0
    longest: int = 128
    #: Only routes that came from BGP peers of other hosts.
    from_peers: bool = False
    interface: str = ""
    peer_type: Literal["ebgp", "ibgp", ""] = ""
    #: "65000:1" or "65000:1:2".
    communities: tuple[str, ...] = ()
    as_path_prefix: tuple[int, ...] = ()
    add_communities: tuple[str, ...] = ()
    prepend_as_path: tuple[int, ...] = ()


class Advertisement(Struct, frozen=True, kw_only=True):
    """Communities that every route within a CIDR is announced with."""

    cidr: str
    communities: tuple[str, ...]


class Session(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One peer of this host, in one family.

    `name` is stable and of letters, digits, '.', '-', '_', '/' and ':': "mesh/<host>/<address>" or
    "peer/<BGPPeer>/<address>". Two sessions of one address do not exist.
    """

    name: str
    family: Literal[4, 6]
    peer_ip: str
    peer_as: int
    local_as: int
    peer_port: int = 179
    #: The host behind it, or "" for a machine that is none of ours.
    peer_host: str = ""
    #: We reflect routes to and from it (RFC 4456).
    reflector_client: bool = False
    #: The other side opens the connection.
    passive: bool = False
    #: Name and key of a secret: the file <secrets folder>/<name>/<key> on the host.
    password: tuple[str, str] | None = None
    #: Our address towards it; "" lets the kernel choose.
    source_ip: str = ""
    next_hop: NextHopMode = "auto"
    restart_s: int = 120
    keepalive_s: int = 0
    allow_local_as: int = 0
    #: Hops to the peer for TTL security (RFC 5082); 0 is off.
    ttl_security: int = 0
    #: A gateway by which the peer is reached, as a static route; "" for none.
    reachable_by: str = ""
    bfd: bool = False
    #: The peer is on a link of this host: no hop lies between, and BFD is that of one hop (RFC 5881).
    direct: bool = False
    #: What the peer may announce; if it is one of our hosts, also what is in `Bgp.unclaimed`. Nothing
    #: else is imported, whatever the filters say.
    entitled: tuple[PrefixRange, ...] = ()
    #: And how many routes.
    import_limit: int = 100_000
    imports: tuple[FilterRule, ...] = ()
    exports: tuple[FilterRule, ...] = ()


class Bgp(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host's BGP daemon is to do. Without sessions there is nothing to do.

    Shape: `sessions` by name. `blocks` are this host's own aggregates, announced as such and black-holed
           first. `pools` are the ranges whose host routes (/32, /128) may be announced at all: pools
           without disableBGPExport. `unclaimed` are the host routes among them that are in no host's
           block: any of our hosts may announce them to us. It is said once, as it is the same for all,
           and not at all where no peer but reflectors is one of our hosts.
    """

    router_id: str
    as_number: int
    listen_port: int = 179
    #: RFC 4456; "" when this host is no reflector.
    cluster_id: str = ""
    log_severity: Literal["none", "debug", "info", "warning", "error", "fatal"] = "info"
    ignored_interfaces: tuple[str, ...] = ()
    sessions: tuple[Session, ...] = ()
    blocks: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    unclaimed: tuple[PrefixRange, ...] = ()
    advertisements: tuple[Advertisement, ...] = ()
