"""What address management knows: pools, blocks, reservations, hosts, and which addresses are in use.

Pure. An index over the store's fold: handles and free ranges are looked up here and stored nowhere. It
follows the store's changes, and is built again where these are not remembered.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

from msgspec import Struct

from hopwall_api.ipam.sound import fault_of, range_of
from hopwall_api.ipam.spans import Span, number_of, span_of
from hopwall_api.store import Change, Store, Stored, TooOld
from hopwall_model import selectors
from hopwall_model.cidr import Cidr, Family, address_of, family_of, length_of
from hopwall_model.ipam_specs import (
    DEFAULT_BLOCK_SIZES,
    IpamBlockSpec,
    IpamConfigurationSpec,
)
from hopwall_model.resources import (
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IpPoolSpec,
    IPReservation,
    Key,
    Node,
    NodeSpec,
    Resource,
    WorkloadEndpoint,
)
from hopwall_model.selectors import Selector

KINDS = ("IPPool", "IPReservation", "IPAMConfiguration", "IPAMBlock", "Node", "WorkloadEndpoint")
_PER_TURN = 10_000
_USUAL = IpamConfigurationSpec()


class Pool(Struct, frozen=True, kw_only=True):
    """A pool, read once."""

    name: str
    span: Span
    #: Prefix length of its blocks.
    block_size: int
    spec: IpPoolSpec
    nodes: Selector
    namespaces: Selector


class Block(Struct, frozen=True, kw_only=True):
    """A block, and the revision at which its range was claimed (0: before what we know).

    Shape: of one that cannot be read `fault` says why; it has its range alone, and nothing is assigned from it.
    """

    name: str
    spec: IpamBlockSpec
    span: Span
    claimed: int
    fault: str = ""


class View:
    """The index. Owner: `follow` alone changes it."""

    def __init__(self) -> None:
        self._lineage = -1
        self.revision = 0
        #: The revision at which it was built: all that is in it with `claimed` 0 was there by then.
        self.built = 0
        self._clear()

    def _clear(self) -> None:
        #: What is stored and cannot be read, with what is wrong with it. All but the range of a block or pool is as
        #: if it were absent.
        self.faults: dict[Key, str] = {}
        self.settings = _USUAL
        self.pools: dict[str, Pool] = {}
        #: The ranges of all pools, also of those that cannot be read.
        self.pool_ranges: dict[str, str] = {}
        self.reservations: dict[str, tuple[Span, ...]] = {}
        self.nodes: dict[str, Mapping[str, str]] = {}
        self.blocks: dict[str, Block] = {}
        #: host → names of its blocks; "" has those that are no host's.
        self.blocks_of_host: dict[str, list[str]] = {}
        #: Blocks that share addresses with another; nothing is assigned from them.
        self.crossing: set[str] = set()
        #: handle → its addresses, in order.
        self.addresses_of_handle: dict[str, tuple[str, ...]] = {}
        #: address as (family, number) → the endpoints that use it.
        self.endpoints_at: dict[tuple[Family, int], tuple[Key, ...]] = {}
        #: host → how many endpoints are on it.
        self.endpoints_on: dict[str, int] = {}
        self._hosts_at: dict[tuple[Family, int], int] = {}
        #: By family, sorted: first number and name of each block.
        self._order: dict[Family, list[tuple[int, str]]] = {4: [], 6: []}
        #: By family: addresses of the widest block there has been.
        self._widest: dict[Family, int] = {4: 1, 6: 1}

    # ------------------------------------------------------------ following

    def follow(self, store: Store) -> None:
        """Take in what the store has folded since the last call.

        Cost: O(changes), and O(everything) when the store began again from another history.
        """
        if not store.in_sync:
            return
        if store.lineage != self._lineage:
            self._build(store)
            return
        try:
            while changes := store.changes_since(self.revision, _PER_TURN):
                for change in changes:
                    self._fold(change)
                self.revision = changes[-1].revision
        except TooOld:
            self._build(store)
        self.revision = store.revision

    def _build(self, store: Store) -> None:
        self._clear()
        for kind in KINDS:
            after = None
            while some := store.page(kind, None, at=store.revision, after=after, n=_PER_TURN):
                for stored in some:
                    metadata = stored.resource.metadata
                    after = (metadata.namespace or "", metadata.name)
                    # Its range was claimed now only if it was written once.
                    at = stored.revision if metadata.generation == 1 else 0
                    self._put(Key(kind, *after), None, stored, at)
        self._lineage, self.revision = store.lineage, store.revision
        self.built = store.revision

    def _fold(self, change: Change) -> None:
        if change.key.kind in KINDS:
            self._put(change.key, change.before, change.after, change.revision)

    def _put(self, key: Key, before: Stored | None, after: Stored | None, at: int) -> None:
        had_fault = self.faults.pop(key, "")
        old = before.resource if before is not None and not had_fault else None
        new = after.resource if after is not None else None
        if new is not None and (fault := fault_of(new)):
            self.faults[key], new = fault, None
        match key.kind:
            case "IPAMBlock":
                self._put_block(key.name, after.resource if after is not None else None, at)
            case "WorkloadEndpoint":
                self._put_endpoint(key, old, new)
            case "Node":
                self._put_node(key.name, old, new)
            case "IPPool":
                self._put_pool(key.name, after.resource if after is not None else None)
            case _:
                self._put_setting(key.name, key.kind, new)

    def _put_pool(self, name: str, stored: Resource | None) -> None:
        self.pools.pop(name, None)
        self.pool_ranges.pop(name, None)
        if not isinstance(stored, IPPool):
            return
        if Key("IPPool", "", name) not in self.faults:
            self.pools[name] = _pool(name, stored.spec)
            self.pool_ranges[name] = stored.spec.cidr
        elif kept := range_of(stored):
            self.pool_ranges[name] = kept

    def _put_setting(self, name: str, kind: str, new: Resource | None) -> None:
        if kind == "IPAMConfiguration":
            self.settings = new.spec if isinstance(new, IPAMConfiguration) else _USUAL
        elif isinstance(new, IPReservation):
            self.reservations[name] = tuple(span_of(net) for net in new.spec.reserved_cidrs)
        else:
            self.reservations.pop(name, None)

    def _put_node(self, name: str, old: Resource | None, new: Resource | None) -> None:
        for resource, step in ((old, -1), (new, 1)):
            for place in _host_addresses(resource.spec) if isinstance(resource, Node) else ():
                n = self._hosts_at.pop(place, 0) + step
                if n:
                    self._hosts_at[place] = n
        if new is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = new.metadata.labels

    def _put_endpoint(self, key: Key, old: Resource | None, new: Resource | None) -> None:
        for resource, step in ((old, -1), (new, 1)):
            if isinstance(resource, WorkloadEndpoint):
                host = resource.spec.node
                n = self.endpoints_on.pop(host, 0) + step
                if n:
                    self.endpoints_on[host] = n
        before = old.spec.ip_networks if isinstance(old, WorkloadEndpoint) else ()
        after = new.spec.ip_networks if isinstance(new, WorkloadEndpoint) else ()
        if before == after:
            return
        for net in before:
            place = _place(net)
            left = tuple(other for other in self.endpoints_at.pop(place, ()) if other != key)
            if left:
                self.endpoints_at[place] = left
        for net in after:
            place = _place(net)
            self.endpoints_at[place] = (*self.endpoints_at.get(place, ()), key)

    # ------------------------------------------------------------ blocks

    def _put_block(self, name: str, stored: Resource | None, at: int) -> None:
        after = self._block(name, stored, at)
        known = self.blocks.get(name)
        if known is not None and after is not None and known.span != after.span:
            # It could not be read, so its range was another one.
            self._put_block(name, None, at)
        before = self.blocks.pop(name, None)
        if before is not None and after is None:
            self._unplace(before)
        elif before is None and after is not None:
            self._insert(after)
        if after is not None:
            self.blocks[name] = after
        self._move(name, before, after)
        self._put_handles(before, after)

    def _block(self, name: str, stored: Resource | None, at: int) -> Block | None:
        """Return the block as it is known; None when there is none, or nothing says which range it has."""
        if not isinstance(stored, IPAMBlock):
            return None
        before, spec = self.blocks.get(name), stored.spec
        if fault := self.faults.get(Key("IPAMBlock", "", name), ""):
            spec = IpamBlockSpec(cidr=range_of(stored))
        if not spec.cidr:
            return None
        kept = before is not None and before.spec.cidr == spec.cidr
        span = before.span if before is not None and kept else span_of(spec.cidr)
        claimed = before.claimed if before is not None else at
        return Block(name=name, spec=spec, span=span, claimed=claimed, fault=fault)

    def _insert(self, block: Block) -> None:
        others = [other.name for other in self.overlapping(block.span)]
        if others:
            self.crossing.update(others, (block.name,))
        family = block.span.family
        self._widest[family] = max(self._widest[family], block.span.size)
        insort(self._order[family], (block.span.first, block.name))

    def _unplace(self, block: Block) -> None:
        order = self._order[block.span.family]
        del order[bisect_left(order, (block.span.first, block.name))]
        if block.name not in self.crossing:
            return
        self.crossing.discard(block.name)
        for other in self.overlapping(block.span):
            if len(list(self.overlapping(other.span))) == 1:
                self.crossing.discard(other.name)

    def _move(self, name: str, before: Block | None, after: Block | None) -> None:
        old = before.spec.host if before is not None else None
        new = after.spec.host if after is not None else None
        if old == new:
            return
        if old is not None:
            names = self.blocks_of_host[old]
            names.remove(name)
            if not names:
                del self.blocks_of_host[old]
        if after is not None:
            names = self.blocks_of_host.setdefault(after.spec.host, [])
            insort(names, name, key=lambda one: (self.blocks[one].span, one))

    def _put_handles(self, before: Block | None, after: Block | None) -> None:
        old = {a.address: a.handle for a in before.spec.allocations} if before else {}
        new = {a.address: a.handle for a in after.spec.allocations} if after else {}
        gone = [(address, handle) for address, handle in old.items() if new.get(address) != handle]
        come = [(address, handle) for address, handle in new.items() if old.get(address) != handle]
        for address, handle in gone:
            left = tuple(a for a in self.addresses_of_handle.pop(handle, ()) if a != address)
            if left:
                self.addresses_of_handle[handle] = left
        for address, handle in come:
            others = self.addresses_of_handle.get(handle, ())
            self.addresses_of_handle[handle] = tuple(sorted((*others, address), key=_place))

    # ------------------------------------------------------------ looking up

    def overlapping(self, span: Span) -> Iterator[Block]:
        """Yield the blocks that share an address with the span, in order.

        Cost: O(log n), and the blocks within one widest block of the span.
        """
        order = self._order[span.family]
        index = bisect_left(order, (span.first - self._widest[span.family] + 1, ""))
        while index < len(order) and order[index][0] <= span.last:
            block = self.blocks[order[index][1]]
            if block.span.last >= span.first:
                yield block
            index += 1

    def blocks_in(self, span: Span) -> list[Block]:
        """Return the blocks that lie in a span, in order."""
        return [block for block in self.overlapping(span) if span.holds(block.span)]

    def block_at(self, address: str) -> Block | None:
        """Return the block that the address is in."""
        return next(self.overlapping(span_of(address)), None)

    def pool_of(self, span: Span) -> Pool | None:
        """Return the pool that the span is in."""
        return next((p for _, p in sorted(self.pools.items()) if p.span.holds(span)), None)

    def reserved(self, span: Span) -> list[Span]:
        """Return the reservations that touch the span."""
        return [one for spans in self.reservations.values() for one in spans if one.overlaps(span)]

    def in_use(self, family: Family, number: int) -> bool:
        """Tell whether an endpoint or a host has the address, whoever assigned it."""
        return (family, number) in self.endpoints_at or (family, number) in self._hosts_at


def _place(net: str) -> tuple[Family, int]:
    """Return family and number of a single address, with or without its prefix length."""
    address = address_of(Cidr(net))
    return family_of(address), number_of(address)


def _host_addresses(spec: NodeSpec) -> set[tuple[Family, int]]:
    texts = [address.address for address in spec.addresses]
    if spec.bgp is not None:
        texts += [t for t in (spec.bgp.ipv4_address, spec.bgp.ipv6_address) if t]
    return {_place(text) for text in texts}


def _pool(name: str, spec: IpPoolSpec) -> Pool:
    span = span_of(spec.cidr)
    length = length_of(Cidr(spec.cidr))
    # A pool smaller than a block of the usual size is one block.
    size = spec.block_size or max(DEFAULT_BLOCK_SIZES[span.family], length)
    return Pool(
        name=name,
        span=span,
        block_size=size,
        spec=spec,
        nodes=selectors.parse(spec.node_selector),
        namespaces=selectors.parse(spec.namespace_selector),
    )
