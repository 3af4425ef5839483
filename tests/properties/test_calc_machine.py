"""A random life of a cloud: after every flush, all hosts are what the oracle says."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.migration_specs import LiveMigrationSource, LiveMigrationTarget
from hopwall_model.resources import EndpointPort, HostEndpointPort, Resource, Rule, key_of
from tests.support import states, states_moves
from tests.support.calc import Cloud
from tests.support.states import State

HOSTS = ("h1", "h2", "h3")
SELECTORS = (
    "",
    "a == '1'",
    "a != '1'",
    "has(b)",
    "a in {'1', '2'} && !has(b)",
    "a == '2' || b == '1'",
    "b contains '1'",
)
NAMESPACE_SELECTORS = ("", "all()", "global()", "env == 'x'", "env != 'x'")
NETS = ("10.0.0.0/8", "10.65.0.0/24", "0.0.0.0/0", "fd00::/8", "::/0")
ADDRESSES = (*(f"10.65.0.{i}/32" for i in range(1, 6)), "fd00::1/128", "fd00::2/128")

PORTS = [("www", 80, "TCP"), ("www", 8080, "TCP"), ("dns", 53, "UDP"), ("dns", 53, "TCP")]
EXTERNAL = ("10.65.0.4", "10.65.0.5", "192.0.2.1", "192.0.2.2")

labels = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["1", "2", "12"]), max_size=2)
names = st.sampled_from(("one", "two", "three"))
namespaces = st.sampled_from(("default", "blue"))
selectors = st.sampled_from(SELECTORS)
nets = st.lists(st.sampled_from(NETS), max_size=3, unique=True).map(tuple)

entities = st.fixed_dictionaries(
    {},
    optional={
        "nets": nets,
        "not_nets": nets,
        "selector": selectors,
        "not_selector": selectors,
        "namespace_selector": st.sampled_from(NAMESPACE_SELECTORS),
    },
)


@st.composite
def rules(draw: st.DrawFn, *, passes: bool = True) -> Rule:
    """Return a rule with a random match."""
    actions = ["Allow", "Deny", "Log", *(["Pass"] if passes else [])]
    more: dict[str, Any] = {}
    source, destination = draw(entities), draw(entities)
    if draw(st.booleans()):
        more["protocol"] = draw(st.sampled_from(["TCP", "UDP"]))
        destination["ports"] = draw(
            st.sampled_from([(80,), (80, "81:90"), ("1:65535", 5), ("www",), ("dns", "www", 7)])
        )
        source["not_ports"] = draw(st.sampled_from([(), ("www",), (9, "dns")]))
    return states.rule(
        draw(st.sampled_from(actions)), source=source, destination=destination, **more
    )


profile_names = st.lists(st.sampled_from(["p1", "p2", "kns.blue"]), max_size=2, unique=True)
ports = st.lists(st.sampled_from(PORTS), max_size=2, unique=True)


@st.composite
def endpoints(draw: st.DrawFn) -> Resource:
    """Return a workload endpoint."""
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), max_size=3, unique=True))
    internal = [a.partition("/")[0] for a in addresses if "." in a]
    external = [e for e in EXTERNAL if e not in internal] if internal else []
    floating = (
        draw(st.lists(st.sampled_from(external), max_size=2, unique=True)) if external else []
    )
    return states.endpoint(
        draw(names),
        draw(st.sampled_from(HOSTS)),
        *addresses,
        labels=draw(labels),
        profiles=tuple(draw(profile_names)),
        namespace=draw(namespaces),
        created=draw(st.none() | st.sampled_from(["2020", "2021"])),
        orchestrator="openstack",
        workload=draw(st.sampled_from(["", "vm1", "vm2"])),
        endpoint="eth0",
        ports=tuple(EndpointPort(name=n, port=p, protocol=t) for n, p, t in draw(ports)),
        ip_nats=tuple(states.nat(e, draw(st.sampled_from(internal))) for e in floating),
    )


@st.composite
def host_endpoints(draw: st.DrawFn) -> Resource:
    """Return a host endpoint."""
    addresses = draw(st.lists(st.sampled_from(EXTERNAL), min_size=1, max_size=2, unique=True))
    return states.host_endpoint(
        draw(names),
        draw(st.sampled_from((*HOSTS, "h5"))),
        draw(st.sampled_from(["*", "eth0", ""])),
        *addresses,
        labels=draw(labels),
        profiles=tuple(draw(profile_names)),
        ports=tuple(HostEndpointPort(name=n, port=p, protocol=t) for n, p, t in draw(ports)),
        annotations=draw(st.sampled_from([{}, {"hopwall.io/force": "true"}])),
    )


@st.composite
def migrations(draw: st.DrawFn) -> Resource:
    """Return a live migration of a workload between two hosts."""
    workload = draw(st.sampled_from(["vm1", "vm2"]))
    here, there = draw(st.permutations(HOSTS))[:2]
    source = LiveMigrationSource(workload_endpoint=states_moves.identifier(here, workload))
    target = LiveMigrationTarget(workload_endpoint=states_moves.identifier(there, workload))
    if draw(st.booleans()):
        source = states_moves.all_of(workload, here, "openstack")
    if draw(st.booleans()):
        target = LiveMigrationTarget(selector=draw(st.sampled_from(SELECTORS[1:])))
    return states_moves.migration(
        source,
        target,
        draw(names),
        created=draw(st.none() | st.sampled_from(["2020", "2021"])),
        switch=draw(st.sampled_from([False, False, True])),
        namespace=draw(namespaces),
    )


#: Where a global policy applies.
PLACES: tuple[dict[str, bool], ...] = (
    {},
    {"apply_on_forward": True},
    {"apply_on_forward": True, "do_not_track": True},
    {"apply_on_forward": True, "pre_dnat": True},
)


#: Often nothing but log rules, which chance alone seldom makes.
rule_lists = st.lists(rules(), max_size=2) | st.just([states.rule("Log")])


@st.composite
def policies(draw: st.DrawFn) -> Resource:
    """Return a policy of either kind."""
    spec: dict[str, Any] = {
        "tier": draw(st.sampled_from(["default", "t1", "t2"])),
        "order": draw(st.none() | st.sampled_from([1.0, 2.0])),
        "types": draw(st.sampled_from([(), ("Ingress",), ("Egress",), ("Ingress", "Egress")])),
        "egress": tuple(draw(rule_lists)),
    }
    ingress = draw(rule_lists)
    if draw(st.booleans()):
        return states.np(draw(names), draw(selectors), *ingress, namespace=draw(namespaces), **spec)
    spec["namespace_selector"] = draw(st.sampled_from(["", "all()", "env == 'x'"]))
    place = draw(st.sampled_from(PLACES))
    if "pre_dnat" in place:
        spec.update(egress=(), types=("Ingress",))
    return states.gnp(draw(names), draw(selectors), *ingress, **spec, **place)


@st.composite
def others(draw: st.DrawFn) -> Resource:
    """Return a profile, tier, network set, pool or host."""
    kind = draw(st.sampled_from(["profile", "kns", "tier", "set", "pool", "host"]))
    if kind == "pool":
        cidr = draw(st.sampled_from(["10.65.0.0/24", "10.0.0.0/8", "fd00::/64"]))
        return states.pool(draw(names), cidr, nat_outgoing=draw(st.booleans()))
    if kind == "profile":
        ingress = draw(st.lists(rules(passes=False), max_size=1))
        return states.profile(draw(st.sampled_from(["p1", "p2"])), draw(labels), *ingress)
    if kind == "kns":
        value = draw(st.sampled_from("xy"))
        return states.profile(f"kns.{draw(namespaces)}", {"pcns.env": value})
    if kind == "tier":
        order = draw(st.none() | st.sampled_from([1.0, 5_000_000.0]))
        action = draw(st.sampled_from(["Deny", "Pass"]))
        return states.tier(draw(st.sampled_from(["t1", "t2"])), order, action)
    if kind == "set":
        if draw(st.booleans()):
            return states.global_set(draw(names), draw(labels), *draw(nets))
        return states.network_set(draw(names), draw(labels), *draw(nets))
    return states.host(
        draw(st.sampled_from((*HOSTS, "h4"))), draw(st.sampled_from(["", "172.18.0.1/24"]))
    )


#: Anything a cloud may declare.
resources = endpoints() | migrations() | host_endpoints() | policies() | others()


class CloudMachine(RuleBasedStateMachine):
    """Resources come, change and go; flushes happen now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud()
        self.resources: dict[Any, Resource] = {}
        self.waiting: list[ResourceSet | ResourceRemoved] = []

    @rule(resource=resources)
    def put(self, resource: Resource) -> None:
        """Set a resource."""
        self.put_one(resource)

    def put_one(self, resource: Resource) -> None:
        """Note a resource and its event."""
        self.resources[key_of(resource)] = resource
        self.waiting.append(ResourceSet(resource=resource))

    @rule(
        hosts=st.permutations(HOSTS),
        address=st.sampled_from(ADDRESSES),
        workload=st.sampled_from(["vm1", "vm2"]),
        switch=st.booleans(),
    )
    def put_pair(self, hosts: list[str], address: str, workload: str, *, switch: bool) -> None:
        """Declare a move as an orchestrator does, which chance alone seldom does."""
        ends = (states_moves.identifier(host, workload) for host in hosts[:2])
        source, target = ends
        self.put_one(
            states_moves.migration(
                LiveMigrationSource(workload_endpoint=source),
                LiveMigrationTarget(workload_endpoint=target),
                switch=switch,
            )
        )
        for host in hosts[:2]:
            one = states_moves.interface(host, address, workload=workload, name=f"on-{host}")
            self.put_one(one)

    @rule(choice=st.randoms(use_true_random=False))
    def remove(self, choice: Any) -> None:
        """Remove a resource that is there."""
        if self.resources:
            key = choice.choice(sorted(self.resources))
            del self.resources[key]
            self.waiting.append(ResourceRemoved(key=key))

    @rule(host=st.sampled_from(HOSTS), choice=st.randoms(use_true_random=False))
    def arrive(self, host: str, choice: Any) -> None:
        """Let a host say that workloads have arrived, some of which nobody moves."""
        self.flush()
        endpoints = [k for k in sorted(self.resources) if k.kind == "WorkloadEndpoint"]
        moves = [k for k in sorted(self.resources) if k.kind == "LiveMigration"]
        both = [
            (f"{e.namespace}/{e.name}", f"{m.namespace}/{m.name}/")
            for e in endpoints
            for m in moves
        ]
        self.cloud.arrive(host, *choice.sample(both, min(len(both), choice.randint(0, 3))))
        self.cloud.check(State("now", self.resources), "now")

    @rule()
    def flush(self) -> None:
        """Flush what waits."""
        self.cloud.step(self.waiting)
        self.waiting = []
        self.cloud.check(State("now", self.resources), "now")

    @rule()
    def resync(self) -> None:
        """Take everything in again from a snapshot of the stream."""
        graph = self.cloud.graph
        self.cloud.revision += len(self.waiting)
        graph.begin_resync()
        for resource in self.resources.values():
            graph.on_event(ResourceSet(resource=resource), self.cloud.revision)
        graph.end_resync(self.cloud.revision)
        self.waiting = []
        self.cloud.step([])
        self.cloud.check(State("now", self.resources), "now")

    @rule()
    def compare_with_twin(self) -> None:
        """Recompute everything."""
        self.flush()
        assert self.cloud.graph.differences() == []
        failures = self.cloud.graph.take_failures()
        assert [f for f in failures if "does not exist" not in f.reason] == []

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        """Keep the number of unflushed events small."""
        if len(self.waiting) >= 6:
            self.flush()


TestCloudMachine = CloudMachine.TestCase
TestCloudMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
