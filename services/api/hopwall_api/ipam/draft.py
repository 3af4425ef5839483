"""Blocks as a plan changes them: drafts over the view, taken over whole or not at all.

Pure. A draft is one block's next value. A sheet holds the drafts of a plan; a sheet on top of another is a
trial, whose drafts go down to the one below only when the whole trial succeeds.
"""

from collections.abc import Iterable, Iterator

from hopwall_api.ipam.spans import Span, number_of, text_of
from hopwall_api.ipam.view import Block, View
from hopwall_model.cidr import Cidr
from hopwall_model.ipam_specs import (
    IpamAllocation,
    IpamBlockSpec,
    IpamRelease,
    affinity_of,
    block_name,
)


class Draft:
    """One block's next value. Numbers are those of the family."""

    def __init__(
        self, name: str, cidr: str, span: Span, *, host: str = "", claimed_at: str = ""
    ) -> None:
        self.name = name
        self.cidr = cidr
        self.span = span
        self.host = host
        self.claimed_at = claimed_at
        self.allocations: dict[int, IpamAllocation] = {}
        #: number → when it was released.
        self.released: dict[int, str] = {}
        #: The block is to go.
        self.gone = False

    @classmethod
    def of(cls, block: Block) -> "Draft":
        """Return a draft that changes nothing yet."""
        spec = block.spec
        draft = cls(
            block.name,
            spec.cidr,
            block.span,
            host=spec.host,
            claimed_at=spec.affinity_claim_time,
        )
        draft.allocations = {number_of(one.address): one for one in spec.allocations}
        draft.released = {number_of(one.address): one.released_at for one in spec.released}
        return draft

    def copy(self) -> "Draft":
        """Return a draft that can change without changing this one."""
        draft = Draft(self.name, self.cidr, self.span, host=self.host, claimed_at=self.claimed_at)
        draft.allocations, draft.released = dict(self.allocations), dict(self.released)
        draft.gone = self.gone
        return draft

    def spec(self) -> IpamBlockSpec:
        """Return the draft as it is stored."""
        family = self.span.family
        return IpamBlockSpec(
            cidr=self.cidr,
            affinity=affinity_of(self.host) if self.host else "",
            affinity_claim_time=self.claimed_at,
            allocations=tuple(one for _, one in sorted(self.allocations.items())),
            released=tuple(
                IpamRelease(address=text_of(family, number), released_at=at)
                for number, at in sorted(self.released.items())
            ),
        )

    # ------------------------------------------------------------ changing

    def take(self, number: int, allocation: IpamAllocation) -> None:
        """Give an address to somebody."""
        assert number not in self.allocations
        self.released.pop(number, None)
        self.allocations[number] = allocation

    def drop(self, number: int, now: str) -> None:
        """Take an address back; it rests from now on."""
        del self.allocations[number]
        self.released[number] = now

    # ------------------------------------------------------------ choosing

    @property
    def full(self) -> bool:
        """Whether every address is somebody's."""
        return len(self.allocations) >= self.span.size

    def free(self, view: View, rested: str) -> Iterator[int]:
        """Yield the addresses that may be chosen: never used ones first, then the longest rested.

        An address may be chosen when nobody has it or uses it, nothing reserves it, and it was released
        not after `rested`.
        """
        family = self.span.family
        kept = view.reserved(self.span)

        def usable(number: int) -> bool:
            return not any(one.first <= number <= one.last for one in kept) and not view.in_use(
                family, number
            )

        for number in range(self.span.first, self.span.last + 1):
            if number in self.allocations or number in self.released:
                continue
            if usable(number):
                yield number
        for at, number in sorted((at, number) for number, at in self.released.items()):
            if at <= rested and usable(number):
                yield number


class Sheet:
    """The drafts of a plan over the view, or over another sheet."""

    def __init__(self, view: View, under: "Sheet | None" = None) -> None:
        self.view = view
        self._under = under
        self.drafts: dict[str, Draft] = {}
        #: handle → its addresses, where a draft changed them.
        self.handles: dict[str, frozenset[str]] = {}

    def trial(self) -> "Sheet":
        """Return a sheet on top of this one."""
        return Sheet(self.view, self)

    def keep(self) -> None:
        """Take the drafts of this trial over into the sheet below."""
        assert self._under is not None
        self._under.drafts.update(self.drafts)
        self._under.handles.update(self.handles)

    def touched(self) -> Iterable[Draft]:
        """Return the drafts by name."""
        return [draft for _, draft in sorted(self.drafts.items())]

    # ------------------------------------------------------------ looking

    def look(self, name: str) -> Draft | Block | None:
        """Return a block as it is now planned, to read; None when there is none."""
        sheet: Sheet | None = self
        while sheet is not None:
            if name in sheet.drafts:
                draft = sheet.drafts[name]
                return None if draft.gone else draft
            sheet = sheet._under
        return self.view.blocks.get(name)

    def host_of(self, name: str) -> str | None:
        """Return which host has a block now; None when the block is not there."""
        found = self.look(name)
        if found is None:
            return None
        return found.host if isinstance(found, Draft) else found.spec.host

    def is_full(self, name: str) -> bool:
        """Tell whether the block has no address to give, as cheaply as can be."""
        found = self.look(name)
        if isinstance(found, Block):
            return bool(found.fault) or len(found.spec.allocations) >= found.span.size
        return found is None or found.full

    def names(self) -> Iterator[str]:
        """Yield the names of blocks that drafts made or changed, each once."""
        seen: set[str] = set()
        sheet: Sheet | None = self
        while sheet is not None:
            yield from (name for name in sheet.drafts if name not in seen)
            seen.update(sheet.drafts)
            sheet = sheet._under

    def blocks_of(self, host: str) -> list[str]:
        """Return the names of a host's blocks, in the order of their addresses."""
        names = {*self.view.blocks_of_host.get(host, ()), *self.names()}
        mine = [name for name in names if self.host_of(name) == host]
        return sorted(mine, key=lambda name: self._span(name))

    def _span(self, name: str) -> Span:
        found = self.look(name)
        assert found is not None
        return found.span

    def overlapping(self, span: Span) -> list[str]:
        """Return the names of the blocks that share an address with the span."""
        names = {block.name: None for block in self.view.overlapping(span)}
        names |= dict.fromkeys(self.names())
        return [
            name
            for name in names
            if (found := self.look(name)) is not None and found.span.overlaps(span)
        ]

    def addresses_of(self, handle: str) -> frozenset[str]:
        """Return the addresses that a handle now has."""
        sheet: Sheet | None = self
        while sheet is not None:
            if handle in sheet.handles:
                return sheet.handles[handle]
            sheet = sheet._under
        return frozenset(self.view.addresses_of_handle.get(handle, ()))

    # ------------------------------------------------------------ changing

    def draft(self, name: str) -> Draft:
        """Return a block's draft, to change; the block must be there, and be one that can be read."""
        if name not in self.drafts:
            found = self.look(name)
            assert found is not None
            assert isinstance(found, Draft) or not found.fault
            self.drafts[name] = found.copy() if isinstance(found, Draft) else Draft.of(found)
        return self.drafts[name]

    def create(self, cidr: Cidr, span: Span, *, host: str, now: str) -> Draft:
        """Return the draft of a new block."""
        name = block_name(cidr)
        self.drafts[name] = Draft(name, cidr, span, host=host, claimed_at=now if host else "")
        return self.drafts[name]

    def take(self, draft: Draft, number: int, allocation: IpamAllocation) -> None:
        """Give an address to somebody."""
        draft.take(number, allocation)
        had = self.addresses_of(allocation.handle)
        self.handles[allocation.handle] = had | {allocation.address}

    def drop(self, draft: Draft, number: int, now: str) -> None:
        """Take an address back."""
        allocation = draft.allocations[number]
        draft.drop(number, now)
        had = self.addresses_of(allocation.handle)
        self.handles[allocation.handle] = had - {allocation.address}
