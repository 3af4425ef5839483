"""What this host's kernel should hold: the fold of all steps, kept as differences from actual.

Goals, in order:
1. Closed unless a complete, current statement says open: an endpoint without a class, a policy with an
   unknown set, a set that is gone all render as drops.
2. The result depends on the steps' content alone, not on their order or on how they were cut.
3. A step costs what it changes: one endpoint of a known class is two set elements and a route.

Pure. It refuses to know how anything is written; `agent` asks the planners of each subsystem.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from hopwall_dataplane.chains import ChainBook
from hopwall_dataplane.claims import Claims
from hopwall_dataplane.classes import ClassTable, NoRoomForClassError, PolicyClass, class_key
from hopwall_dataplane.delta import Delta
from hopwall_dataplane.destinations import Destinations
from hopwall_dataplane.faults import (
    bucket_fault,
    endpoint_fault,
    is_address,
    members_fault,
    policy_fault,
)
from hopwall_dataplane.feed import Step
from hopwall_dataplane.ipsets.elements import Element, Mark, SetSpec, SetType
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.iptables.static import RenderSettings, from_set, to_set
from hopwall_dataplane.lookup import SetLookup
from hopwall_dataplane.members import BucketedMembers, member_element
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.residents import Residents, Touched, packed
from hopwall_dataplane.routes.route import Route, RouteKey
from hopwall_model.names import SetName, set_name
from hopwall_model.status import Refusal, Waiting
from hopwall_model.updates import (
    BgpSet,
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicySet,
    RoutesBucket,
    Scope,
    SetBucket,
    SetId,
    SetKind,
    SharedPiece,
)

ElementKey = tuple[str, Element]

_SET_TYPES: Mapping[SetKind, SetType] = {"net": "hash:net", "port": "hash:ip,port"}


@dataclass(frozen=True, slots=True)
class LinkState:
    """What matters of a network interface here."""

    index: int
    up: bool


@dataclass(slots=True)
class _Placed:
    """An endpoint and what it has put into the kernel's desired state.

    Shape: without a class it is closed; `fault` is why, or "" where there was no room for its class.
    """

    endpoint: EndpointSet
    fault: str
    policy_class: PolicyClass | None
    elements: dict[ElementKey, Mark]
    routes: frozenset[str] = frozenset()


@dataclass(slots=True)
class Desired:
    """One host's desired state, and its difference from actual, per subsystem.

    Shape: `members` holds the sets that rules name, `identity` the sets that tell whose an address is. They
           are apart because they are applied at different moments: members before the chains that use
           them, identities after the chains they lead to. `families` are those that are filtered; without
           `ipv6` no workload has an IPv6 address here, so all of that family is dropped.
    Owner: the agent's one task.
    """

    host: str
    settings: RenderSettings
    families: tuple[Family, ...]
    link_local_gateway: str
    #: Addresses the host lives by, as CIDRs: never a workload's here.
    reserved: frozenset[str] = frozenset()
    ipv6: bool = True
    members: AddressSets = field(default_factory=AddressSets)
    identity: AddressSets = field(default_factory=AddressSets)
    residents: Residents = field(default_factory=Residents)
    lookup: SetLookup = field(init=False)
    destinations: Destinations = field(init=False)
    #: Interfaces came, went or changed, or are used anew, since somebody looked.
    interfaces_touched: bool = True
    chains: ChainBook = field(init=False)
    classes: ClassTable = field(init=False)
    _placed: dict[EndpointId, _Placed] = field(default_factory=dict)
    _by_interface: dict[str, set[EndpointId]] = field(default_factory=dict)
    _links: Mapping[str, LinkState] = field(default_factory=dict)
    _sets: dict[SetId, BucketedMembers] = field(default_factory=dict)
    _set_ids: dict[str, SetId] = field(default_factory=dict)
    _distrusted: set[SetId] = field(default_factory=set)
    #: Endpoints that found no room for their class.
    #: Endpoints that have no class: faulty ones, and the `_roomless`, for which there was no number.
    _closed: set[EndpointId] = field(default_factory=set)
    _waits: dict[EndpointId, str] = field(default_factory=dict)
    _roomless: set[EndpointId] = field(default_factory=set)
    #: Object → why it is not as calc wants it, of what is not an endpoint.
    _faults: dict[str, str] = field(default_factory=dict)
    _identities: Claims[ElementKey, EndpointId, Mark] = field(default_factory=Claims)

    def __post_init__(self) -> None:
        """Want what every host has: the identity sets, the static chains, the link-local gateway."""
        self.classes = ClassTable(self.settings.marks.max_class)
        self.destinations = Destinations(self.host, self.reserved, self._programs, self._faults)
        self.chains = ChainBook(self.settings, self.families)
        self.lookup = SetLookup(self._sets, self.chains.known_sets)
        for family in self.families:
            source = SetSpec(from_set(family), "hash:net,iface", family, skbinfo=True)
            self.identity.set_desired(source)
            local = SetSpec(to_set(family), "hash:ip", family, skbinfo=True)
            self.identity.set_desired(local)
        if self.link_local_gateway:
            gateway = Route(f"{self.link_local_gateway}/32", "local")
            self.routes.set_desired(gateway.key, gateway)

    # ------------------------------------------------------------ what comes in

    def apply(self, step: Step) -> None:
        """Fold one complete step."""
        touched_sets: set[SetId] = set()
        touched_hosts: set[str] = set()
        self._void(step, touched_sets, touched_hosts)
        endpoints: list[EndpointSet | EndpointRemoved] = []
        for update in step.updates:
            match update:
                case EndpointSet() | EndpointRemoved():
                    endpoints.append(update)
                case NeedRemoved():
                    self._drop_scope(update.scope, touched_sets, touched_hosts)
                case NeedSet() | HostEndpointSet() | HostEndpointRemoved() | BgpSet():
                    pass
                case _:
                    self._put_piece(update, touched_sets, touched_hosts)
        for set_id in sorted(touched_sets):
            self._settle_set(set_id)
        for host in sorted(touched_hosts):
            self.destinations.settle(host)
        for endpoint in endpoints:
            self._place(endpoint)
        if self.classes.has_room:
            for endpoint_id in sorted(self._roomless):
                self._place(self._placed[endpoint_id].endpoint)
        self.chains.settle(self.classes.classes.values())

    def set_links(self, links: Mapping[str, LinkState]) -> None:
        """Take the present interfaces; routes to workloads need theirs to be up."""
        before, self._links = self._links, links
        self.interfaces_touched = True
        changed = {n for n in before.keys() | links.keys() if before.get(n) != links.get(n)}
        for name in sorted(changed & self._by_interface.keys()):
            for endpoint_id in sorted(self._by_interface[name]):
                self._place_routes(self._placed[endpoint_id])

    def linger(self, classes: dict[str, int]) -> None:
        """Keep the way to classes that are left (digest → number) for the packets still marked with them."""
        if self.chains.linger(classes):
            self.chains.settle(self.classes.classes.values())

    def distrust(self, names: Iterable[str]) -> None:
        """Close the policies that name one of these kernel sets, and no longer those of other sets.

        A set that lacks a member would let by what a deny by that set was to stop.
        """
        now = {self._set_ids[name] for name in names if name in self._set_ids}
        if now == self._distrusted:
            return
        changed, self._distrusted = now ^ self._distrusted, now
        for set_id in changed:
            self._judge_set(set_id)
        self.chains.settle(self.classes.classes.values())

    def note_left(self) -> None:
        """Note the addresses that are about to leave the interface the kernel knows them at."""
        for name in map(from_set, self.families):
            for element, _ in self.identity.content(name).pending_removals():
                if is_address(element.cidr):
                    self.residents.leave(packed(element.cidr))

    def take_touched(self) -> Touched:
        """Return of which addresses the flows may be judged otherwise than at the last call."""
        self.residents.touch(self.chains.take_touched())
        return self.residents.take()

    # ------------------------------------------------------------ what people ask

    @property
    def routes(self) -> Delta[RouteKey, Route]:
        """The routes of this host."""
        return self.destinations.routes

    @property
    def interfaces(self) -> set[str]:
        """The interfaces of known endpoints that are present."""
        return self._by_interface.keys() & self._links.keys()

    @property
    def link_indices(self) -> dict[str, int]:
        """Every interface of the host, with its index."""
        return {name: link.index for name, link in self._links.items()}

    @property
    def has_endpoints(self) -> bool:
        """Whether this host has, or its kernel still knows, any workload address."""
        return bool(self._placed) or any(
            self.identity.content(name(family)).actual
            for family in self.families
            for name in (from_set, to_set)
        )

    def waiting(self) -> tuple[Waiting, ...]:
        """List the endpoints whose interface is absent or down."""
        return tuple(Waiting(endpoint=e, reason=why) for e, why in sorted(self._waits.items()))

    def refusals(self) -> tuple[Refusal, ...]:
        """List what is closed, or not there, because it cannot be as calc wants it."""
        text = (
            f"Host {self.host} has more policy classes than its mark mask has room for "
            f"({self.settings.marks.max_class}): widen mark_mask or use fewer combinations of policies."
        )
        endpoints = (
            Refusal(object=f"endpoint {e}", reason=self._placed[e].fault or text)
            for e in sorted(self._closed)
        )
        others = (Refusal(object=o, reason=r) for o, r in sorted(self._faults.items()))
        return (*endpoints, *others)

    def set_object(self, name: str) -> str:
        """Return what people know a kernel set by."""
        set_id = self._set_ids.get(name)
        return f"set {name if set_id is None else set_id}"

    # ------------------------------------------------------------ scopes

    def _void(self, step: Step, touched_sets: set[SetId], touched_hosts: set[str]) -> None:
        """Forget what the step's fresh scopes held, and after a snapshot all it does not name."""
        if step.full:
            named = {u.id for u in step.updates if isinstance(u, EndpointSet)}
            for endpoint_id in sorted(self._placed.keys() - named):
                self._place(EndpointRemoved(id=endpoint_id))
            for scope in sorted(self._held_scopes() - step.fresh):
                self._drop_scope(scope, touched_sets, touched_hosts)
        for scope in step.fresh:
            kind, _, name = scope.partition("/")
            if kind == "set" and SetId(name) in self._sets:
                self._sets[SetId(name)].void()
                touched_sets.add(SetId(name))
            elif kind == "routes" and name in self.destinations.remote:
                self.destinations.remote[name].void()
                touched_hosts.add(name)

    def _put_piece(self, piece: SharedPiece, sets: set[SetId], hosts: set[str]) -> None:
        fault = policy_fault(piece) if isinstance(piece, PolicySet) else bucket_fault(piece)
        if fault:
            self._drop_scope(piece.scope, sets, hosts)
            self._faults[_object_of(piece.scope)] = fault
            return
        if not isinstance(piece, SetBucket):  # a set may lack other buckets
            self._faults.pop(_object_of(piece.scope), None)
        match piece:
            case PolicySet():
                self.chains.set_policy(piece)
            case SetBucket():
                self._put_bucket(piece)
                sets.add(piece.id)
            case RoutesBucket():
                self.destinations.put(piece)
                hosts.add(piece.host)
            case _:
                assert_never(piece)

    def _held_scopes(self) -> set[Scope]:
        return {
            *(Scope(f"policy/{policy}") for policy in self.chains.policies),
            *(Scope(f"set/{set_id}") for set_id in self._sets),
            *(Scope(f"routes/{host}") for host in self.destinations.remote),
        }

    def _drop_scope(self, scope: Scope, sets: set[SetId], hosts: set[str]) -> None:
        kind, _, name = scope.partition("/")
        self._faults.pop(_object_of(scope), None)
        if kind == "policy":
            self.chains.remove_policy(name)
        elif kind == "set" and SetId(name) in self._sets:
            self._sets[SetId(name)].drop()
            sets.add(SetId(name))
        elif kind == "routes" and name in self.destinations.remote:
            self.destinations.remote[name].drop()
            hosts.add(name)

    def _put_bucket(self, piece: SetBucket) -> None:
        """Take one bucket of a set; what is no member closes the set, until that bucket is right."""
        state = self._set_state(piece.id, piece.type)
        if fault := members_fault(
            piece.type, state.news(piece.n_buckets, piece.bucket, piece.members)
        ):
            self._faults[_object_of(piece.scope)] = fault
            state.miss(piece.n_buckets, piece.bucket)
        else:
            state.put(piece.n_buckets, piece.bucket, piece.members)

    def _set_state(self, set_id: SetId, kind: SetKind) -> BucketedMembers:
        state = self._sets.get(set_id)
        if state is not None and state.kind != kind:
            self._forget_set(set_id)
            state = None
        if state is None:
            state = self._sets[set_id] = BucketedMembers(kind)
            for family, name in self._set_names(set_id, kind).items():
                self._set_ids[name] = set_id
                self.members.set_desired(SetSpec(name, _SET_TYPES[kind], family))
        return state

    def _settle_set(self, set_id: SetId) -> None:
        state = self._sets[set_id]
        added, removed = state.settle()
        self.lookup.change(set_id, added, removed)
        if added or removed:
            self.chains.touch_set(set_id)
        names = self._set_names(set_id, state.kind)
        for members, change in (
            (removed, self.members.remove_element),
            (added, self.members.set_element),
        ):
            for member in members:
                element = member_element(state.kind, member)
                if (name := names.get(_family(element.cidr))) is not None:
                    change(name, element)
        if state.dropped:
            self._forget_set(set_id)
        self._judge_set(set_id)

    def _forget_set(self, set_id: SetId) -> None:
        """Want a set's halves gone from the kernel."""
        state = self._sets.pop(set_id)
        self.lookup.drop(set_id)
        self._distrusted.discard(set_id)
        for name in self._set_names(set_id, state.kind).values():
            del self._set_ids[name]
            self.members.remove_desired(name)

    def _set_names(self, set_id: SetId, kind: SetKind) -> dict[Family, SetName]:
        return {family: set_name(family.value, set_id, kind) for family in self.families}

    def _judge_set(self, set_id: SetId) -> None:
        """Say whether rules may rely on a set: all of it has come, and the kernel holds all of it."""
        state = self._sets.get(set_id)
        if state is None or not state.is_whole:
            self.chains.know_set(set_id, None)
            return
        self._faults.pop(f"set {set_id}", None)
        self.chains.know_set(set_id, None if set_id in self._distrusted else state.kind)

    # ------------------------------------------------------------ endpoints

    def _place(self, update: EndpointSet | EndpointRemoved) -> None:
        before = self._placed.pop(update.id, None)
        after: _Placed | None = None
        if isinstance(update, EndpointSet):
            fault = endpoint_fault(update, self.settings.prefixes, self.reserved)
            policy_class = None if fault else self._join(update)
            elements = {} if policy_class is None else self._elements(update, policy_class)
            after = _Placed(update, fault, policy_class, elements)
            self._placed[update.id] = after
        self._closed.discard(update.id)
        self._roomless.discard(update.id)
        if after is not None and after.policy_class is None:
            self._closed.add(update.id)
            if not after.fault:
                self._roomless.add(update.id)
        self._move_interface(update.id, before, after)
        if before is not None and before.policy_class is not None:
            self._leave(before.policy_class)
        self._identify(update.id, before, after)
        if after is not None:
            after.routes = before.routes if before else frozenset()
            self._place_routes(after)
        elif before is not None:
            self._waits.pop(update.id, None)
            self._claim(before, {})

    def _identify(
        self, endpoint_id: EndpointId, before: _Placed | None, after: _Placed | None
    ) -> None:
        """Say whose addresses these are now."""
        self.residents.move(
            endpoint_id,
            before.endpoint.addresses if before and before.policy_class else (),
            after.endpoint.addresses if after and after.policy_class else (),
            after.policy_class if after else None,
        )
        were = before.elements if before else {}
        are = after.elements if after else {}
        for key in were.keys() - are.keys():
            self._identities.drop(key, endpoint_id)
        for key, mark in are.items():
            self._identities.put(key, endpoint_id, mark)
        for key in were.keys() | are.keys():
            winner = self._identities.winner(key)
            if winner is None:
                self.identity.remove_element(*key)
            else:
                self.identity.set_element(*key, winner)

    def _join(self, endpoint: EndpointSet) -> PolicyClass | None:
        try:
            policy_class, new = self.classes.join(class_key(endpoint))
        except NoRoomForClassError:
            return None
        if new:
            self.chains.add_class(policy_class)
        return policy_class

    def _leave(self, policy_class: PolicyClass) -> None:
        if self.classes.leave(policy_class.key) is not None:
            self.chains.remove_class(policy_class)

    def _move_interface(
        self, endpoint_id: EndpointId, before: _Placed | None, after: _Placed | None
    ) -> None:
        self.interfaces_touched = True
        if before is not None and not before.fault:
            ids = self._by_interface[before.endpoint.interface]
            ids.discard(endpoint_id)
            if not ids:
                del self._by_interface[before.endpoint.interface]
        if after is not None and not after.fault:
            self._by_interface.setdefault(after.endpoint.interface, set()).add(endpoint_id)

    def _elements(self, endpoint: EndpointSet, policy_class: PolicyClass) -> dict[ElementKey, Mark]:
        marks = self.settings.marks
        source = Mark(marks.source.place(policy_class.number), marks.source.mask)
        destination = Mark(marks.destination.place(policy_class.number), marks.destination.mask)
        elements: dict[ElementKey, Mark] = {}
        for cidr in (*endpoint.addresses, *endpoint.extra_sources):
            if self._programs(cidr):
                elements[from_set(_family(cidr)), Element(cidr, endpoint.interface)] = source
        for cidr in endpoint.addresses:
            if self._programs(cidr):
                elements[to_set(_family(cidr)), Element(cidr)] = destination
        return elements

    def _place_routes(self, placed: _Placed) -> None:
        """Claim the endpoint's addresses; without a usable interface the claim has no route."""
        self._waits.pop(placed.endpoint.id, None)
        if placed.fault:
            self._claim(placed, {})
            return
        interface = placed.endpoint.interface
        link = self._links.get(interface)
        if link is None or not link.up:
            why = "does not exist" if link is None else "is down"
            text = f"Interface {interface} {why} on host {self.host}."
            self._waits[placed.endpoint.id] = text
            interface = ""
        elif placed.policy_class is None:
            interface = ""
        self._claim(placed, dict.fromkeys(placed.endpoint.addresses, interface))

    def _claim(self, placed: _Placed, claims: dict[str, str]) -> None:
        self.destinations.claim(placed.endpoint.id, placed.routes, claims)
        placed.routes = frozenset(claims)

    def _programs(self, cidr: str) -> bool:
        """Tell whether this host has anything for the address besides a wall."""
        family = _family(cidr)
        return family in self.families and (self.ipv6 or family is Family.V4)


def _object_of(scope: Scope) -> str:
    """Return what people know a scope by: "policy gnp/a"."""
    return scope.replace("/", " ", 1)


def _family(cidr: str) -> Family:
    return Family.V6 if ":" in cidr else Family.V4
