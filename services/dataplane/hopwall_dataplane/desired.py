"""What this host's kernel should hold: the fold of all steps, kept as differences from actual.

Goals, in order:
1. Closed unless a complete, current statement says open: an endpoint without a class, a policy with an
   unknown set, a set that is gone all render as drops.
2. The result depends on the steps' content alone, not on their order or on how they were cut.
3. A step costs what it changes: one endpoint of a known class is two set elements and a route.

Pure. It refuses to know how anything is written; `agent` asks the planners of each subsystem.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import assert_never

from hopwall_dataplane.chains import ChainBook
from hopwall_dataplane.claims import Claims
from hopwall_dataplane.classes import ClassTable, NoRoomForClassError, PolicyClass, class_key
from hopwall_dataplane.conntrack.flow import HostAddresses
from hopwall_dataplane.delta import Delta
from hopwall_dataplane.destinations import Destinations, Local
from hopwall_dataplane.faults import bucket_fault, endpoint_fault, is_address, policy_fault
from hopwall_dataplane.feed import Step
from hopwall_dataplane.host_endpoints import HostEndpoints, Way
from hopwall_dataplane.ipsets.elements import Mark, SetSpec
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.iptables.static import RenderSettings, from_set, relay_set, to_set
from hopwall_dataplane.links.sources import STRANGERS, Senders
from hopwall_dataplane.moves.phases import Expected, Moves
from hopwall_dataplane.moves.places import claims_of, expected, standing
from hopwall_dataplane.nat import Pools, Translations
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import ElementKey, LinkState, Placed, elements_of, senders_of
from hopwall_dataplane.residents import Residents, Touched, packed
from hopwall_dataplane.routes.route import Route, RouteKey
from hopwall_dataplane.rule_sets import RuleSets, object_of
from hopwall_dataplane.shortfalls import Shortfalls
from hopwall_model.names import set_name
from hopwall_model.status import Refusal, Waiting
from hopwall_model.updates import (
    NAT_POOLS,
    POOLS,
    BgpSet,
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicyId,
    PolicySet,
    RoutesBucket,
    Scope,
    SetBucket,
    SetId,
    SharedPiece,
)


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
    #: Addresses and ports of NATS: what no host endpoint closes without force.
    nats: tuple[tuple[str, int], ...] = ()
    identity: AddressSets = field(default_factory=AddressSets)
    residents: Residents = field(default_factory=Residents)
    shortfalls: Shortfalls = field(default_factory=Shortfalls)
    moves: Moves = field(default_factory=Moves)
    destinations: Destinations = field(init=False)
    #: Interfaces came, went or changed, or are used anew, since somebody looked.
    interfaces_touched: bool = True
    chains: ChainBook = field(init=False)
    sets: RuleSets = field(init=False)
    classes: ClassTable = field(init=False)
    hosts: HostEndpoints = field(init=False)
    translations: Translations = field(init=False)
    _placed: dict[EndpointId, Placed] = field(default_factory=dict)
    _by_interface: dict[str, set[EndpointId]] = field(default_factory=dict)
    #: The present interfaces, by name.
    links: Mapping[str, LinkState] = field(default_factory=dict)
    #: Endpoints that have no class: faulty ones, and the `_roomless`, for which there was no number.
    _closed: set[EndpointId] = field(default_factory=set)
    _waits: dict[EndpointId, str] = field(default_factory=dict)
    _roomless: set[EndpointId] = field(default_factory=set)
    #: Object → why it is not as calc wants it, of what is not an endpoint.
    _faults: dict[str, str] = field(default_factory=dict)
    _identities: Claims[ElementKey, EndpointId, Mark | None] = field(default_factory=Claims)

    def __post_init__(self) -> None:
        """Want what every host has: the identity sets, the static chains, the link-local gateway."""
        self.classes = ClassTable(self.settings.marks.max_class)
        self.destinations = Destinations(self.host, self.reserved, self._programs, self._faults)
        self.chains = ChainBook(self.settings, self.families)
        self.sets = RuleSets(self.families, self.chains, self._faults)
        self.hosts = HostEndpoints(self.chains, self.nats)
        programmed = tuple(f for f in self.families if self.ipv6 or f is Family.V4)
        self.translations = Translations(self.chains, programmed)
        for family in self.families:
            source = SetSpec(from_set(family), "hash:net,iface", family, skbinfo=True)
            self.identity.set_desired(source)
            relays = SetSpec(relay_set(family), "hash:net,iface", family)
            self.identity.set_desired(relays)
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
                case HostEndpointSet() | HostEndpointRemoved():
                    self.hosts.put(update)
                case NeedSet() | BgpSet():
                    pass
                case _:
                    self._put_piece(update, touched_sets, touched_hosts)
        for set_id in sorted(touched_sets):
            self.sets.settle(set_id)
        for host in sorted(touched_hosts):
            self.destinations.settle(host)
        for endpoint in endpoints:
            self._place(endpoint)
        self._place_roomless()
        self._settle()

    def set_links(self, links: Mapping[str, LinkState], ways: tuple[Way, ...] = ()) -> None:
        """Take the present interfaces, and how NATS is reached by them.

        Routes to workloads need their interface to be up.
        """
        before, self.links = self.links, links
        self.interfaces_touched = True
        changed = {n for n in before.keys() | links.keys() if before.get(n) != links.get(n)}
        # Also where nobody is declared (any more): an agent before may have had senders checked there.
        self.destinations.touched |= {n for n in changed if n.startswith(self.settings.prefixes)}
        for name in sorted(changed & self._by_interface.keys()):
            for endpoint_id in sorted(self._by_interface[name]):
                self._place_routes(self._placed[endpoint_id])
        self.hosts.set_interfaces(links, ways)
        self.translations.look_again()
        self._settle()

    def linger(self, classes: dict[str, int]) -> None:
        """Keep the way to classes that are left (digest → number) for the packets still marked with them."""
        if self.chains.linger(classes):
            self.chains.settle(self.classes.classes.values())

    def arrive(self, endpoint_id: EndpointId) -> bool:
        """Take a sign of a workload that was to arrive; return whether anything follows from it."""
        arrived = self.moves.announce(endpoint_id)
        if arrived:
            self._place_routes(self._placed[endpoint_id])
        return arrived

    def tick(self, now: float, free: Iterable[EndpointId] = ()) -> None:
        """Let the migrations whose time has come be over, and sources yield that have no rival."""
        free = [endpoint_id for endpoint_id in free if self.moves.rivals_gone(endpoint_id)]
        for endpoint_id in (*free, *self.moves.tick(now)):
            self._place_routes(self._placed[endpoint_id])

    def expected(self) -> dict[EndpointId, Expected]:
        """Return where workloads are to arrive."""
        return expected(self.moves, self._placed, self.links)

    def distrust(self, names: Iterable[str]) -> None:
        """Close the policies that name one of these kernel sets, and no longer those of other sets.

        A set that lacks a member would let by what a deny by that set was to stop.
        """
        if self.sets.distrust(names):
            self._settle()

    def _settle(self) -> None:
        """Render what follows from all that was folded."""
        self.hosts.settle()
        pools = {family: self._pools(family) for family in self.families}
        self.translations.settle(pools, self._taken)
        self.chains.settle(self.classes.classes.values())
        self.hosts.judge(self.chains.policies, self.sets.lookup)

    def _taken(self) -> Set[str]:
        """Return the addresses that hosts have or live by, as CIDRs."""
        own = {address for link in self.links.values() for address in link.addresses}
        local = {f"{ip}/{128 if ':' in ip else 32}" for ip in own}
        return self.reserved | local | self.destinations.gateway_cidrs

    def _pools(self, family: Family) -> Pools:
        known, outgoing = (self.sets.is_known(set_id) for set_id in (POOLS, NAT_POOLS))
        members = self.members.content(set_name(family.value, NAT_POOLS)).desired
        return Pools(known, outgoing and bool(members))

    def note_left(self) -> None:
        """Note the addresses that are about to leave the interface the kernel knows them at."""
        for name in map(from_set, self.families):
            for element, _ in self.identity.content(name).pending_removals():
                if is_address(element.cidr):
                    self.residents.leave(packed(element.cidr))

    def take_touched(self) -> Touched:
        """Return of which addresses the flows may be judged otherwise than at the last call."""
        classes, lists = self.chains.take_touched()
        self.residents.touch(classes)
        hosts = self.hosts.touched or bool(lists)
        self.hosts.touched = False
        return replace(self.residents.take(), hosts=hosts)

    @property
    def touched(self) -> bool:
        """Whether any flow may be judged otherwise than at the last `take_touched`."""
        return bool(self.residents.touched or self.chains.touched or self.hosts.touched)

    def touch_all(self) -> None:
        """Have every flow looked at that anybody here can say anything of."""
        self.residents.touch_all()
        self.hosts.touched = self.hosts.touched or self.hosts.has_placed

    @property
    def extra_sources(self) -> HostAddresses:
        """What workloads may send from besides their own addresses."""
        return HostAddresses.of(
            (packed(cidr), int(cidr.partition("/")[2]))
            for placed in self._placed.values()
            if placed.policy_class is not None
            for cidr in placed.endpoint.extra_sources
        )

    # ------------------------------------------------------------ what people ask

    @property
    def members(self) -> AddressSets:
        """The sets that rules name, as the kernel should hold them."""
        return self.sets.wanted

    @property
    def routes(self) -> Delta[RouteKey, Route]:
        """The routes of this host."""
        return self.destinations.routes

    @property
    def interfaces(self) -> set[str]:
        """The interfaces of known endpoints that are present."""
        return self._by_interface.keys() & self.links.keys()

    def senders(self) -> dict[str, Senders]:
        """Return what is sent from the interfaces to which a route leads otherwise than when somebody looked."""
        ids = {name: self._by_interface.get(name) for name in self.destinations.touched}
        return {
            name: senders_of(self._placed[one] for one in its) if its else STRANGERS
            for name, its in ids.items()
        }

    @property
    def link_indices(self) -> dict[str, int]:
        """Every interface of the host, with its index."""
        return {name: link.index for name, link in self.links.items()}

    @property
    def addresses_in_kernel(self) -> set[str]:
        """The bare addresses of workloads that the kernel is known to have here."""
        return {
            element.cidr.partition("/")[0]
            for family in self.families
            for element in self.identity.content(to_set(family)).actual
        }

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
        told = (*self.hosts.refusals(), *self.translations.refusals())
        return (*endpoints, *others, *told, *self.shortfalls.refusals(self.hosts.known))

    def set_object(self, name: str) -> str:
        """Return what people know a kernel set by."""
        return f"set {self.sets.id_of(name) or name}"

    # ------------------------------------------------------------ scopes

    def _void(self, step: Step, touched_sets: set[SetId], touched_hosts: set[str]) -> None:
        """Forget what the step's fresh scopes held, and after a snapshot all it does not name."""
        if step.full:
            named = {u.id for u in step.updates if isinstance(u, EndpointSet)}
            for endpoint_id in sorted(self._placed.keys() - named):
                self._place(EndpointRemoved(id=endpoint_id))
            self.hosts.keep({u.id for u in step.updates if isinstance(u, HostEndpointSet)})
            for scope in sorted(self._held_scopes() - step.fresh):
                self._drop_scope(scope, touched_sets, touched_hosts)
        for scope in step.fresh:
            kind, _, name = scope.partition("/")
            if kind == "set" and SetId(name) in self.sets:
                self.sets.void(SetId(name))
                touched_sets.add(SetId(name))
            elif kind == "routes" and name in self.destinations.remote:
                self.destinations.remote[name].void()
                touched_hosts.add(name)

    def _put_piece(self, piece: SharedPiece, sets: set[SetId], hosts: set[str]) -> None:
        fault = policy_fault(piece) if isinstance(piece, PolicySet) else bucket_fault(piece)
        if fault:
            self._drop_scope(piece.scope, sets, hosts)
            self._faults[object_of(piece.scope)] = fault
            return
        if not isinstance(piece, SetBucket):  # a set may lack other buckets
            self._faults.pop(object_of(piece.scope), None)
        match piece:
            case PolicySet():
                self.chains.set_policy(piece)
                self.shortfalls.put_policy(piece)
            case SetBucket():
                self.sets.put(piece)
                sets.add(piece.id)
            case RoutesBucket():
                self.destinations.put(piece)
                hosts.add(piece.host)
            case _:
                assert_never(piece)

    def _held_scopes(self) -> set[Scope]:
        return {
            *(Scope(f"policy/{policy}") for policy in self.chains.policies),
            *(Scope(f"set/{set_id}") for set_id in self.sets.ids),
            *(Scope(f"routes/{host}") for host in self.destinations.remote),
        }

    def _drop_scope(self, scope: Scope, sets: set[SetId], hosts: set[str]) -> None:
        kind, _, name = scope.partition("/")
        self._faults.pop(object_of(scope), None)
        if kind == "policy":
            self.chains.remove_policy(name)
            self.shortfalls.drop_policy(PolicyId(name))
        elif kind == "set" and SetId(name) in self.sets:
            self.sets.drop(SetId(name))
            sets.add(SetId(name))
        elif kind == "routes" and name in self.destinations.remote:
            self.destinations.remote[name].drop()
            hosts.add(name)

    # ------------------------------------------------------------ endpoints

    def _place(self, update: EndpointSet | EndpointRemoved) -> None:
        before = self._placed.pop(update.id, None)
        after: Placed | None = None
        if isinstance(update, EndpointSet):
            fault = endpoint_fault(update, self.settings.prefixes, self.reserved)
            policy_class = None if fault else self._join(update)
            elements: dict[ElementKey, Mark | None] = {}
            if policy_class is not None:
                elements = elements_of(update, policy_class, self.settings.marks, self._programs)
            after = Placed(update, fault, policy_class, elements)
            self._placed[update.id] = after
            self.moves.put(update, {} if before else standing(update, self.routes.actual))
        else:
            self.moves.drop(update.id)
        self._closed.discard(update.id)
        self._roomless.discard(update.id)
        if after is not None and after.policy_class is not None:
            self.translations.place(after.endpoint)
        else:
            self.translations.remove(update.id)
        now = update if isinstance(update, EndpointSet) else None
        self.shortfalls.put_endpoint(update.id, now)
        self.residents.retranslate(before.endpoint if before else None, now)
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

    def _place_roomless(self) -> None:
        """Try those again that found no room for their class."""
        if self.classes.has_room:
            for endpoint_id in sorted(self._roomless):
                self._place(self._placed[endpoint_id].endpoint)

    def _identify(
        self, endpoint_id: EndpointId, before: Placed | None, after: Placed | None
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
            if key in self._identities:
                self.identity.set_element(*key, self._identities.winner(key))
            else:
                self.identity.remove_element(*key)

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
        self, endpoint_id: EndpointId, before: Placed | None, after: Placed | None
    ) -> None:
        self.interfaces_touched = True
        ends = (placed.endpoint.interface for placed in (before, after) if placed is not None)
        self.destinations.touched.update(ends)
        if before is not None and not before.fault:
            ids = self._by_interface[before.endpoint.interface]
            ids.discard(endpoint_id)
            if not ids:
                del self._by_interface[before.endpoint.interface]
        if after is not None and not after.fault:
            self._by_interface.setdefault(after.endpoint.interface, set()).add(endpoint_id)

    def _place_routes(self, placed: Placed) -> None:
        """Claim the endpoint's addresses; without a usable interface the claim has no route."""
        self._waits.pop(placed.endpoint.id, None)
        if placed.fault:
            self._claim(placed, {})
            return
        interface = placed.endpoint.interface
        link = self.links.get(interface)
        if link is None or not link.up:
            why = "does not exist" if link is None else "is down"
            text = f"Interface {interface} {why} on host {self.host}."
            self._waits[placed.endpoint.id] = text
            interface = ""
        elif placed.policy_class is None:
            interface = ""
        self._claim(placed, claims_of(placed.endpoint, interface, self.moves))

    def _claim(self, placed: Placed, claims: dict[str, Local]) -> None:
        self.destinations.claim(placed.endpoint.id, placed.routes, claims)
        placed.routes = frozenset(claims)

    def _programs(self, cidr: str) -> bool:
        """Tell whether this host has anything for the address besides a wall."""
        family = Family.of(cidr)
        return family in self.families and (self.ipv6 or family is Family.V4)
