"""Calc's cost: cold start, and one change, at a given size. Prints; judges nothing.

python tests/bench/bench_calc.py [endpoints] [policies] [hosts] [direct|bgp]
"""

import gc
import random
import resource as process
import sys
import time
from collections.abc import Callable

from msgspec.structs import replace

from hopwall_calc.graph import Graph
from hopwall_calc.settings import Routing
from hopwall_model import codec
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.resources import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Metadata,
    Node,
    NodeBgp,
    NodeSpec,
    Profile,
    ProfileSpec,
    Resource,
    Rule,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    key_of,
)


def endpoint(number: int, n_hosts: int, app: int) -> WorkloadEndpoint:
    """Return one endpoint with eight labels, two of them selective."""
    labels = {f"label-{i}": f"value-{(number * 7 + i) % 13}" for i in range(6)}
    labels |= {"app": f"app-{app}", "team": f"team-{app % 50}"}
    address = f"10.{65 + number // 65025}.{number // 255 % 255}.{number % 255 + 1}/32"
    return WorkloadEndpoint(
        metadata=Metadata(name=f"vm-{number}", namespace=f"ns-{app % 20}", labels=labels),
        spec=WorkloadEndpointSpec(
            node=f"host-{number % n_hosts}",
            interface_name=f"tap{number}",
            ip_networks=(address,),
            profiles=("default",),
        ),
    )


def policy(number: int, n_apps: int) -> GlobalNetworkPolicy:
    """Return a policy for one app that names two others and some ranges."""
    others = [(number * 3 + i) % n_apps for i in (1, 2)]
    rules = tuple(
        Rule(
            action="Allow",
            protocol="TCP",
            source=EntityRule(selector=f"app == 'app-{other}' && has(team)"),
            destination=EntityRule(ports=(80, "8000:8100")),
        )
        for other in others
    )
    nets = Rule(action="Deny", source=EntityRule(nets=("192.0.2.0/24", "198.51.100.0/24")))
    return GlobalNetworkPolicy(
        metadata=Metadata(name=f"policy-{number}"),
        spec=GlobalNetworkPolicySpec(
            selector=f"app == 'app-{number % n_apps}'", ingress=(*rules, nets), order=float(number)
        ),
    )


def turned(given: GlobalNetworkPolicy) -> GlobalNetworkPolicy:
    """Return the policy with its rules in the other order."""
    return replace(given, spec=replace(given.spec, ingress=given.spec.ingress[::-1]))


def cloud(n_endpoints: int, n_policies: int, n_hosts: int) -> list[Event]:
    """Return the events of a cloud, in random order."""
    n_apps = max(1, n_policies)
    resources: list[Resource] = [
        Profile(
            metadata=Metadata(name="default"),
            spec=ProfileSpec(egress=(Rule(action="Allow"),), labels_to_apply={"cloud": "one"}),
        ),
        *(
            Node(
                metadata=Metadata(name=f"host-{i}"),
                spec=NodeSpec(bgp=NodeBgp(ipv4_address=f"172.18.{i // 250}.{i % 250 + 1}/16")),
            )
            for i in range(n_hosts)
        ),
        *(policy(i, n_apps) for i in range(n_policies)),
        *(endpoint(i, n_hosts, i * 31 % n_apps) for i in range(n_endpoints)),
    ]
    random.Random(1).shuffle(resources)
    return [ResourceSet(resource=r) for r in resources]


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    arguments = sys.argv[1:]
    n_endpoints, n_policies, n_hosts = (
        int(arguments[i]) if len(arguments) > i else default
        for i, default in enumerate((20_000, 500, 100))
    )
    routing: Routing = "bgp" if "bgp" in arguments else "direct"
    bodies = [codec.encode(event) for event in cloud(n_endpoints, n_policies, n_hosts)]
    gc.collect()
    gc.disable()
    graph = Graph("bench", routing=routing)
    events: list[Event] = []
    decoding = cpu(lambda: events.extend(codec.decode_event(body) for body in bodies))

    def load() -> None:
        graph.begin_resync()
        for number, event in enumerate(events, start=1):
            graph.on_event(event, number)
        graph.end_resync(len(events))

    loading = cpu(load)
    flushing = cpu(graph.flush)
    events.clear()
    freezing = cpu(gc.collect)
    gc.freeze()
    gc.enable()
    n_members = sum(members.n_members for members in graph.nodes.sets.members.values())
    n_needs = sum(len(scopes) for scopes in graph.nodes.needs.by_host.values())
    print(f"{n_endpoints} endpoints, {n_policies} policies, {n_hosts} hosts, {routing}")
    print(f"  {len(graph.nodes.sets.members)} sets, {n_members} members, {n_needs} needs")
    print(f"  cold start   decode {decoding:.2f} s  intake {loading:.2f} s  graph {flushing:.2f} s")
    print(f"  collect once {freezing:.2f} s")
    print(f"  peak memory  {process.getrusage(process.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    body = b""

    def snapshot() -> None:
        nonlocal body
        body = codec.encode(graph.snapshot("host-1"))

    print(f"  snapshot     {cpu(snapshot) * 1000:.1f} ms, {len(body) / 1024:.0f} KiB")
    _changes(graph, n_endpoints, n_policies, n_hosts)


def _changes(graph: Graph, n_endpoints: int, n_policies: int, n_hosts: int) -> None:
    n_apps = max(1, n_policies)
    rng = random.Random(2)
    revision = graph.revision

    def step(event: Event) -> tuple[float, int, int]:
        nonlocal revision
        revision += 1
        start = time.process_time()
        graph.on_event(event, revision)
        output = graph.flush()
        seconds = time.process_time() - start
        assert output is not None
        return seconds, len(output.shared), len(output.batches)

    def report(name: str, measured: list[tuple[float, int, int]]) -> None:
        times = sorted(seconds for seconds, _, _ in measured)
        shared = sum(n for _, n, _ in measured) / len(measured)
        batches = sum(n for _, _, n in measured) / len(measured)
        median, worst = times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000
        print(
            f"  {name:<22} median {median:.3f} ms  p99 {worst:.3f} ms CPU;"
            f" {shared:.1f} shared, {batches:.1f} batches"
        )

    picked = [rng.randrange(n_endpoints) for _ in range(200)]
    changed = [endpoint(i, n_hosts, rng.randrange(n_apps)) for i in picked]
    report("endpoint relabelled", [step(ResourceSet(resource=e)) for e in changed])
    removed = [ResourceRemoved(key=key_of(e)) for e in {key_of(e): e for e in changed}.values()]
    report("endpoint removed", [step(event) for event in removed])
    report("endpoint added", [step(ResourceSet(resource=e)) for e in changed])
    again = [turned(policy(i % n_policies, n_apps)) for i in range(50)]
    report("policy changed", [step(ResourceSet(resource=p)) for p in again])


if __name__ == "__main__":
    main()
