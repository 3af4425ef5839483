"""Which address whom: choosing pools, blocks and addresses, and taking them back.

Pure: a sheet and a demand in, a changed sheet and an answer out. What cannot be done whole changes nothing.
Every choice depends on the view, the demand and the time given alone, so that two replicas that see the same
choose the same block: then the stream lets one of them win, and the other sees what the first did.

Source: Calico, design/ipam/ipam-core-library.md.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from hopwall_api.ipam.demands import Assign, Release
from hopwall_api.ipam.draft import Draft, Sheet
from hopwall_api.ipam.spans import BITS, Span, cidr_of, number_of, span_of, text_of
from hopwall_api.ipam.view import Block, Pool, View
from hopwall_model.cidr import Family, Ip, family_of
from hopwall_model.ipam_specs import IpamAllocation
from hopwall_model.resources import Key
from hopwall_model.selectors import NAMESPACE_LABEL

#: What Kubernetes labels a namespace with, and a pool's namespaceSelector looks at.
_NAMESPACE_NAME = "projectcalico.org/name"


class Times(Struct, frozen=True, kw_only=True):
    """The moment of a plan, RFC 3339 in UTC with milliseconds: such texts compare as the times do."""

    now: str
    #: What was released until then has rested.
    rested: str
    #: A block that has been empty since then may be taken from its host.
    idle: str


class Refused(Exception):
    """It cannot be done; the text says why, in sentences. `later` tells whether time alone may help."""

    def __init__(self, reason: str, *, field: str = "", later: bool = False) -> None:
        super().__init__(reason)
        #: JSON pointer to what is wrong with the demand; "" when it is the state that stands against it.
        self.field = field
        self.later = later


class Assigned(Struct, frozen=True, kw_only=True):
    """All addresses of a handle, in order; `changed` when some were not its own before."""

    addresses: tuple[str, ...]
    changed: bool


class Released(Struct, frozen=True, kw_only=True):
    """What was taken back, what nobody had, and which blocks lost their host."""

    released: tuple[str, ...] = ()
    not_assigned: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


# ---------------------------------------------------------------- assigning


def assign(sheet: Sheet, wanted: Assign, times: Times) -> Assigned:
    """Give the handle what it lacks, and nothing if it lacks nothing.

    Errors: Refused; the sheet is then as it was.
    """
    if wanted.node not in sheet.view.nodes:
        reason = f"Node {wanted.node} does not exist; declare it first."
        raise Refused(reason, field="/node")
    trial = sheet.trial()
    before = trial.addresses_of(wanted.handle)
    for address in wanted.addresses:
        _take_named(trial, wanted, address, times)
    counts: tuple[tuple[Family, int], ...] = ((4, wanted.v4), (6, wanted.v6))
    for family, n in counts:
        has = sum(family_of(Ip(a)) == family for a in trial.addresses_of(wanted.handle))
        if has < n:
            _take_some(trial, wanted, family, n - has, times)
    _bring_along(trial, wanted, before)
    trial.keep()
    after = sheet.addresses_of(wanted.handle)
    return Assigned(addresses=in_order(after), changed=after != before)


def in_order(addresses: frozenset[str]) -> tuple[str, ...]:
    """Return addresses in order, IPv4 first."""
    return tuple(sorted(addresses, key=lambda a: (ip_address(a).version, int(ip_address(a)))))


def _allocation(wanted: Assign, address: str, times: Times) -> IpamAllocation:
    return IpamAllocation(
        address=address,
        handle=wanted.handle,
        node=wanted.node,
        attributes=wanted.attributes,
        assigned_at=times.now,
    )


def _bring_along(sheet: Sheet, wanted: Assign, before: frozenset[str]) -> None:
    """Note for addresses the handle has already which host it is on now, and what the caller notes."""
    for address in before:
        name = holder_of(sheet, address)
        assert name is not None
        number = number_of(address)
        found = sheet.look(name)
        old = (found if isinstance(found, Draft) else sheet.draft(name)).allocations[number]
        attributes = wanted.attributes or old.attributes
        if old.node != wanted.node or old.attributes != attributes:
            moved = replace(old, node=wanted.node, attributes=attributes)
            sheet.draft(name).allocations[number] = moved


def holder_of(sheet: Sheet, address: str) -> str | None:
    """Return the name of the block in which somebody has the address; None when nobody has it."""
    span = span_of(address)
    for name in sheet.overlapping(span):
        found = sheet.look(name)
        if isinstance(found, Draft) and span.first in found.allocations:
            return name
        if isinstance(found, Block) and any(a.address == address for a in found.spec.allocations):
            return name
    return None


# ---------------------------------------------------------------- addresses that are named


def _take_named(sheet: Sheet, wanted: Assign, address: str, times: Times) -> None:
    """Give the handle exactly this address. Reservations and rest are for choosing: who names it may."""
    span = span_of(address)
    holder = holder_of(sheet, address)
    if holder is not None:
        if address in sheet.addresses_of(wanted.handle):
            return
        allocation = sheet.draft(holder).allocations[span.first]
        raise Refused(f"{address} is assigned to the handle {allocation.handle} already.")
    pool = sheet.view.pool_of(span)
    if pool is None:
        raise Refused(f"{address} is in no IPPool.", field="/addresses")
    if pool.spec.disabled:
        raise Refused(f"{address} is in the IPPool {pool.name}, which is disabled.")
    names = sheet.overlapping(span)
    _check_readable(sheet.view, span, address)
    if len(names) > 1 or sheet.view.crossing.intersection(names):
        raise Refused(f"{address} is in several blocks; see the report of check.")
    if names:
        draft = _borrowed(sheet, names[0], wanted, address)
    else:
        draft = _block_around(sheet, pool, span, wanted, times)
    sheet.take(draft, span.first, _allocation(wanted, address, times))


def _check_readable(view: View, span: Span, address: str) -> None:
    """Refuse an address of a block that cannot be read: who has it is not known.

    Errors: Refused.
    """
    for block in view.overlapping(span):
        if block.fault:
            raise Refused(
                f"{address} is in the IPAMBlock {block.name}, which cannot be read ({block.fault});"
                " write it anew or delete it."
            )


def _borrowed(sheet: Sheet, name: str, wanted: Assign, address: str) -> Draft:
    host = sheet.host_of(name)
    if host != wanted.node and sheet.view.settings.strict_affinity:
        whose = f"a block of {host}" if host else "a block of no host"
        raise Refused(f"{address} is in {whose}, and strictAffinity forbids to borrow it.")
    return sheet.draft(name)


def _block_around(sheet: Sheet, pool: Pool, span: Span, wanted: Assign, times: Times) -> Draft:
    """Return a new block that has the address; it is no host's when this host may have no more."""
    size = 1 << (BITS[span.family] - pool.block_size)
    first = span.first - span.first % size
    around = Span(span.family, first, first + size - 1)
    if sheet.overlapping(around):
        # Blocks of another size lie here: this one is the address alone.
        around, size = span, 1
    length = BITS[span.family] - size.bit_length() + 1
    host = wanted.node if _may_claim(sheet, wanted.node, span.family) else ""
    if not host and sheet.view.settings.strict_affinity:
        raise Refused(f"{wanted.node} has as many blocks as maxBlocksPerHost allows.")
    return sheet.create(
        cidr_of(span.family, around.first, length), around, host=host, now=times.now
    )


def _may_claim(sheet: Sheet, node: str, family: Family) -> bool:
    most = sheet.view.settings.max_blocks_per_host
    mine = [n for n in sheet.blocks_of(node) if (":" in _cidr(sheet, n)) == (family == 6)]
    return not most or len(mine) < most


def _cidr(sheet: Sheet, name: str) -> str:
    found = sheet.look(name)
    assert found is not None
    return found.cidr if isinstance(found, Draft) else found.spec.cidr


# ---------------------------------------------------------------- addresses that are chosen


def _take_some(sheet: Sheet, wanted: Assign, family: Family, n: int, times: Times) -> None:
    pools = eligible(sheet.view, wanted, family)
    for name in _sources(sheet, wanted, family, pools, times):
        if name in sheet.view.crossing or sheet.is_full(name):
            continue
        draft = sheet.draft(name)
        for number in draft.free(sheet.view, times.rested):
            address = text_of(family, number)
            sheet.take(draft, number, _allocation(wanted, address, times))
            n -= 1
            if not n:
                return
    raise _exhausted(sheet, wanted, family, pools, times)


def eligible(view: View, wanted: Assign, family: Family) -> list[Pool]:
    """Return the pools to choose from, best first.

    Errors: Refused when there is none, or one that was named is not for this host or use.
    """
    if wanted.pools:
        missing = [name for name in wanted.pools if name not in view.pools]
        if missing and (fault := view.faults.get(Key("IPPool", "", missing[0]))):
            reason = f"IPPool {missing[0]} cannot be read ({fault}); write it anew."
            raise Refused(reason, field="/pools")
        if missing:
            raise Refused(f"IPPool {missing[0]} does not exist.", field="/pools")
        named = [view.pools[name] for name in wanted.pools]
        candidates = [pool for pool in named if pool.span.family == family]
    else:
        candidates = [p for _, p in sorted(view.pools.items()) if p.span.family == family]
    against = {pool.name: _against(view, pool, wanted) for pool in candidates}
    good = [pool for pool in candidates if not against[pool.name]]
    if not good:
        why = "; ".join(f"{name} {reason}" for name, reason in against.items())
        raise Refused(
            f"No IPPool gives IPv{family} addresses to {wanted.node}"
            + (f": {why}." if why else "; declare one.")
        )
    return good


def _against(view: View, pool: Pool, wanted: Assign) -> str:
    """Return what stands against choosing from the pool; "" when nothing does."""
    spec = pool.spec
    namespace = {_NAMESPACE_NAME: wanted.namespace, NAMESPACE_LABEL: wanted.namespace}
    if spec.disabled:
        return "is disabled"
    if spec.allowed_uses and "Workload" not in spec.allowed_uses:
        return "is not for workloads"
    if spec.assignment_mode == "Manual" and pool.name not in wanted.pools:
        return "is for requests that name it"
    if not pool.nodes.matches(view.nodes[wanted.node]):
        return "does not select this host"
    if not pool.namespaces.matches(namespace):
        return f"does not select the namespace {wanted.namespace}"
    return ""


def _sources(
    sheet: Sheet, wanted: Assign, family: Family, pools: list[Pool], times: Times
) -> Iterator[str]:
    """Yield names of blocks to look for free addresses in, best first, claiming as it goes on."""
    for name in _of_pools(sheet, sheet.blocks_of(wanted.node), pools):
        yield name
    for pool in pools:
        while _may_claim(sheet, wanted.node, family):
            claimed = _claim(sheet, pool, wanted.node, times)
            if claimed is None:
                break
            yield claimed
    if sheet.view.settings.strict_affinity:
        return
    for pool in pools:
        others = [block.name for block in sheet.view.blocks_in(pool.span)]
        start = crc32(wanted.node.encode()) % (len(others) or 1)
        for name in others[start:] + others[:start]:
            if sheet.host_of(name) != wanted.node:
                yield name


def _of_pools(sheet: Sheet, names: list[str], pools: list[Pool]) -> Iterator[str]:
    for pool in pools:
        for name in names:
            found = sheet.look(name)
            if found is not None and pool.span.holds(found.span):
                yield name


def _claim(sheet: Sheet, pool: Pool, node: str, times: Times) -> str | None:
    """Give the host one more block with a free address: no host's, a new one, or one that idles."""
    for name in _of_pools(sheet, sheet.blocks_of(""), [pool]):
        if _has_free(sheet, name, times):
            return _adopted(sheet, name, node, times)
    span = _unclaimed(sheet, pool, node)
    if span is not None:
        cidr = cidr_of(span.family, span.first, pool.block_size)
        return sheet.create(cidr, span, host=node, now=times.now).name
    for block in sheet.view.blocks_in(pool.span):
        if sheet.host_of(block.name) != node and _idles(sheet, block, times):
            return _adopted(sheet, block.name, node, times)
    return None


def _adopted(sheet: Sheet, name: str, node: str, times: Times) -> str:
    draft = sheet.draft(name)
    draft.host, draft.claimed_at = node, times.now
    return name


def _has_free(sheet: Sheet, name: str, times: Times) -> bool:
    if name in sheet.view.crossing or sheet.is_full(name):
        return False
    found = sheet.look(name)
    draft = Draft.of(found) if isinstance(found, Block) else found
    return draft is not None and any(True for _ in draft.free(sheet.view, times.rested))


def _idles(sheet: Sheet, block: Block, times: Times) -> bool:
    """Tell whether a host has kept the block without an address of it for a while."""
    if sheet.look(block.name) is not block or block.spec.allocations:
        return False
    since = max([block.spec.affinity_claim_time, *(r.released_at for r in block.spec.released)])
    return since <= times.idle and _has_free(sheet, block.name, times)


def _unclaimed(sheet: Sheet, pool: Pool, node: str) -> Span | None:
    """Return a range of the pool that no block touches and that has an address to give.

    The search begins at a place of the host's own, so that hosts that claim at once seldom meet.
    """
    size = 1 << (BITS[pool.span.family] - pool.block_size)
    n = pool.span.size // size
    start = pool.span.first + crc32(node.encode()) % n * size
    for begin, end in ((start, pool.span.last), (pool.span.first, start - 1)):
        at = begin
        while at + size - 1 <= end:
            span = Span(pool.span.family, at, at + size - 1)
            after = _obstacle(sheet, span)
            if after is None:
                return span
            # On to the first range behind it.
            at += -(-(after - at) // size) * size
    return None


def _obstacle(sheet: Sheet, span: Span) -> int | None:
    """Return the first address behind what stands against a claim of the range; None: nothing does."""
    names = sheet.overlapping(span)
    if names:
        return max(found.span.last for name in names if (found := sheet.look(name))) + 1
    for kept in sheet.view.reserved(span):
        if kept.holds(span):
            return kept.last + 1
    draft = Draft("", "", span)
    return None if any(True for _ in draft.free(sheet.view, "")) else span.last + 1


def _exhausted(
    sheet: Sheet, wanted: Assign, family: Family, pools: list[Pool], times: Times
) -> Refused:
    """Return why no address was left, as far as the caller can do something about it."""
    names = ", ".join(pool.name for pool in pools)
    blocks = [block for pool in pools for block in sheet.view.blocks_in(pool.span)]
    resting = sum(r.released_at > times.rested for block in blocks for r in block.spec.released)
    reason = f"No IPv{family} address is left for {wanted.node} in IPPool {names}"
    if resting:
        reason += f"; {resting} released ones may not be used again yet"
    settings = sheet.view.settings
    if not _may_claim(sheet, wanted.node, family):
        reason += f"; it has its {settings.max_blocks_per_host} blocks (maxBlocksPerHost)"
    if settings.strict_affinity:
        reason += "; strictAffinity forbids to borrow from other hosts' blocks"
    return Refused(f"{reason}.", later=bool(resting))


# ---------------------------------------------------------------- releasing


def release(sheet: Sheet, wanted: Release, times: Times) -> Released:
    """Take addresses back, or a host's blocks; what nobody has is no fault.

    Errors: Refused when an address is another handle's or of a block that cannot be read, or the host is there;
            the sheet is then as it was.
    """
    if wanted.node:
        if not wanted.force and (why := _is_there(sheet.view, wanted.node)):
            raise Refused(why, field="/node")
        return _release_blocks(sheet, wanted.node, times)
    trial = sheet.trial()
    addresses = wanted.addresses or in_order(trial.addresses_of(wanted.handle))
    released, not_assigned = [], []
    for address in addresses:
        name = holder_of(trial, address)
        if name is None:
            _check_readable(sheet.view, span_of(address), address)
            not_assigned.append(address)
            continue
        draft, number = trial.draft(name), number_of(address)
        owner = draft.allocations[number].handle
        if wanted.handle and owner != wanted.handle:
            raise Refused(f"{address} is the handle {owner}'s, not {wanted.handle}'s.")
        trial.drop(draft, number, times.now)
        released.append(address)
    trial.keep()
    return Released(released=tuple(released), not_assigned=tuple(not_assigned))


def _is_there(view: View, node: str) -> str:
    """Return what says that a host is not gone; "" where nothing declared does."""
    if node in view.nodes:
        return (
            f"Host {node} is declared, so its blocks stay: delete Node {node} when the host is gone, or"
            " force the release (force, --force)."
        )
    if n := view.endpoints_on.get(node):
        return (
            f"Host {node} has {n} endpoint{'s' if n > 1 else ''}, so its blocks stay: delete them when the host is"
            " gone, or force the release (force, --force)."
        )
    return ""


def _release_blocks(sheet: Sheet, node: str, times: Times) -> Released:
    """Take a host's blocks from it. What is empty and rested goes; of the others nobody is the host."""
    names = sheet.blocks_of(node)
    cidrs = tuple(_cidr(sheet, name) for name in names)
    for name in names:
        draft = sheet.draft(name)
        draft.host, draft.claimed_at = "", ""
        draft.gone = not draft.allocations and all(
            at <= times.rested for at in draft.released.values()
        )
    return Released(blocks=cidrs)
