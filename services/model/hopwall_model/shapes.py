"""The base of every part of a resource."""

from msgspec import Struct


class Shape(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename="camel",
):
    """The base of every part of a resource: immutable, strict, camel case on the wire."""
