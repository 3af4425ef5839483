"""What flows of this host are judged by now: the desired state, with the host's addresses and routes.

Pure.
"""

from hopwall_dataplane.conntrack.flow import HostAddresses
from hopwall_dataplane.conntrack.hosts import HostJudgement, WayTo
from hopwall_dataplane.conntrack.plan import Judgement
from hopwall_dataplane.desired import Desired


def judgement_of(desired: Desired, host: HostAddresses, way_to: WayTo) -> Judgement:
    """Return what to judge flows by; `host` are the host's own addresses, `way_to` tells interfaces."""
    return Judgement(
        classes=desired.residents.classes,
        policies=desired.chains.policies,
        sets=desired.sets.lookup,
        host=host,
        workload_to_host=desired.settings.workload_to_host,
        hosts=_hosts(desired, host, way_to),
    )


def _hosts(desired: Desired, host: HostAddresses, way_to: WayTo) -> HostJudgement | None:
    if not desired.hosts.has_placed:
        return None
    return HostJudgement(
        interfaces=desired.hosts.by_interface(),
        workloads=desired.residents.classes,
        extra=desired.extra_sources,
        host=host,
        policies=desired.chains.policies,
        sets=desired.sets.lookup,
        settings=desired.settings,
        way_to=way_to,
    )
