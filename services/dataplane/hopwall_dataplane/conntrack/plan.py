"""Flows and the present policy → which of them change, and how.

A flow is revoked when a new packet of its first direction would be denied now. It is marked and not deleted:
of a deleted flow the other side's next packet makes a new one, in the other direction, which other policies
judge (decision 12).

Pure.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hopwall_dataplane.classes import PolicyClass
from hopwall_dataplane.conntrack.flow import (
    DeleteFlow,
    Flow,
    FlowOp,
    HostAddresses,
    MarkFlow,
)
from hopwall_dataplane.conntrack.hosts import HostJudgement, packet_of
from hopwall_dataplane.iptables.render_policy import Direction
from hopwall_dataplane.judge import Packet, Sets, decide
from hopwall_model.updates import PolicyId, PolicySet


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a flow is judged by.

    Shape: `classes` is packed address → class of each workload of this host.
    """

    classes: Mapping[bytes, PolicyClass]
    policies: Mapping[PolicyId, PolicySet]
    sets: Sets
    host: HostAddresses
    workload_to_host: Literal["drop", "accept", "return"]
    #: None where there is no host endpoint.
    hosts: HostJudgement | None = None

    def is_denied(self, flow: Flow) -> bool:
        """Tell whether a new packet like the flow's first would be dropped here, for whose policy it is.

        What the host itself sends to its workloads is not policed.
        """
        by_workload = self._is_denied_by_workloads(flow)
        return by_workload or (self.hosts is not None and self.hosts.is_denied(flow))

    def _is_denied_by_workloads(self, flow: Flow) -> bool:
        if flow.source in self.host:
            return False
        source = self.classes.get(flow.source)
        destination = self.classes.get(flow.destination)
        packet = packet_of(flow)
        if source is not None:
            if not self._allows(source, "egress", packet):
                return True
            if flow.destination in self.host:
                return self.workload_to_host == "drop"
        return destination is not None and not self._allows(destination, "ingress", packet)

    def _allows(self, of: PolicyClass, direction: Direction, packet: Packet) -> bool:
        key = of.key
        return (
            decide(key.tiers, key.profiles, direction, packet, self.policies, self.sets) == "allow"
        )


def plan_flows(
    flows: Iterable[Flow], is_denied: Callable[[Flow], bool], left: frozenset[bytes], bits: int
) -> list[FlowOp]:
    """Return what must be done to these flows.

    Shape:  `left` are (packed) addresses that left: what they had ends, and is nobody's who comes after;
            `bits` of a flow's mark are all set where it is revoked.
    Cost:   O(flows).
    """
    ops: list[FlowOp] = []
    for flow in flows:
        if left and not left.isdisjoint(flow.ends):
            ops.append(DeleteFlow(flow))
        elif (revoked := is_denied(flow)) != (flow.mark & bits == bits):
            ops.append(MarkFlow(flow, revoked))
    return ops
