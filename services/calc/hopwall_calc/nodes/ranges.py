"""ranges: what the pools and blocks say of all hosts alike: what is announced, and what by anybody."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import PoolInput
from hopwall_calc.intake_bgp import BlockInput
from hopwall_calc.prefixes import LONGEST, collapsed, family_of, gaps, of_family
from hopwall_model.bgp import PrefixRange

#: There is one value, for all hosts.
ALL = ""


class Ranges(Struct, frozen=True, kw_only=True):
    """Of both families, IPv4 first."""

    #: Every pool: nobody outside announces in them.
    pools: tuple[str, ...] = ()
    #: The pools whose addresses are announced.
    exported: tuple[str, ...] = ()
    #: Single addresses in those that are in no host's block: any host may announce them.
    unclaimed: tuple[PrefixRange, ...] = ()
    #: What a reflector passes on: single addresses and whole blocks.
    reflected: tuple[PrefixRange, ...] = ()


NOTHING = Ranges()


class AllRanges(KeyedNode[str, Ranges]):
    """One key → what all hosts have in common."""

    name = "ranges"

    def __init__(
        self, pools: KeyedNode[str, PoolInput], blocks: KeyedNode[str, BlockInput]
    ) -> None:
        super().__init__()
        self._pools = pools.out
        self._blocks = blocks.out

    def on_pools(self) -> Answer:
        """Mark the one value."""
        return self.mark((ALL,))

    def on_blocks(self) -> Answer:
        """Mark the one value."""
        return self.mark((ALL,))

    def keys(self) -> Iterable[str]:
        """Return the one key."""
        return (ALL,)

    def compute(self, key: str) -> Ranges | None:
        """Return what is common; None without a pool. Cost: the number of blocks."""
        del key
        if not self._pools:
            return None
        pools = self._pools.values.values()
        exported = collapsed(pool.cidr for pool in pools if pool.exported)
        blocks = collapsed(block.cidr for block in self._blocks.values.values())
        return Ranges(
            pools=collapsed(pool.cidr for pool in pools),
            exported=exported,
            unclaimed=tuple(
                _alone(gap)
                for pool in exported
                for gap in gaps(pool, of_family(blocks, family_of(pool)))
            ),
            reflected=tuple(one for pool in exported for one in self._reflected(pool)),
        )

    def _reflected(self, pool: str) -> Iterator[PrefixRange]:
        """Yield the pool at each length that blocks have, and at that of a single address: no parts of blocks."""
        family = family_of(pool)
        blocks = (block.cidr for block in self._blocks.values.values())
        lengths = {_length(block) for block in blocks if family_of(block) == family}
        for length in sorted(lengths | {LONGEST[family]}):
            if length >= _length(pool):
                yield PrefixRange(pool, length, length)


def _length(text: str) -> int:
    return int(text.partition("/")[2])


def _alone(text: str) -> PrefixRange:
    longest = LONGEST[family_of(text)]
    return PrefixRange(text, longest, longest)
