"""The packet mark: which bits say what, and the tree that finds a class by its number.

A packet's mark carries the class of its source workload and the class of its destination workload, put
there in the mangle table by an ipset that maps the (anti-spoofed) address to the mark. The filter table
then finds the class's chain by a tree on these bits. So a workload that joins a known class costs two set
elements and no iptables transaction, and the cost of a new packet does not grow with workloads.

Pure. Public boundary: the mask is a setting; other software must leave its bits alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

#: All but the lowest eight bits, which are left to other software on the host.
DEFAULT_MASK = 0xFFFFFF00
#: Children of a tree node: four keeps the walk short on both backends (docs/design/dataplane.md).
_RADIX_BITS = 2


class MarkMaskError(ValueError):
    """The mask is not usable; the text says what it must be."""


@dataclass(frozen=True, slots=True)
class Field:
    """A run of bits within the mark."""

    shift: int
    bits: int

    @property
    def mask(self) -> int:
        """The bits of the field, in place."""
        return ((1 << self.bits) - 1) << self.shift

    def place(self, number: int) -> int:
        """Return the number moved into the field."""
        return number << self.shift


@dataclass(frozen=True, slots=True)
class MarkLayout:
    """How the mask's bits are used: allowed, pass, source class, destination class (from the lowest).

    Shape: class 0 means no known workload.
    """

    mask: int
    allowed: int
    passed: int
    source: Field
    destination: Field

    @property
    def revoked(self) -> int:
        """The bits of a *connection's* mark that, all set, say that policy denies the connection by now.

        Together they are a destination class that no packet ever has, so that others who save a packet's
        whole mark to its connection cut nothing.
        """
        return self.destination.mask

    @property
    def max_class(self) -> int:
        """The highest class number there is room for; the one above it means something else (`revoked`)."""
        return (1 << self.source.bits) - 2


def layout(mask: int = DEFAULT_MASK) -> MarkLayout:
    """Cut the mask into its fields.

    Errors: MarkMaskError when the mask is not one run of at least 10 bits within 32.
    """
    low = (mask & -mask).bit_length() - 1 if mask > 0 else 0
    width = mask.bit_length() - low
    if mask <= 0 or mask >> 32 or mask >> low != (1 << width) - 1 or width < 10:
        raise MarkMaskError(
            f"The mark mask {mask:#x} must be one unbroken run of at least 10 bits within 32."
        )
    bits = (width - 2) // 2
    return MarkLayout(
        mask=((1 << (2 + 2 * bits)) - 1) << low,
        allowed=1 << low,
        passed=1 << (low + 1),
        source=Field(low + 2, bits),
        destination=Field(low + 2 + bits, bits),
    )


def mark_tree(
    root: str, field: Field, leaves: Mapping[int, str], *, end: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Return the chains that lead from `root` to the leaf chain of the class in the packet's mark.

    Shape:  chain → rule bodies. A node with at most four leaves names them directly; every chain ends with
            `end`, so a class that is not in the tree meets `end` wherever the walk stops.
    Cost:   a packet meets O(log4 n) rules; rendering is O(n).
    """
    chains: dict[str, tuple[str, ...]] = {}
    _tree_node(root, root, field, sorted(leaves.items()), field.bits, end, chains)
    return chains


def _tree_node(
    name: str,
    root: str,
    field: Field,
    leaves: list[tuple[int, str]],
    bits_left: int,
    end: tuple[str, ...],
    chains: dict[str, tuple[str, ...]],
) -> None:
    if len(leaves) <= 1 << _RADIX_BITS:
        chains[name] = (
            *(_match(field.place(number), field.mask, chain) for number, chain in leaves),
            *end,
        )
        return
    take = min(_RADIX_BITS, bits_left)
    shift = bits_left - take
    groups: dict[int, list[tuple[int, str]]] = {}
    for number, chain in leaves:
        groups.setdefault(number >> shift, []).append((number, chain))
    if len(groups) == 1:  # nothing to tell apart by these bits: go on to the next
        _tree_node(name, root, field, leaves, shift, end, chains)
        return
    mask = field.mask & ~((1 << (field.shift + shift)) - 1)
    bodies = []
    for prefix, group in groups.items():
        child = f"{root}-{field.bits - shift}-{prefix:x}"
        bodies.append(_match(field.place(prefix << shift), mask, child))
        _tree_node(child, root, field, group, shift, end, chains)
    chains[name] = (*bodies, *end)


def _match(value: int, mask: int, chain: str) -> str:
    return f"-m mark --mark {value:#x}/{mask:#x} -g {chain}"
