"""What a caller of address management is told. Pure: from the view to values."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from hopwall_api.ipam.spans import number_of, span_of
from hopwall_api.ipam.view import Block, View
from hopwall_model.ipam_specs import IpamAllocation


class AddressView(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One address. `handle` is absent when nobody has it, `block` when no block holds it.

    Shape: `borrowed` when the block is not of the host the address was assigned for: others reach it by a
           route of its own, not by the block's. `endpoints` use it, as namespace/name.
    """

    address: str
    handle: str = ""
    node: str = ""
    pool: str = ""
    block: str = ""
    #: Which host has the block.
    host: str = ""
    borrowed: bool = False
    attributes: dict[str, str] = {}
    assigned_at: str = ""
    released_at: str = ""
    endpoints: tuple[str, ...] = ()


class Assignment(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="kind"
):
    """All addresses of a handle, IPv4 first, as of a revision."""

    handle: str
    addresses: tuple[AddressView, ...]
    resource_version: str


class ReleaseAnswer(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="kind"
):
    """What was taken back; what nobody had; the blocks that lost their host."""

    released: tuple[str, ...]
    not_assigned: tuple[str, ...]
    blocks: tuple[str, ...]
    resource_version: str


class BlockSummary(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One block in numbers. `resting`: released, and not yet to be used again."""

    cidr: str
    host: str
    pool: str
    n_addresses: int
    n_assigned: int
    n_borrowed: int
    n_resting: int
    crossing: bool = False
    #: It cannot be read: its range is kept, and nothing is assigned from it.
    unreadable: bool = False


class BlockList(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Blocks in the order of their addresses, IPv4 first."""

    items: tuple[BlockSummary, ...]


class Fault(Struct, frozen=True, kw_only=True):
    """One thing that does not fit. `what` is of a fixed list, `about` an address, a range, or kind and name."""

    what: str
    about: str
    detail: str


class CheckReport(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """How assignments and endpoints fit together; `counts` has all faults, `faults` the first."""

    n_blocks: int
    n_assigned: int
    counts: dict[str, int]
    faults: tuple[Fault, ...]


def address_view(view: View, address: str) -> AddressView:
    """Return what is known of an address."""
    span = span_of(address)
    pool, block = view.pool_of(span), view.block_at(address)
    keys = view.endpoints_at.get((span.family, number_of(address)), ())
    known = {
        "address": address,
        "pool": pool.name if pool is not None else "",
        "endpoints": tuple(f"{key.namespace}/{key.name}" for key in keys),
    }
    if block is None:
        return AddressView(**known)  # type: ignore[arg-type]
    known |= {"block": block.spec.cidr, "host": block.spec.host}
    for one in block.spec.allocations:
        if one.address == address:
            return AddressView(
                **known,  # type: ignore[arg-type]
                handle=one.handle,
                node=one.node,
                borrowed=one.node != block.spec.host,
                attributes=one.attributes,
                assigned_at=one.assigned_at,
            )
    at = next((r.released_at for r in block.spec.released if r.address == address), "")
    return AddressView(**known, released_at=at)  # type: ignore[arg-type]


def summary(view: View, block: Block, rested: str) -> BlockSummary:
    """Return a block in numbers."""
    pool = view.pool_of(block.span)
    return BlockSummary(
        cidr=block.spec.cidr,
        host=block.spec.host,
        pool=pool.name if pool is not None else "",
        n_addresses=block.span.size,
        n_assigned=len(block.spec.allocations),
        n_borrowed=sum(one.node != block.spec.host for one in block.spec.allocations),
        n_resting=sum(one.released_at > rested for one in block.spec.released),
        crossing=block.name in view.crossing,
        unreadable=bool(block.fault),
    )


# ---------------------------------------------------------------- check


def pool_faults(view: View) -> Iterator[Fault]:
    """Yield pools that share addresses: blocks never do, but which pool an address is of is open."""
    pools = [(name, cidr, span_of(cidr)) for name, cidr in sorted(view.pool_ranges.items())]
    for index, (name, _, span) in enumerate(pools):
        for other, cidr, others in pools[index + 1 :]:
            if span.overlaps(others):
                detail = f"The IPPools {name} and {other} share addresses."
                yield Fault(what="pools-overlap", about=cidr, detail=detail)


def unreadable_faults(view: View) -> Iterator[Fault]:
    """Yield what is stored and cannot be read: it came past the checks, and the next valid write mends it."""
    for key, fault in sorted(view.faults.items()):
        name = f"{key.namespace}/{key.name}" if key.namespace else key.name
        detail = f"It cannot be read ({fault}); write it anew or delete it."
        yield Fault(what="unreadable", about=f"{key.kind} {name}", detail=detail)


def block_faults(view: View, blocks: Iterable[Block]) -> Iterator[Fault]:
    """Yield what does not fit in these blocks."""
    for block in blocks:
        cidr, host = block.spec.cidr, block.spec.host
        if block.name in view.crossing:
            others = [o.spec.cidr for o in view.overlapping(block.span) if o is not block]
            yield Fault(what="crossing", about=cidr, detail=f"Overlaps {', '.join(others)}.")
        if view.pool_of(block.span) is None:
            yield Fault(what="out-of-pool", about=cidr, detail="No IPPool holds this block.")
        if host and host not in view.nodes:
            detail = f"Node {host} does not exist; release its blocks."
            yield Fault(what="no-host", about=cidr, detail=detail)
        seen = {one.address for one in block.spec.allocations}
        if len(seen) != len(block.spec.allocations):
            yield Fault(what="double", about=cidr, detail="An address is assigned twice.")
        for one in block.spec.allocations:
            if (block.span.family, number_of(one.address)) not in view.endpoints_at:
                yield Fault(what="unused", about=one.address, detail=_unused(one))


def _unused(one: IpamAllocation) -> str:
    return f"The handle {one.handle} has it since {one.assigned_at}, and no endpoint uses it."


def use_faults(view: View, addresses: Iterable[str]) -> Iterator[Fault]:
    """Yield what does not fit with these addresses, which endpoints use."""
    for address in addresses:
        found = address_view(view, address)
        who = " and ".join(found.endpoints)
        if len(found.endpoints) > 1:
            yield Fault(what="shared", about=address, detail=f"{who} use it all.")
        if found.pool and not found.handle:
            yield Fault(what="not-assigned", about=address, detail=f"{who} uses it.")
