"""From resources to the text of one host's tables and sets, by the product's own path without a kernel.

resources → calc's graph → snapshot → the dataplane's feed and fold → transactions → the text that is fed. A
`Tamper` stands between the stages: the seeded faults with which the rig itself is tried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_link

from msgspec.structs import replace

from hopwall_calc.graph import Graph
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.failsafe import Failsafe
from hopwall_dataplane.feed import Feed, Step
from hopwall_dataplane.ipsets.elements import Element, Mark, SetSpec
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.static import TABLES, RenderSettings
from hopwall_dataplane.iptables.table import TableState
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_model.events import ResourceSet
from hopwall_model.resources import HostEndpoint, Resource, WorkloadEndpoint
from hopwall_model.updates import EndpointSet, HostBatch, Update
from tests.proof.kernel_sets import read_sets
from tests.proof.lines import Tables

SETTINGS = RenderSettings(
    marks=layout(),
    prefixes=("tap",),
    workload_to_host="accept",
    failsafe_in=(Failsafe(6, 22),),
    failsafe_out=(Failsafe(17, 53),),
)
UPLINK = "eth0"
#: The host's own interfaces, and the address of each.
HOST_ADDRESSES = {"eth0": "172.18.0.1", "eth1": "172.19.0.1", "eth2": "172.20.0.1"}
VERSIONS = {4: Family.V4, 6: Family.V6}


def _same_update(update: Update) -> Update:
    return update


def _same_text(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Tamper:
    """What is done to the stages: nothing, unless the rig is tried.

    Shape: `update` changes one update of a snapshot, `lines` the text of one table, `sets` that of the sets.
    """

    update: Callable[[Update], Update] = _same_update
    lines: Callable[[str], str] = _same_text
    sets: Callable[[str], str] = _same_text


NO_TAMPER = Tamper()


@dataclass(slots=True)
class Host:
    """What one host would write: its tables by IP version, and where it sends an address."""

    name: str
    tables: dict[int, Tables]
    interfaces: dict[str, str] = field(default_factory=dict)

    def way_to(self, destination: str) -> str:
        """Return the interface a packet for the address leaves by."""
        return self.interfaces.get(destination, UPLINK)


def hosts_of(resources: tuple[Resource, ...], tamper: Tamper = NO_TAMPER) -> dict[str, Host]:
    """Return every host that has endpoints, as its dataplane would write it.

    Errors: AssertionError where calc does not understand a resource.
    """
    graph = graph_of(resources)
    endpoints = [r for r in resources if isinstance(r, WorkloadEndpoint | HostEndpoint)]
    names = sorted({endpoint.spec.node for endpoint in endpoints})
    return {name: _host(name, graph.snapshot(name), tamper) for name in names}


def graph_of(resources: tuple[Resource, ...]) -> Graph:
    """Return calc's graph of a cloud, flushed once.

    Errors: AssertionError where calc does not understand a resource.
    """
    graph = Graph("epoch-1")
    for revision, resource in enumerate(resources, 1):
        graph.on_event(ResourceSet(resource=resource), revision)
    graph.flush()
    failures = graph.take_failures()
    assert [
        f for f in failures if "does not exist" not in f.reason
    ] == []  # an absent tier is told of
    return graph


def _host(name: str, batch: HostBatch, tamper: Tamper) -> Host:
    desired = desired_of(name, batch, tamper)
    sets = read_sets(tamper.sets(sets_text(desired.identity) + sets_text(desired.members)))
    tables: dict[int, Tables] = {}
    for version, family in VERSIONS.items():
        tables[version] = Tables(version, sets)
        for text in tables_text(desired, family):
            tables[version].read(tamper.lines(text))
    host = Host(name, tables)
    for route in desired.routes.desired.values():
        if route.kind == "link":
            host.interfaces[route.cidr.partition("/")[0]] = route.interface
    return host


def desired_of(name: str, batch: HostBatch, tamper: Tamper = NO_TAMPER) -> Desired:
    """Return the desired state a snapshot leads to, with all interfaces up."""
    updates = tuple(tamper.update(update) for update in batch.updates)
    desired = Desired(name, SETTINGS, (Family.V4, Family.V6), "169.254.1.1")
    names = sorted(u.interface for u in updates if isinstance(u, EndpointSet))
    links = {n: LinkState(index=i, up=True) for i, n in enumerate((*names, *HOST_ADDRESSES), 1)}
    for interface, ip in HOST_ADDRESSES.items():
        links[interface] = replace_link(links[interface], addresses=frozenset({ip}))
    desired.set_links(links)
    for step in Feed().on_batch(replace(batch, updates=updates)):
        assert isinstance(step, Step), step
        desired.apply(step)
    return desired


def tables_text(desired: Desired, family: Family) -> list[str]:
    """Print what is fed to an empty kernel, table by table."""
    texts = []
    for table in TABLES:
        chains = desired.chains.tables[family, table]
        plan = plan_table(table, chains.desired, chains.jumps, TableState())
        if plan.now is not None:
            texts.append(plan.now.text)
    return texts


def sets_text(sets: AddressSets) -> str:
    """Print the desired sets as `ipset save` does."""
    specs = sorted(sets.specs.desired.items())
    return held_sets_text({name: (spec, sets.content(name).desired) for name, spec in specs})


def held_sets_text(
    held: Mapping[str, tuple[SetSpec, Mapping[Element, Mark | None]]],
) -> str:
    """Print sets as `ipset save` does."""
    lines = []
    for name, (spec, content) in sorted(held.items()):
        family = "inet6" if spec.family is Family.V6 else "inet"
        options = " skbinfo" if spec.skbinfo else ""
        lines.append(f"create {name} {spec.type} family {family}{options}")
        for element, mark in sorted(content.items()):
            port = f"{element.protocol}:{element.port}" if element.protocol else ""
            text = ",".join(part for part in (element.cidr, element.interface, port) if part)
            marked = f" skbmark {mark.value:#x}/{mark.mask:#x}" if mark is not None else ""
            lines.append(f"add {name} {text}{marked}")
    return "\n".join((*lines, ""))
