"""calc → dataplane: pieces of desired state, each a full value of a small thing.

Two roads lead to a host, both over core NATS from calc's one connection:

- the host's own **feed**: `HostBatch`, numbered without gaps per host and epoch. A gap, a new epoch or
  a doubt makes the host ask for a snapshot, which is a `HostBatch` with `full=True`.
- **shared scopes**: `SharedUpdate`, published once however many hosts use the scope. A host subscribes
  to the scopes it needs; `NeedSet` in its feed names the version it must have reached, so a missed
  shared message cannot go unseen.

Every shared value is the *full* value of a small piece (a policy; one bucket of a set), so duplicates
and coalescing are harmless. `previous` chains the pieces of one scope: a piece whose `previous` is not
the version held means a piece was missed.

Laws, tested: fold is associative; an empty delta changes nothing; full after anything is that full.
"""

from typing import Literal, NewType

from msgspec import Struct

from hopwall_model.bgp import Bgp

EndpointId = NewType("EndpointId", str)  # "namespace/name" of the WorkloadEndpoint
HostEndpointId = NewType("HostEndpointId", str)  # "name" of the HostEndpoint
PolicyId = NewType("PolicyId", str)  # "gnp/name", "np/namespace/name", "profile/name"
#: Content hashes: "s:…" a selector's members, "n:…" a list of nets, "np:…" the endpoints with a named port.
SetId = NewType("SetId", str)
Scope = NewType("Scope", str)  # "policy/<PolicyId>", "set/<SetId>", "routes/<host>"

Verdict = Literal["allow", "deny", "pass", "log"]
#: What is in a set: networks, or an address with a protocol and a port.
SetKind = Literal["net", "port"]

#: The two sets that no policy names: the ranges of all pools, and of those with natOutgoing. A host needs
#: both while any pool is declared.
POOLS = SetId("pools")
NAT_POOLS = SetId("nat-pools")


class PortRange(Struct, frozen=True, array_like=True, gc=False):
    """Ports from first to last, both included."""

    first: int
    last: int


class Entity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One side of a resolved rule's match; all given fields must hold.

    Shape:  `net` is a single positive CIDR (more than one becomes a set in `sets`); each id in `sets`
            must contain the address (they are ANDed), none in `not_sets` may. `ports` and `port_sets`
            are one OR: the port is in a range, or (address, protocol, port) is in a set of kind "port".
            Neither any of `not_ports` nor of `not_port_sets` may match.
    """

    net: str | None = None
    not_net: str | None = None
    sets: tuple[SetId, ...] = ()
    not_sets: tuple[SetId, ...] = ()
    ports: tuple[PortRange, ...] = ()
    not_ports: tuple[PortRange, ...] = ()
    port_sets: tuple[SetId, ...] = ()
    not_port_sets: tuple[SetId, ...] = ()


class ResolvedRule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule in renderable form: numbers, canonical CIDRs and set ids; no names, no selectors.

    `id` is the rule's place: `<policy id>/<i|e><index from 0>`.
    """

    id: str
    action: Verdict
    ip_version: Literal[4, 6] | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    source: Entity = Entity()
    destination: Entity = Entity()


class TierPolicies(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The policies of one tier that apply to an endpoint, in order, per direction.

    A tier is present in an endpoint's list only if a policy of it selects the endpoint. The default of a
    direction is what becomes of a packet that none of the direction's policies decides; where there are
    none the packet goes on. It is "pass" also where all of the direction's policies have nothing but Log
    rules: who only logs must not close.
    """

    name: str
    ingress_default: Literal["deny", "pass"] = "deny"
    egress_default: Literal["deny", "pass"] = "deny"
    ingress: tuple[PolicyId, ...] = ()
    egress: tuple[PolicyId, ...] = ()


class Nat(Struct, frozen=True, array_like=True, gc=False):
    """A floating address: `external` is translated to `internal`, an address of the same endpoint.

    Shape:  both /32, or both /128.
    """

    external: str
    internal: str


class Lost(Struct, frozen=True, array_like=True, gc=False):
    """An address that an endpoint declares and that an older one owns; a floating address too."""

    address: str
    owner: EndpointId


class Move(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint's part in a live migration.

    Shape: the source has the workload now, and the target will; both own `addresses`. The target attracts
           none of them before the switch: a sign from the workload, or `switched`.
    """

    role: Literal["source", "target"]
    #: Its namespace, name and uid: a migration that is declared again is another one.
    migration: str
    #: The other endpoint, and its host.
    peer: EndpointId
    host: str
    #: What both own, floating addresses included; sorted.
    addresses: tuple[str, ...]
    #: Somebody said that the workload runs at the target.
    switched: bool = False


# ---------------------------------------------------------------- the pieces


class EndpointSet(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="endpoint.set"
):
    """A workload interface of this host, and what applies to it."""

    id: EndpointId
    interface: str
    #: /32 and /128 only; the ones this endpoint owns (a lost address conflict is not in here).
    addresses: tuple[str, ...] = ()
    #: Further sources it may send from (allowSpoofedSourcePrefixes).
    extra_sources: tuple[str, ...] = ()
    mac: str = ""
    #: Those whose external address this endpoint owns.
    nats: tuple[Nat, ...] = ()
    #: What it declares and is without: for its status alone.
    lost: tuple[Lost, ...] = ()
    tiers: tuple[TierPolicies, ...] = ()
    #: In order; reached when no tier decides. An absent profile is present as one that denies all.
    profiles: tuple[PolicyId, ...] = ()
    #: None for who stays where it is.
    move: Move | None = None


class EndpointRemoved(Struct, frozen=True, kw_only=True, tag_field="kind", tag="endpoint.removed"):
    """The endpoint is no longer on this host."""

    id: EndpointId


class HostEndpointSet(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="host_endpoint.set"
):
    """Interfaces of this host that are no workload's, and what applies to them.

    Source: Calico, "Protect hosts": which policies apply to what traffic of a host endpoint.
    """

    id: HostEndpointId
    #: A name, "*" for all that no other host endpoint names, "" for those with an expected address.
    interface: str = ""
    #: /32 and /128.
    expected_ips: tuple[str, ...] = ()
    #: For what the host itself sends and receives; with no policy and no profile all is denied.
    tiers: tuple[TierPolicies, ...] = ()
    profiles: tuple[PolicyId, ...] = ()
    #: For what the host forwards (applyOnForward); a direction without any policy is open.
    forward: tuple[TierPolicies, ...] = ()
    #: Ingress only, before destination NAT (preDNAT); what no policy decides goes on.
    pre_dnat: tuple[TierPolicies, ...] = ()
    #: Before connection tracking (doNotTrack); what no policy decides goes on. Never for "*".
    untracked: tuple[TierPolicies, ...] = ()
    #: Apply it even where it would cut this host off from NATS.
    force: bool = False


class BgpSet(Struct, frozen=True, kw_only=True, tag_field="kind", tag="bgp.set"):
    """What this host's BGP daemon is to do now; in every snapshot where BGP spreads the routes."""

    bgp: Bgp


class HostEndpointRemoved(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="host_endpoint.removed"
):
    """The host endpoint is no longer on this host."""

    id: HostEndpointId


class NeedSet(Struct, frozen=True, kw_only=True, tag_field="kind", tag="need.set"):
    """This host needs the scope, at this version or later."""

    scope: Scope
    version: int


class NeedRemoved(Struct, frozen=True, kw_only=True, tag_field="kind", tag="need.removed"):
    """This host no longer needs the scope and drops what it holds of it."""

    scope: Scope


class PolicySet(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="policy.set"
):
    """A policy or profile with its rules resolved, in order."""

    id: PolicyId
    version: int
    previous: int = 0
    #: The tier it belongs to; "" for a profile.
    tier: str = ""
    ingress: tuple[ResolvedRule, ...] = ()
    egress: tuple[ResolvedRule, ...] = ()
    #: Why the rules above deny everything and are not the declared ones: one sentence, for its status alone.
    fault: str = ""
    #: It is a profile that nobody declared: the rules above deny in its place.
    absent: bool = False

    @property
    def scope(self) -> Scope:
        """The scope this is the value of."""
        return Scope(f"policy/{self.id}")


class SetBucket(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="set.bucket"
):
    """The full content of one bucket of a set of addresses, or of addresses with a port.

    Shape: a member is in bucket `crc32(member) % n_buckets` (`buckets.bucket_of`). A bucket with another
           `n_buckets` than the one held replaces the whole set: all its buckets follow.
    """

    id: SetId
    version: int
    previous: int = 0
    #: Fixed by the id.
    type: SetKind = "net"
    n_buckets: int = 1
    bucket: int = 0
    #: Of both families, sorted. "net": canonical CIDRs. "port": "10.65.0.2,6:80" (address, protocol, port).
    members: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        """The scope this is a piece of."""
        return Scope(f"set/{self.id}")


class RoutesBucket(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="routes.bucket"
):
    """The full content of one bucket of the workload addresses that live on one host.

    A host never applies the bucket that bears its own name. A gateway that is "" is unknown: no route
    of that family is programmed.
    """

    host: str
    version: int
    previous: int = 0
    n_buckets: int = 1
    bucket: int = 0
    gateway_v4: str = ""
    gateway_v6: str = ""
    cidrs: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        """The scope this is a piece of."""
        return Scope(f"routes/{self.host}")


SharedPiece = PolicySet | SetBucket | RoutesBucket
Update = (
    EndpointSet
    | EndpointRemoved
    | HostEndpointSet
    | HostEndpointRemoved
    | BgpSet
    | NeedSet
    | NeedRemoved
    | PolicySet
    | SetBucket
    | RoutesBucket
)


# ---------------------------------------------------------------- the envelopes


class HostBatch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a host's feed.

    Shape:  `number` counts 1, 2, 3 … per host within an epoch; a heartbeat repeats the last number with
            no updates. `full=True` is a snapshot: everything not in it is gone, and it carries the value
            of every scope it names as needed. `revision` is the intent revision this state includes.
            Inside `updates`, shared pieces come before the needs that name them, needs before endpoints.
    """

    host: str
    epoch: str
    number: int
    revision: int
    full: bool = False
    updates: tuple[Update, ...] = ()
    #: Of the names the request gave as missing, those whose resource an event removed or put elsewhere.
    accounted: tuple[str, ...] = ()


class SharedUpdate(Struct, frozen=True, kw_only=True):
    """A new value of one piece of a shared scope."""

    epoch: str
    revision: int
    piece: SharedPiece


class SnapshotRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host asks for everything it needs, from nothing."""

    host: str
    #: Why it asks, for the log: "start", "gap", "epoch", "missed <scope>", "missing".
    reason: str = "start"
    #: What the host has and the last snapshot had not: "endpoint d/a", "host endpoint h1-eth0",
    #: "policy gnp/p". The answer says which of them calc accounts for.
    missing: tuple[str, ...] = ()
