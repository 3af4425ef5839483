"""The types as JSON Schema components, for OpenAPI 3.1: one description, made from the types.

Source: JSON Schema 2020-12, the dialect of OpenAPI 3.1.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from hopwall_model.resources import KINDS

REF_TEMPLATE = "#/components/schemas/{name}"


def components(extra: Iterable[Any] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how to refer to each type, and the schemas of all they are made of.

    Shape: ({type name: {"$ref": …}}, {schema name: schema}), for every kind and the `extra` types.
    """
    types = (*KINDS, *extra)
    references, schemas = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    by_name = {
        type_.__name__: reference for type_, reference in zip(types, references, strict=True)
    }
    return by_name, schemas
