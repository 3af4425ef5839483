"""Kind names as people type them: plural, singular or short, in any case. No I/O."""

from hopwall_cli.errors import Usage
from hopwall_model.resources import KINDS, Resource

#: Short names of calicoctl and kubectl beside our own.
_ALSO = {
    "WorkloadEndpoint": ("weps",),
    "GlobalNetworkPolicy": ("gnps",),
    "NetworkPolicy": ("netpol",),
    "IPPool": ("ippool",),
    "IPAMConfiguration": ("ipamconfigs",),
    "Node": ("host",),
}


def names_of(kind: type[Resource]) -> tuple[str, ...]:
    """Return every name of a kind, lower case, the plural first."""
    return (kind.PLURAL, kind.__name__.lower(), kind.SHORT, *_ALSO.get(kind.__name__, ()))


_BY_NAME: dict[str, type[Resource]] = {name: kind for kind in KINDS for name in names_of(kind)}


def kind_named(text: str) -> type[Resource]:
    """Return the kind that a person means.

    Errors: Usage names all kinds.
    """
    kind = _BY_NAME.get(text.lower())
    if kind is None:
        known = ", ".join(sorted(k.PLURAL for k in KINDS))
        raise Usage(f"There is no kind {text!r}; the kinds are {known}.")
    return kind
