"""The first judge, of host endpoints: what the documents say of what a host sends, receives and forwards.

A packet passes, in this order: policies before connection tracking, policies before destination NAT, then
those of where it goes: the host itself, or on through it. Who is allowed by an earlier one is not asked again
by the host endpoints of the same way in. Failsafe ports are for the host's own traffic, before its policies; errors about
what was not judged yet are not sent, whatever policies say.

Source: Calico, "Protect hosts" and "Host endpoint"; docs/guides/resources.md of this product.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from hopwall_model.resources import (
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    HostEndpoint,
    WorkloadEndpoint,
)
from tests.proof.cloud import Flow
from tests.proof.semantics import Applying, Decision, Policy, Semantics, is_ordinary

#: (protocol, port): what stays open to the host, and from it.
SAFE_IN = frozenset({(6, 22)})
SAFE_OUT = frozenset({(17, 53)})
#: (family, protocol, type, code) of errors that a kernel sends of itself before it asks its lines; no host sends them.
EARLY = frozenset({(4, 1, 11, 1), (6, 58, 3, 1), (6, 58, 4, 0), (6, 58, 4, 2)})
ALL = "*"

OPEN = Decision("allow", "nobody has anything to say")


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet at a host: the interface it comes in by, and goes out by; "" for the host itself."""

    flow: Flow
    came_in: str
    goes_out: str


@dataclass
class HostSemantics:
    """Answers for one host. `addresses` are those of its interfaces that are no workload's."""

    semantics: Semantics
    host: str
    addresses: dict[str, str]
    by_interface: dict[str, HostEndpoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give each interface its host endpoint: the first by name of those that name it."""
        mine = [
            r
            for r in self.semantics.resources
            if isinstance(r, HostEndpoint) and r.spec.node == self.host
        ]
        mine.sort(key=lambda r: r.metadata.name)
        self.workloads = {
            e.spec.interface_name: e
            for e in self.semantics.endpoints.values()
            if e.spec.node == self.host
        }
        for interface, ip in self.addresses.items():
            named = [r for r in mine if _is_for(r, interface, ip)]
            named += [r for r in mine if r.spec.interface_name == ALL]
            if named:
                self.by_interface[interface] = named[0]

    def judge(self, passage: Passage) -> Decision:
        """Return what becomes of the packet."""
        flow = passage.flow
        into = self.by_interface.get(passage.came_in)
        out_of = self.by_interface.get(passage.goes_out)
        untracked = said = self._untracked(into, flow, "Ingress")
        if said is None and into is not None and flow.state == "NEW":
            said = self._before_dnat(into, flow)
        if said is not None and said.verdict == "deny":
            return said
        if untracked is not None:  # nothing knows of the flow from here on
            flow = replace(flow, state="NEW")
            passage = Passage(flow, passage.came_in, passage.goes_out)
        if not passage.came_in:
            return self._sent(passage, out_of)
        if not passage.goes_out:
            return self._received(passage, into, said)
        return self._forwarded(passage, into, out_of, said)

    # ------------------------------------------------------------ the places

    def _untracked(
        self, endpoint: HostEndpoint | None, flow: Flow, direction: str
    ) -> Decision | None:
        if endpoint is None or endpoint.spec.interface_name == ALL:
            return None
        to_here, from_here = _ports_of(flow)
        asked, answered = (SAFE_IN, SAFE_OUT) if direction == "Ingress" else (SAFE_OUT, SAFE_IN)
        if to_here in asked or from_here in answered:
            return None
        return self._first_word(endpoint, flow, direction, "do_not_track")

    def _before_dnat(self, endpoint: HostEndpoint, flow: Flow) -> Decision | None:
        if _ports_of(flow)[0] in SAFE_IN:
            return None
        return self._first_word(endpoint, flow, "Ingress", "pre_dnat")

    def _first_word(
        self, endpoint: HostEndpoint, flow: Flow, direction: str, flag: str
    ) -> Decision | None:
        among = [p for p in self.semantics.policies if _has(p, flag)]
        tiers = self.semantics.arranged(among, endpoint, direction)
        open_ended: list[Applying] = [(name, True, policies) for name, _, policies in tiers]
        return self.semantics.ask_tiers(open_ended, flow, direction)[0]

    def _sent(self, passage: Passage, endpoint: HostEndpoint | None) -> Decision:
        flow = passage.flow
        family = 6 if ":" in flow.source else 4
        if (family, flow.protocol, flow.icmp_type, flow.icmp_code) in EARLY:
            return Decision("deny", "an error about what no line had judged")
        if endpoint is None:
            return OPEN
        said = self._untracked(endpoint, flow, "Egress")
        return said or self._own(endpoint, flow, "Egress", SAFE_OUT)

    def _received(
        self, passage: Passage, endpoint: HostEndpoint | None, said: Decision | None
    ) -> Decision:
        flow = passage.flow
        if workload := self.workloads.get(passage.came_in):
            return self.semantics.leaving(workload, flow)
        if endpoint is None or said is not None:
            return said or OPEN
        return self._own(endpoint, flow, "Ingress", SAFE_IN)

    def _own(
        self,
        endpoint: HostEndpoint,
        flow: Flow,
        direction: str,
        safe: frozenset[tuple[int, int]],
    ) -> Decision:
        """Judge what the host itself sends or receives."""
        if flow.state != "NEW":
            return Decision("allow", "established")
        if _ports_of(flow)[0] in safe:
            return Decision("allow", "failsafe")
        among = [p for p in self.semantics.policies if is_ordinary(p)]
        tiers = self.semantics.arranged(among, endpoint, direction)
        decided, n_passes = self.semantics.ask_tiers(tiers, flow, direction)
        return decided or self.semantics.ask_profiles(endpoint, flow, direction, n_passes)

    def _forwarded(
        self,
        passage: Passage,
        into: HostEndpoint | None,
        out_of: HostEndpoint | None,
        said: Decision | None,
    ) -> Decision:
        flow = passage.flow
        decisions = []
        if into is not None and said is None:
            decisions.append(self._forward(into, flow, "Ingress"))
        if workload := self.workloads.get(passage.came_in):
            decisions.append(self.semantics.leaving(workload, flow))
        if out_of is not None:
            decisions.append(self._forward(out_of, flow, "Egress"))
        if workload := self.workloads.get(passage.goes_out):
            decisions.append(self._arriving(workload, flow))
        return next((d for d in decisions if d.verdict == "deny"), [said or OPEN, *decisions][-1])

    def _arriving(self, workload: WorkloadEndpoint, flow: Flow) -> Decision:
        if flow.state != "NEW":
            return Decision("allow", "established")
        return self.semantics.decide(workload, flow, "Ingress")

    def _forward(self, endpoint: HostEndpoint, flow: Flow, direction: str) -> Decision:
        """Judge what is forwarded: without a policy for it in this direction it is open."""
        if flow.state != "NEW":
            return Decision("allow", "established")
        among = [
            p for p in self.semantics.policies if is_ordinary(p) and _has(p, "apply_on_forward")
        ]
        tiers = self.semantics.arranged(among, endpoint, direction)
        return self.semantics.ask_tiers(tiers, flow, direction)[0] or OPEN


def _is_for(endpoint: HostEndpoint, interface: str, ip: str) -> bool:
    spec = endpoint.spec
    if spec.interface_name:
        return spec.interface_name == interface
    return ip in {given.partition("/")[0] for given in spec.expected_ips}


def _has(policy: Policy, flag: str) -> bool:
    if not isinstance(policy, GlobalNetworkPolicy):
        return False
    spec: GlobalNetworkPolicySpec = policy.spec
    return bool(getattr(spec, flag))


def _ports_of(flow: Flow) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (protocol, port) of where the packet goes, and of where it comes from."""
    return (flow.protocol, flow.destination_port), (flow.protocol, flow.source_port)
