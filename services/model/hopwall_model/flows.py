"""dataplane → dataplane: the flows of a workload that has moved, for its new host to know them.

Asked by the target of a live migration, when it is declared and at the switch; answered by the source's host.
"""

from msgspec import Struct

from hopwall_model.updates import EndpointId


class FlowsRequest(Struct, frozen=True, kw_only=True):
    """Ask the source's host for the flows of an endpoint that is being moved to the asking host."""

    #: Who asks: the target's host.
    host: str
    #: The source of the migration, and the migration as in its `Move`.
    endpoint: EndpointId
    migration: str


class CarriedFlow(Struct, frozen=True, array_like=True, gc=False):
    """An established flow without translation, as its first packet had it.

    Shape: addresses are canonical text of one family.
    """

    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int


class CarriedFlows(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: what the source's host tracks of the endpoint's shared addresses."""

    host: str
    #: The endpoint is the source of that migration here, or was until just now; else ask again, as calc's word
    #: may still be on its way.
    known: bool = False
    flows: tuple[CarriedFlow, ...] = ()
