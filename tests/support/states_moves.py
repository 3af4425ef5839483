"""States of clouds in which workloads move, and short ways to say it."""

from typing import Any

from hopwall_model.migration_specs import (
    LiveMigrationSource,
    LiveMigrationSpec,
    LiveMigrationTarget,
    WorkloadEndpointIdentifier,
    WorkloadIdentifier,
)
from hopwall_model.resources import LiveMigration, Metadata, WorkloadEndpoint
from tests.support.states import POLICED, State, endpoint, nat


def interface(
    host: str,
    *addresses: str,
    workload: str = "vm1",
    card: str = "eth0",
    orchestrator: str = "openstack",
    name: str = "",
    generation: int = 0,
    **more: Any,
) -> WorkloadEndpoint:
    """Return an interface of a workload on a host."""
    made = endpoint(
        name or f"{host}-{workload}-{card}",
        host,
        *addresses,
        workload=workload,
        endpoint=card,
        orchestrator=orchestrator,
        **more,
    )
    if generation:
        made.metadata.annotations["hopwall.io/move-generation"] = str(generation)
    return made


def identifier(
    host: str, workload: str = "vm1", card: str = "eth0", orchestrator: str = "openstack"
) -> WorkloadEndpointIdentifier:
    """Return how a migration names an interface."""
    return WorkloadEndpointIdentifier(
        hostname=host, orchestrator_id=orchestrator, workload_id=workload, endpoint_id=card
    )


def migration(
    source: LiveMigrationSource | str,
    target: LiveMigrationTarget | str,
    name: str = "move",
    *,
    created: str | None = None,
    uid: str | None = None,
    switch: bool = False,
    namespace: str = "default",
) -> LiveMigration:
    """Return a migration of vm1's eth0 between two hosts, or between whatever is given."""
    if isinstance(source, str):
        source = LiveMigrationSource(workload_endpoint=identifier(source))
    if isinstance(target, str):
        target = LiveMigrationTarget(workload_endpoint=identifier(target))
    annotations = {"hopwall.io/switch": "true"} if switch else {}
    meta = Metadata(
        name=name,
        namespace=namespace,
        annotations=annotations,
        creation_timestamp=created,
        uid=uid,
    )
    return LiveMigration(metadata=meta, spec=LiveMigrationSpec(source=source, target=target))


def all_of(workload: str, host: str = "", orchestrator: str = "k8s") -> LiveMigrationSource:
    """Return a source that is a workload with all its interfaces."""
    return LiveMigrationSource(
        workload=WorkloadIdentifier(
            hostname=host, orchestrator_id=orchestrator, workload_id=workload
        )
    )


V4, V6, FLOAT = "10.65.0.50/32", "fd00::50/128", "192.0.2.50"
NATS = (nat(FLOAT, "10.65.0.50"),)
WEB = {"role": "web"}
HERE = interface("h1", V4, V6, labels=WEB, created="2024", ip_nats=NATS)
THERE = interface("h2", V4, V6, labels=WEB, created="2025", ip_nats=NATS)

SETTLED = POLICED.with_("a workload at rest", HERE)
DECLARED = SETTLED.with_("a migration to nowhere yet", migration("h1", "h2"))
PAIRED = DECLARED.with_("source and target", THERE)
SWITCHED = PAIRED.with_("the switch", migration("h1", "h2", switch=True))
LATE = SWITCHED.without("the migration ended, the source is still declared", migration("h1", "h2"))
DONE = LATE.without("the source is gone", HERE)
CANCELLED = PAIRED.without("target and migration are gone", THERE, migration("h1", "h2"))
BACK = LATE.with_("back at once", migration("h2", "h1", "back", created="2026"))
BACK_TWICE = SWITCHED.with_(
    "back while the first migration is still declared",
    migration("h2", "h1", "back", created="2026"),
)
BACK_DONE = BACK.without("back, what was left is gone", THERE).without(
    "and the migration", migration("h2", "h1", "back")
)
GENERATIONS = LATE.with_(
    "a stale endpoint comes back late",
    interface("h2", V4, V6, labels=WEB, created="2025", ip_nats=NATS, generation=2),
    interface("h1", V4, labels=WEB, created="2027", generation=1),
)
TO_THIRD = SWITCHED.with_(
    "on to a third host while the first move lasts",
    interface("h3", V4, labels=WEB, created="2026"),
    migration("h2", "h3", "on", created="2026"),
)
STRANGER = PAIRED.with_(
    "an older stranger claims an address of both",
    endpoint("old", "h3", V4, created="2020"),
)
UNCLEAR = PAIRED.with_(
    "two targets", interface("h3", V4, name="h3-twin", created="2026"), migration("h1", "h2")
).with_(
    "selected ones",
    migration(
        LiveMigrationSource(workload_endpoint=identifier("h1")),
        LiveMigrationTarget(selector="role == 'web' || !has(role)"),
    ),
)
SAME_HOST = PAIRED.with_("both on one host", interface("h1", V4, name="h2-vm1-eth0"))
COLD = SETTLED.with_("it is declared elsewhere as well", THERE)
COLD_PUT = SETTLED.with_(
    "it is declared elsewhere", interface("h2", V4, V6, labels=WEB, name="h1-vm1-eth0")
)

LAUNCHER = {"vmi": "a"}
POD_HERE = interface(
    "h1", V4, workload="", pod="launcher-1", orchestrator="k8s", labels=LAUNCHER, created="2024"
)
POD_HERE_2 = interface(
    "h1",
    "10.65.0.51/32",
    workload="",
    pod="launcher-1",
    card="eth1",
    orchestrator="k8s",
    labels=LAUNCHER,
)
POD_THERE = interface(
    "h2",
    V4,
    "10.65.0.51/32",
    workload="",
    pod="launcher-2",
    orchestrator="k8s",
    labels=LAUNCHER,
    name="there",
)
PODS = POLICED.with_(
    "pods, the target selected",
    POD_HERE,
    interface(
        "h2", V4, workload="", pod="launcher-2", orchestrator="k8s", labels=LAUNCHER, name="there"
    ),
    migration(all_of("default/launcher-1"), LiveMigrationTarget(selector="vmi == 'a'")),
)
PODS_UNCLEAR = PODS.with_("a target of two sources", POD_HERE_2, POD_THERE)
PODS_RELABELLED = PODS.with_(
    "the target is selected no more",
    interface("h2", V4, workload="", pod="launcher-2", orchestrator="k8s", name="there"),
)

#: Walked as those of `states`.
MOVE_WALKS: dict[str, list[State]] = {
    "migration": [SETTLED, DECLARED, PAIRED, SWITCHED, LATE, DONE],
    "cancelled": [DECLARED, PAIRED, CANCELLED, SETTLED, PAIRED, SETTLED],
    "back": [SWITCHED, LATE, BACK, BACK_DONE, SETTLED, SWITCHED, BACK_TWICE, BACK],
    "generations": [LATE, GENERATIONS, LATE, TO_THIRD, SWITCHED],
    "unclear": [PAIRED, STRANGER, PAIRED, UNCLEAR, SAME_HOST, PAIRED],
    "cold": [SETTLED, COLD, COLD_PUT, SETTLED, COLD],
    "pods": [PODS, PODS_UNCLEAR, PODS, PODS_RELABELLED, PODS],
}
