"""JSON Schema components: made from the types, complete, and what OpenAPI refers to."""

import json
from typing import Any

from hopwall_model.resources import KINDS
from hopwall_model.schema import REF_TEMPLATE, components
from hopwall_model.status import HostStatus


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(_references(member) for member in node.values()))
    return (
        set().union(*(_references(member) for member in node)) if isinstance(node, list) else set()
    )


def test_every_kind_has_a_component() -> None:
    """Each kind and each extra type is there under its own name."""
    by_name, schemas = components((HostStatus,))
    for name in (*(kind.__name__ for kind in KINDS), "HostStatus"):
        assert by_name[name] == {"$ref": REF_TEMPLATE.format(name=name)}
        assert name in schemas


def test_every_reference_leads_somewhere() -> None:
    """No reference dangles, and the whole is JSON."""
    _, schemas = components()
    assert _references(schemas) <= {REF_TEMPLATE.format(name=name) for name in schemas}
    json.dumps(schemas)


def test_shapes_are_strict() -> None:
    """Unknown fields are refused by the schema too, and fields bear their wire names."""
    _, schemas = components()
    assert schemas["WorkloadEndpointSpec"]["additionalProperties"] is False
    assert "ipv4Gateway" in schemas["WorkloadEndpointSpec"]["properties"]
    assert schemas["WorkloadEndpoint"]["required"] == ["kind", "spec", "metadata"]
