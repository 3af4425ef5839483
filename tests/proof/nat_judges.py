"""Both judges asked about addresses that are translated: floating ones, and pools that hide behind the host.

What the documents say is short enough to stand here: an external address is the endpoint's that claims it and
is the oldest; a packet for it is judged as one for the internal address. What leaves a pool for an address in
no pool leaves under its floating address if it has one, else, where the pool says natOutgoing, the host's.

Source: Calico, "Floating IPs", IPPool.natOutgoing; docs/guides/resources.md of this product.
"""

from collections.abc import Iterable
from random import Random

from msgspec.structs import replace

from hopwall_model.resources import IpNat, IPPool, IpPoolSpec, Metadata, WorkloadEndpoint
from tests.proof.cloud import Cloud, Flow, address, network
from tests.proof.judges import ARRIVAL, THROUGH, Disagreement, Tally, packet_of
from tests.proof.pipeline import NO_TAMPER, UPLINK, Tamper, hosts_of
from tests.proof.semantics import Judgement, Semantics
from tests.proof.strategies import cloud_of

HOST = "h1"
EXTERNAL = {4: tuple(f"203.0.113.{i}" for i in range(1, 6)), 6: ("2001:db8:f::1", "2001:db8:f::2")}
HIDDEN = "the host's address"


def nat_cloud_of(chance: Random) -> Cloud:
    """Make a cloud with pools, and endpoints with floating addresses; some claim the same one."""
    pools = (
        _pool("p4", "10.65.0.0/24", chance),
        _pool("q4", "10.66.0.0/16", chance),
        _pool("p6", "fd65::/64", chance),
    )
    found = [
        _floating(r, chance) if isinstance(r, WorkloadEndpoint) else r for r in cloud_of(chance)
    ]
    return (*pools[: chance.randint(0, 3)], *found)


def _pool(name: str, cidr: str, chance: Random) -> IPPool:
    spec = IpPoolSpec(cidr=cidr, nat_outgoing=chance.random() < 0.6)
    return IPPool(metadata=Metadata(name=name), spec=spec)


def _floating(endpoint: WorkloadEndpoint, chance: Random) -> WorkloadEndpoint:
    nats: list[IpNat] = []
    for version in (4, 6):
        own = [
            n.partition("/")[0] for n in endpoint.spec.ip_networks if (":" in n) == (version == 6)
        ]
        nats += [
            IpNat(internal_ip=chance.choice(own), external_ip=external)
            for external in chance.sample(EXTERNAL[version], chance.choice((0, 1, 1, 2)))
        ]
    return replace(endpoint, spec=replace(endpoint.spec, ip_nats=tuple(nats)))


class NatRig:
    """Host h1 of a cloud before both judges."""

    def __init__(self, resources: Cloud, tamper: Tamper = NO_TAMPER) -> None:
        self.semantics = Semantics(resources)
        self.host = hosts_of(resources, tamper).get(HOST)
        self.pools = [r.spec for r in resources if isinstance(r, IPPool)]
        self.floating: dict[str, tuple[WorkloadEndpoint, str]] = {}
        for endpoint in self.semantics.by_age():
            for nat in endpoint.spec.ip_nats:
                self.floating.setdefault(nat.external_ip, (endpoint, nat.internal_ip))
        for external, (endpoint, internal) in list(self.floating.items()):
            if self.semantics.owners[internal] is not endpoint:
                del self.floating[
                    external
                ]  # one to an address that the endpoint lost leads nowhere

    def translated(self, flow: Flow) -> Flow:
        """Return the flow as it is after destination NAT on this host."""
        owner, internal = self.floating.get(flow.destination, (None, ""))
        if owner is None or owner.spec.node != HOST:
            return flow
        return replace(flow, destination=internal)

    def leaves_as(self, flow: Flow) -> str:
        """Return the source address with which a translated flow of a workload leaves."""
        mine = sorted(
            (
                e
                for e, (owner, i) in self.floating.items()
                if i == flow.source and owner.spec.node == HOST
            ),
            key=address,
        )
        if mine and flow.source == flow.destination:
            return mine[0]
        from_pool, to_pool = self._in_pool(flow.source), self._in_pool(flow.destination)
        if from_pool is None or to_pool is not None:
            return flow.source
        if mine:
            return mine[0]
        return HIDDEN if self._hides(flow.source) else flow.source

    def _in_pool(self, text: str) -> IpPoolSpec | None:
        held = (pool for pool in self.pools if address(text) in network(pool.cidr))
        return next(held, None)

    def _hides(self, text: str) -> bool:
        return any(pool.nat_outgoing and address(text) in network(pool.cidr) for pool in self.pools)

    def disagreements(
        self, flows: Iterable[Flow], chance: Random, tally: Tally
    ) -> list[Disagreement]:
        """Ask both about first packets that come to the host; return where they differ."""
        found: list[Disagreement] = []
        for flow in flows:
            external = (*EXTERNAL[flow.version], *self.floating)
            given = replace(flow, state="NEW", sender="")
            if chance.random() < 0.5:
                there = chance.choice([e for e in external if (":" in e) == (flow.version == 6)])
                given = replace(given, destination=there)
            found += self._compare(given, tally)
        return found

    def _compare(self, flow: Flow, tally: Tally) -> list[Disagreement]:
        if self.host is None:
            return []
        after = self.translated(flow)
        sender, receiver = (
            self.semantics.owners.get(text) for text in (after.source, after.destination)
        )
        here = sender is not None and sender.spec.node == HOST
        judged = self.semantics.judge(after)
        arrives = receiver is not None and receiver.spec.node == HOST
        judged = Judgement(judged.egress if here else None, judged.ingress if arrives else None)
        tally.note(judged)
        said = (
            "deny" if "deny" in judged.verdicts else f"{after.destination} {self.leaves_as(after)}"
        )
        came_in = sender.spec.interface_name if sender is not None and here else UPLINK
        packet = packet_of(flow)
        tables = self.host.tables[flow.version]
        packet.came_in = came_in
        passes = tables.pass_hook(packet, *ARRIVAL)
        destination = str(type(address(flow.source))(packet.destination))
        packet.goes_out = self.host.way_to(destination)
        passes = passes and tables.pass_hook(packet, *THROUGH)
        source = HIDDEN if packet.masqueraded else str(type(address(flow.source))(packet.source))
        lines = f"{destination} {source}" if passes else "deny"
        if said == lines:
            return []
        where = f"from {came_in} to {packet.goes_out}"
        return [Disagreement(flow, where, said, lines, tuple(packet.trace))]
