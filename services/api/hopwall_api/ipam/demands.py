"""What a caller of address management asks for, as it stands in a request's body.

Pure. `assign_of` and `release_of` are the only ways in: what they return is canonical and within limits.
"""

from typing import Annotated, Any, TypeVar

from msgspec import Meta, field
from msgspec.structs import replace

from hopwall_api import problems
from hopwall_model import cidr
from hopwall_model import validate_fields as check
from hopwall_model.problems import Code, Findings, Invalid, step
from hopwall_model.resource_names import DEFAULT_NAMESPACE, MAX_ENDPOINT_ADDRESSES
from hopwall_model.shapes import Shape
from hopwall_model.validate_ipam import attributes, handle
from hopwall_model.validate_json import shape

#: Addresses in one release.
MAX_RELEASE = 1000

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=MAX_ENDPOINT_ADDRESSES)]


class Assign(Shape, frozen=True):
    """A handle shall have so many addresses on a host.

    `v4` and `v6` say how many it shall have in the end, those it has already and the named ones included.
    """

    handle: str
    node: str
    v4: Count = 0
    v6: Count = 0
    #: Exactly these, beside whatever else is needed.
    addresses: Annotated[tuple[str, ...], Meta(max_length=MAX_ENDPOINT_ADDRESSES)] = ()
    #: Names of pools to take from, best first; empty: every pool that is for this host and namespace.
    pools: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    namespace: str = DEFAULT_NAMESPACE
    attributes: dict[str, str] = field(default_factory=dict)


class Release(Shape, frozen=True):
    """Addresses that nobody needs any more: these, or all of a handle; or the blocks of a host.

    With a handle beside addresses only what is this handle's is released. The blocks of a host that is declared, has
    endpoints or speaks are released by `force` alone.
    """

    addresses: Annotated[tuple[str, ...], Meta(max_length=MAX_RELEASE)] = ()
    handle: str = ""
    node: str = ""
    force: bool = False


def assign_of(document: Any) -> Assign:
    """Return what is asked for.

    Errors: ApiProblem 422.
    """
    found = Findings()
    wanted = _shaped(found, document, Assign)
    handle(found, "/handle", wanted.handle)
    check.name(found, "/node", wanted.node)
    check.dns_label(found, "/namespace", wanted.namespace)
    attributes(found, "/attributes", wanted.attributes)
    for index, name in enumerate(wanted.pools):
        check.name(found, step("/pools", index), name)
    if not (wanted.v4 or wanted.v6 or wanted.addresses):
        found.add("", "Ask for something: v4, v6 or addresses.", Code.MISSING)
    wanted = replace(
        wanted,
        addresses=_addresses(found, wanted.addresses),
        pools=tuple(dict.fromkeys(wanted.pools)),
    )
    _stop(found)
    return wanted


def release_of(document: Any) -> Release:
    """Return what is to be released.

    Errors: ApiProblem 422.
    """
    found = Findings()
    wanted = _shaped(found, document, Release)
    if wanted.handle:
        handle(found, "/handle", wanted.handle)
    if wanted.node:
        check.name(found, "/node", wanted.node)
    if not (wanted.addresses or wanted.handle or wanted.node):
        found.add("", "Say what to release: addresses, a handle, or a node.", Code.MISSING)
    if wanted.node and (wanted.addresses or wanted.handle):
        reason = "A node's blocks are released alone; leave addresses and handle out."
        found.add("/node", reason, Code.CONFLICT)
    if wanted.force and not wanted.node:
        found.add("/force", "Force is for the blocks of a node; leave it out.", Code.CONFLICT)
    wanted = replace(wanted, addresses=_addresses(found, wanted.addresses))
    _stop(found)
    return wanted


def address_of(text: str) -> str:
    """Return one address of a path in canonical text.

    Errors: ApiProblem 400.
    """
    try:
        return cidr.parse_ip(text)
    except ValueError as error:
        raise problems.bad_request(str(error)) from error


def _addresses(found: Findings, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return single addresses, which may be written as /32 or /128, in canonical text."""
    good: dict[str, None] = {}
    for index, text in enumerate(texts):
        place = step("/addresses", index)
        net = found.parsed(place, cidr.parse_cidr, text)
        if cidr.is_host_cidr(cidr.Cidr(net)):
            good[cidr.address_of(cidr.Cidr(net))] = None
        elif "/" in net:
            found.add(place, f"{net} is not a single address.")
    return tuple(good)


def _shaped(found: Findings, document: Any, type_: type[T]) -> T:
    if not isinstance(document, dict):
        found.add("", "The body is a JSON object.", Code.SHAPE)
        _stop(found)
    value = shape(found, document, type_)
    _stop(found)
    assert value is not None
    return value


def _stop(found: Findings) -> None:
    try:
        found.stop()
    except Invalid as error:
        raise problems.from_invalid(error) from error
