"""What a live migration declares: which endpoints a workload moves between.

Source: Calico v3, LiveMigration (internal API): fields and the rule about "k8s".
"""

import re

from msgspec import field

from hopwall_model.shapes import Shape

#: Of this orchestrator a workload's id tells it apart on all hosts, so hostnames are ignored.
UNIQUE_ORCHESTRATOR = "k8s"

#: "true" on a LiveMigration: the workload runs at the target now.
SWITCH_ANNOTATION = "hopwall.io/switch"
#: On a WorkloadEndpoint: of those of one workload that claim an address, the highest number has it.
GENERATION_ANNOTATION = "hopwall.io/move-generation"


_GENERATION = re.compile(r"\d{1,18}", re.ASCII)


def valid_generation(text: str) -> bool:
    """Tell whether the text can be a move generation."""
    return _GENERATION.fullmatch(text) is not None


class WorkloadIdentifier(Shape, frozen=True):
    """A workload on a host, with all its interfaces."""

    workload_id: str = field(name="workloadID")
    hostname: str = ""
    orchestrator_id: str = field(default="", name="orchestratorID")


class WorkloadEndpointIdentifier(Shape, frozen=True):
    """One interface of a workload on a host."""

    workload_id: str = field(name="workloadID")
    endpoint_id: str = field(name="endpointID")
    hostname: str = ""
    orchestrator_id: str = field(default="", name="orchestratorID")


class LiveMigrationSource(Shape, frozen=True):
    """Where the workload is: exactly one of the two."""

    workload: WorkloadIdentifier | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationTarget(Shape, frozen=True):
    """Where it will be: exactly one of the two. The selector means endpoints of the namespace."""

    selector: str = ""
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationSpec(Shape, frozen=True):
    """A move under way. Endpoints are of the migration's namespace."""

    source: LiveMigrationSource
    target: LiveMigrationTarget
