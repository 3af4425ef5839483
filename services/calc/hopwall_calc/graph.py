"""The wiring: which node consumes which, as a list; and the graph as a thing that takes events.

Pure: the same events in any order give the same state. Read `wire` for the picture, or let
`python -m hopwall_calc --graph` draw it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from hopwall_calc import intake, intake_bgp, intake_migration
from hopwall_calc.accounts import Removals, accounted
from hopwall_calc.engine import Edge, Engine, Failure, Source, attempt
from hopwall_calc.intake import (
    EndpointInput,
    HostEndpointInput,
    NetworkSetInput,
    NodeInput,
    PolicyInput,
    PoolInput,
    ProfileInput,
    TierInput,
)
from hopwall_calc.intake_bgp import BgpConfigInput, BgpFilterInput, BgpPeerInput, BlockInput
from hopwall_calc.intake_migration import MigrationInput
from hopwall_calc.left_out import KEEPS_OUT, LeftOuts
from hopwall_calc.nodes.addresses import Addresses
from hopwall_calc.nodes.bgp import Daemons
from hopwall_calc.nodes.claims import Claims
from hopwall_calc.nodes.endpoint_policies import EndpointPolicies
from hopwall_calc.nodes.endpoints import Endpoints
from hopwall_calc.nodes.hosts import Hosts
from hopwall_calc.nodes.labels import Labels
from hopwall_calc.nodes.migrations import Migrations
from hopwall_calc.nodes.named_ports import NamedPorts
from hopwall_calc.nodes.needs import Needs
from hopwall_calc.nodes.peerings import Peerings
from hopwall_calc.nodes.policies import Policies
from hopwall_calc.nodes.policy_uses import PolicyUses
from hopwall_calc.nodes.ranges import AllRanges
from hopwall_calc.nodes.roles import Roles
from hopwall_calc.nodes.routes import Routes
from hopwall_calc.nodes.sessions import Sessions
from hopwall_calc.nodes.sets import Sets
from hopwall_calc.nodes.speakers import Speakers
from hopwall_calc.nodes.tierless import Tierless
from hopwall_calc.nodes.trust import Trust
from hopwall_calc.nodes.unpaired import Unpaired
from hopwall_calc.sequencer import Output, Sequencer
from hopwall_calc.settings import Routing
from hopwall_model.events import Event, ResourceSet
from hopwall_model.poison import failing
from hopwall_model.resources import Key
from hopwall_model.status import MAX_MOVES_NOBODY, Moved, MovedHere, MovesNobody
from hopwall_model.updates import HostBatch


class Nodes:
    """All nodes, each made with the nodes it reads."""

    def __init__(self, *, routing: Routing) -> None:
        self.routing = routing
        self.workload_endpoints: Source[Key, EndpointInput] = Source("workload_endpoints")
        self.host_endpoints: Source[Key, HostEndpointInput] = Source("host_endpoints")
        self.network_sets: Source[Key, NetworkSetInput] = Source("network_sets")
        self.declared_policies: Source[Key, PolicyInput] = Source("declared_policies")
        self.declared_profiles: Source[str, ProfileInput] = Source("declared_profiles")
        self.tiers: Source[str, TierInput] = Source("tiers")
        self.declared_hosts: Source[str, NodeInput] = Source("declared_hosts")
        self.pools: Source[str, PoolInput] = Source("pools")

        self.declared_migrations: Source[Key, MigrationInput] = Source("declared_migrations")
        #: Not declared: what hosts say, by host.
        self.moved: Source[str, frozenset[MovedHere]] = Source("moved")

        self.labels = Labels(
            self.workload_endpoints, self.host_endpoints, self.network_sets, self.declared_profiles
        )
        self.claims = Claims(self.workload_endpoints)
        self.migrations = Migrations(
            self.declared_migrations, self.workload_endpoints, self.claims, self.labels
        )
        self.unpaired = Unpaired(
            self.migrations, self.declared_migrations, self.workload_endpoints, self.labels
        )
        self.roles = Roles(
            self.migrations, self.declared_migrations, self.workload_endpoints, self.moved
        )
        self.addresses = Addresses(self.workload_endpoints, self.claims, self.roles)
        self.named_ports = NamedPorts(self.workload_endpoints, self.host_endpoints, self.addresses)
        self.tierless = Tierless(self.declared_policies, self.tiers)
        self.endpoint_policies = EndpointPolicies(self.labels, self.declared_policies, self.tiers)
        self.endpoints = Endpoints(
            self.workload_endpoints, self.host_endpoints, self.addresses, self.endpoint_policies
        )
        self.policy_uses = PolicyUses(self.endpoints)
        self.policies = Policies(
            self.policy_uses, self.declared_policies, self.declared_profiles, self.tiers
        )
        self.sets = Sets(
            self.policies,
            self.labels,
            self.addresses,
            self.named_ports,
            self.host_endpoints,
            self.network_sets,
            self.pools,
        )
        self.hosts = Hosts(self.declared_hosts, self.endpoints)
        self.routes = Routes(self.endpoints, self.hosts)
        self.needs = Needs(
            self.policy_uses, self.policies, self.hosts, self.pools, routes=routing == "direct"
        )
        self.bgp = BgpNodes(self)


class BgpNodes:
    """The nodes that only clouds have whose routes BGP spreads."""

    def __init__(self, n: Nodes) -> None:
        self.configurations: Source[str, BgpConfigInput] = Source("bgp_configurations")
        self.peers: Source[str, BgpPeerInput] = Source("bgp_peers")
        self.filters: Source[str, BgpFilterInput] = Source("bgp_filters")
        self.blocks: Source[str, BlockInput] = Source("blocks")

        self.speakers = Speakers(n.declared_hosts, self.configurations)
        self.peerings = Peerings(self.peers, n.declared_hosts)
        self.sessions = Sessions(
            self.speakers, self.configurations, self.peers, self.peerings, self.filters
        )
        self.ranges = AllRanges(n.pools, self.blocks)
        self.trust = Trust(n.endpoints, self.blocks, n.pools)
        self.daemons = Daemons(n.hosts, self.speakers, self.sessions, self.trust, self.ranges)


def wire(n: Nodes) -> tuple[Edge, ...]:
    """Return the edges: producer, consumer, and what the consumer does when the producer changed."""
    return (
        *_wire_addresses(n),
        Edge(n.workload_endpoints, n.named_ports, n.named_ports.on_endpoints),
        Edge(n.host_endpoints, n.named_ports, n.named_ports.on_host_endpoints),
        Edge(n.addresses, n.named_ports, n.named_ports.on_addresses),
        Edge(n.workload_endpoints, n.labels, n.labels.on_endpoints),
        Edge(n.host_endpoints, n.labels, n.labels.on_host_endpoints),
        Edge(n.network_sets, n.labels, n.labels.on_network_sets),
        Edge(n.declared_profiles, n.labels, n.labels.on_profiles),
        Edge(n.declared_policies, n.tierless, n.tierless.on_policies),
        Edge(n.tiers, n.tierless, n.tierless.on_tiers),
        Edge(n.labels, n.endpoint_policies, n.endpoint_policies.on_labels),
        Edge(n.declared_policies, n.endpoint_policies, n.endpoint_policies.on_policies),
        Edge(n.tiers, n.endpoint_policies, n.endpoint_policies.on_tiers),
        Edge(n.workload_endpoints, n.endpoints, n.endpoints.on_endpoints),
        Edge(n.host_endpoints, n.endpoints, n.endpoints.on_host_endpoints),
        Edge(n.addresses, n.endpoints, n.endpoints.on_addresses),
        Edge(n.endpoint_policies, n.endpoints, n.endpoints.on_endpoint_policies),
        Edge(n.endpoints, n.policy_uses, n.policy_uses.on_endpoints),
        Edge(n.policy_uses, n.policies, n.policies.on_policy_uses),
        Edge(n.declared_policies, n.policies, n.policies.on_policies),
        Edge(n.declared_profiles, n.policies, n.policies.on_profiles),
        Edge(n.tiers, n.policies, n.policies.on_tiers),
        Edge(n.policies, n.sets, n.sets.on_policies),
        Edge(n.labels, n.sets, n.sets.on_labels),
        Edge(n.addresses, n.sets, n.sets.on_addresses),
        Edge(n.named_ports, n.sets, n.sets.on_named_ports),
        Edge(n.host_endpoints, n.sets, n.sets.on_host_endpoints),
        Edge(n.network_sets, n.sets, n.sets.on_network_sets),
        Edge(n.pools, n.sets, n.sets.on_pools),
        Edge(n.declared_hosts, n.hosts, n.hosts.on_declared),
        Edge(n.endpoints, n.hosts, n.hosts.on_endpoints),
        Edge(n.endpoints, n.routes, n.routes.on_endpoints),
        Edge(n.hosts, n.routes, n.routes.on_hosts),
        Edge(n.policy_uses, n.needs, n.needs.on_policy_uses),
        Edge(n.policies, n.needs, n.needs.on_policies),
        Edge(n.hosts, n.needs, n.needs.on_hosts),
        Edge(n.pools, n.needs, n.needs.on_pools),
        *(_wire_bgp(n, n.bgp) if n.routing == "bgp" else ()),
    )


def _wire_addresses(n: Nodes) -> tuple[Edge, ...]:
    """Return the edges by which it is known whose an address is."""
    return (
        Edge(n.workload_endpoints, n.claims, n.claims.on_endpoints),
        Edge(n.declared_migrations, n.migrations, n.migrations.on_declared),
        Edge(n.workload_endpoints, n.migrations, n.migrations.on_endpoints),
        Edge(n.claims, n.migrations, n.migrations.on_claims),
        Edge(n.labels, n.migrations, n.migrations.on_labels),
        Edge(n.migrations, n.unpaired, n.unpaired.on_migrations),
        Edge(n.declared_migrations, n.unpaired, n.unpaired.on_declared),
        Edge(n.workload_endpoints, n.unpaired, n.unpaired.on_endpoints),
        Edge(n.labels, n.unpaired, n.unpaired.on_labels),
        Edge(n.migrations, n.roles, n.roles.on_migrations),
        Edge(n.declared_migrations, n.roles, n.roles.on_declared),
        Edge(n.workload_endpoints, n.roles, n.roles.on_endpoints),
        Edge(n.moved, n.roles, n.roles.on_moved),
        Edge(n.workload_endpoints, n.addresses, n.addresses.on_endpoints),
        Edge(n.claims, n.addresses, n.addresses.on_claims),
        Edge(n.roles, n.addresses, n.addresses.on_roles),
    )


def _wire_bgp(n: Nodes, b: BgpNodes) -> tuple[Edge, ...]:
    return (
        Edge(n.declared_hosts, b.speakers, b.speakers.on_declared),
        Edge(b.configurations, b.speakers, b.speakers.on_configurations),
        Edge(b.peers, b.peerings, b.peerings.on_peers),
        Edge(n.declared_hosts, b.peerings, b.peerings.on_declared),
        Edge(b.speakers, b.sessions, b.sessions.on_speakers),
        Edge(b.configurations, b.sessions, b.sessions.on_configurations),
        Edge(b.peers, b.sessions, b.sessions.on_peers),
        Edge(b.peerings, b.sessions, b.sessions.on_peerings),
        Edge(b.filters, b.sessions, b.sessions.on_filters),
        Edge(n.pools, b.ranges, b.ranges.on_pools),
        Edge(b.blocks, b.ranges, b.ranges.on_blocks),
        Edge(n.endpoints, b.trust, b.trust.on_endpoints),
        Edge(b.blocks, b.trust, b.trust.on_blocks),
        Edge(n.pools, b.trust, b.trust.on_pools),
        Edge(n.hosts, b.daemons, b.daemons.on_hosts),
        Edge(b.speakers, b.daemons, b.daemons.on_speakers),
        Edge(b.sessions, b.daemons, b.daemons.on_sessions),
        Edge(b.trust, b.daemons, b.daemons.on_trust),
        Edge(b.ranges, b.daemons, b.daemons.on_ranges),
    )


#: A source's place, a key of it, and the value before and now.
_Change = tuple[int, Any, Any, Any]


def _closed(value: Any) -> Any:
    """Return what stands for a value that makes the graph fail: a policy that denies; of others nothing."""
    if isinstance(value, PolicyInput):
        return structs.replace(value, closed=True, ingress=(), egress=())
    return None


class Graph:
    """Events in; updates out."""

    def __init__(self, epoch: str, *, routing: Routing = "direct") -> None:
        self._routing = routing
        self.nodes = Nodes(routing=routing)
        self.engine = Engine(wire(self.nodes))
        self.sequencer = self._new_sequencer(epoch)
        self.revision = 0
        self._failures: list[Failure] = []
        self._unseen: set[Key] | None = None
        n = self.nodes
        #: Kind → where it is kept, under which key, and what is kept of it.
        self._kinds: dict[str, tuple[Source[Any, Any], Callable[[Key], Any], Any]] = {
            "WorkloadEndpoint": (n.workload_endpoints, intake.by_key, intake.endpoint),
            "HostEndpoint": (n.host_endpoints, intake.by_key, intake.host_endpoint),
            "NetworkSet": (n.network_sets, intake.by_key, intake.network_set),
            "GlobalNetworkSet": (n.network_sets, intake.by_key, intake.network_set),
            "NetworkPolicy": (n.declared_policies, intake.by_key, intake.policy),
            "GlobalNetworkPolicy": (n.declared_policies, intake.by_key, intake.policy),
            "Profile": (n.declared_profiles, intake.by_name, intake.profile),
            "Tier": (n.tiers, intake.by_name, intake.tier),
            "Node": (n.declared_hosts, intake.by_name, intake.host),
            "IPPool": (n.pools, intake.by_name, intake.pool),
            "LiveMigration": (
                n.declared_migrations,
                intake.by_key,
                intake_migration.live_migration,
            ),
        }
        if routing == "bgp":
            b = n.bgp
            self._kinds |= {
                "BGPConfiguration": (b.configurations, intake.by_name, intake_bgp.configuration),
                "BGPPeer": (b.peers, intake.by_name, intake_bgp.peer),
                "BGPFilter": (b.filters, intake.by_name, intake_bgp.bgp_filter),
                "IPAMBlock": (b.blocks, intake.by_name, intake_bgp.block),
            }
        #: The resources that are there now, whatever has come of them.
        self._known: set[Key] = set()
        self._removals = Removals()
        self.left_out = LeftOuts()

    def _new_sequencer(self, epoch: str) -> Sequencer:
        n = self.nodes
        return Sequencer(
            epoch,
            endpoints=n.endpoints.out,
            needs=n.needs,
            contents={"set": n.sets, "policy": n.policies, "routes": n.routes},
            bgp=n.bgp.daemons.out if self._routing == "bgp" else None,
        )

    # ------------------------------------------------------------ in

    def on_event(self, event: Event, revision: int) -> None:
        """Take in one event. What cannot be understood is a failure, and absent from now on, unless that may open."""
        self.revision = max(self.revision, revision)
        key = event.key
        if key.kind not in self._kinds:
            return
        self.left_out.clear(key)
        source, key_in_source, digest = self._kinds[key.kind]
        self._removals.note(key, removed=not isinstance(event, ResourceSet))
        if not isinstance(event, ResourceSet):
            self._known.discard(key)
            source.out.put(key_in_source(key), None)
            return
        self._known.add(key)
        if self._unseen is not None:
            self._unseen.discard(key)
        resource = event.resource
        value = attempt("intake", key, lambda: digest(resource))
        if isinstance(value, Failure):
            self._failures.append(value)
            self.left_out.note(key, f"It is not understood: {value.reason}")
            if key.kind in KEEPS_OUT:
                if self._unseen is not None:
                    self.left_out.wanted.add(key)
                return
            value = None
        elif isinstance(value, PolicyInput) and value.closed:
            reason = "its rules are not understood, so it denies"
            self._failures.append(Failure("intake", str(key), reason))
            self.left_out.note(key, f"I{reason[1:]}.")
        source.out.put(key_in_source(key), value)

    def understands(self, event: Event) -> bool:
        """Tell whether an event says something that can be enforced, if not all of it."""
        if not isinstance(event, ResourceSet):
            return True
        digest = self._kinds[event.key.kind][2]
        return not isinstance(attempt("intake", event.key, lambda: digest(event.resource)), Failure)

    def recall(self, key: Key, event: Event | None) -> None:
        """Let what the stream last said of a resource and is understood stand; None: it keeps none, what stands stays."""
        self.left_out.wanted.discard(key)
        if event is not None:
            source, key_in_source, digest = self._kinds[key.kind]
            value = digest(event.resource) if isinstance(event, ResourceSet) else None
            source.out.put(key_in_source(key), value)

    def on_moved(self, moved: Moved) -> None:
        """Take in which workloads a host says have arrived there."""
        self.nodes.moved.out.put(moved.host, frozenset(moved.arrived) or None)

    def begin_resync(self) -> None:
        """Begin to take in a snapshot: what it does not name is gone at its end."""
        self._unseen = set(self._known)
        self._removals.forget()

    def end_resync(self, revision: int) -> int:
        """End it: sweep what was not named; the revision is then exactly this one.

        Returns how many resources are gone although no event removed them: the stream has lost them.
        """
        gone = self._unseen or set()
        n_lost = len(gone & self._known)
        for key in gone:
            source, key_in_source, _ = self._kinds[key.kind]
            self._known.discard(key)
            source.out.put(key_in_source(key), None)
            self.left_out.clear(key)
        self._unseen = None
        self.revision = revision
        return n_lost

    # ------------------------------------------------------------ out

    def flush(self, *, recompute_all: bool = False) -> Output | None:
        """Return what the events since the last flush changed; None if there were none.

        What makes the whole fail is found, closed and named; what works goes out, in an epoch of its own.

        Errors: RuntimeError when it fails without anything that changed: a broken invariant.
        """
        output = attempt("flush", "all", lambda: self._flush(recompute_all=recompute_all))
        if isinstance(output, Failure):
            self._quarantine(output)
            return self._flush()
        return output

    def _flush(self, *, recompute_all: bool = False) -> Output | None:
        changed = any(source.has_changes() for source in self._sources())
        if not (changed or recompute_all) and self.sequencer.revision == self.revision:
            return None
        self.engine.run(recompute_all=recompute_all)
        output = self.sequencer.flush(self.revision, self.nodes.hosts.out)
        self._failures += [
            Failure("policies", str(key), f"its tier {tier!r} does not exist, so it denies")
            for key, tier in self.nodes.tierless.appeared()
        ]
        self.engine.settle()
        return output

    def snapshot(self, host: str, missing: Iterable[str] = ()) -> HostBatch:
        """Return everything the host needs as of the last flush, and which of what it misses is explained."""
        found = self.sequencer.snapshot(host)
        explained = accounted(missing, host, self._removals, self._declared)
        return structs.replace(found, accounted=explained) if explained else found

    def _declared(self, key: Key) -> object:
        source, key_in_source, _ = self._kinds[key.kind]
        return source.out.get(key_in_source(key))

    def moves_nobody(self) -> tuple[MovesNobody, ...]:
        """Return the migrations without a pair as of the last flush; of very many the first."""
        found = sorted(self.nodes.unpaired.out.values.items())[:MAX_MOVES_NOBODY]
        return tuple(MovesNobody(f"{key.namespace}/{key.name}", why) for key, why in found)

    def take_failures(self) -> list[Failure]:
        """Return what could not be understood or computed since the last call."""
        found, self._failures = self._failures + self.engine.take_failures(), []
        return found

    def new_epoch(self, epoch: str) -> None:
        """Begin an epoch: versions and numbers start anew, every host asks for a snapshot."""
        self.engine.run()
        self.engine.settle()
        self.sequencer = self._new_sequencer(epoch)

    # ------------------------------------------------------------ what makes it fail

    def _quarantine(self, cause: Failure) -> None:
        """Go on from a twin in which the changes that fail have their closed form, or are absent."""
        changes = [
            (number, key, old, source.out.get(key))
            for number, source in enumerate(self._sources())
            for key, old in source.out.changed.items()
        ]
        closed: list[_Change] = []

        def works(kept: Sequence[_Change]) -> bool:
            given = (*kept, *closed)
            twin = self._twin(changes, {(number, key): new for number, key, _, new in given})
            return not isinstance(attempt("trial", "", twin._try), Failure)

        bad = failing(changes, works)
        if bad is None:
            raise RuntimeError(f"the graph fails whatever it is given: {cause.reason}")
        good = [change for change in changes if change not in bad]
        for number, key, old, new in bad:
            stand_in = (number, key, old, _closed(new))
            closed.append(stand_in if works((*good, stand_in)) else (number, key, old, None))
            self.left_out.note(self._key_of(number, key), f"It is closed: {cause.reason}")
            self._failures.append(Failure("quarantine", str(key), f"it is closed: {cause.reason}"))
        kept = {(number, key): new for number, key, _, new in (*good, *closed)}
        twin = self._twin(changes, kept)
        self.nodes, self.engine, self._kinds = twin.nodes, twin.engine, twin._kinds
        self.sequencer = self._new_sequencer(f"{self.sequencer.epoch}+")

    def _key_of(self, number: int, key: Any) -> Key:
        """Return the resource behind a key of a source."""
        if isinstance(key, Key):
            return key
        source = list(self._sources())[number]
        kinds = (kind for kind, (other, _, _) in self._kinds.items() if other is source)
        return Key(next(kinds, source.name), "", key)

    def _twin(self, changes: Sequence[_Change], kept: Mapping[tuple[int, Any], Any]) -> "Graph":
        """Return a graph of what was before the changes, with these values among it."""
        twin = Graph(self.sequencer.epoch, routing=self._routing)
        before = {(number, key): old for number, key, old, _ in changes}
        for number, (mine, its) in enumerate(zip(self._sources(), twin._sources(), strict=True)):
            for key, value in mine.out.values.items():
                if (number, key) not in before:
                    its.out.put(key, value)
        for (number, key), value in {**before, **kept}.items():
            list(twin._sources())[number].out.put(key, value)
        return twin

    def _try(self) -> None:
        """Do all that a flush and the snapshots after it do."""
        self.engine.run(recompute_all=True)
        hosts = list(self.nodes.hosts.out)
        self.sequencer.flush(0, hosts)
        for host in hosts:
            self.sequencer.snapshot(host)

    # ------------------------------------------------------------ the twin

    def recomputed(self) -> "Graph":
        """Return a graph that derives everything from the same declarations, from nothing."""
        twin = Graph(self.sequencer.epoch, routing=self._routing)
        for mine, its in zip(self._sources(), twin._sources(), strict=True):
            for key, value in mine.out.values.items():
                its.out.put(key, value)
        twin.engine.run(recompute_all=True)
        return twin

    def differences(self) -> list[str]:
        """Return the nodes whose facts are not what recomputing gives: always empty, or a bug.

        Cost: a recompute of everything.
        """
        twin = self.recomputed()
        pairs = zip(self.engine.nodes, twin.engine.nodes, strict=True)
        return [mine.name for mine, its in pairs if mine.facts() != its.facts()]

    def _sources(self) -> Iterable[Source[Any, Any]]:
        return [node for node in self.engine.nodes if isinstance(node, Source)]
