"""The mark layout and the tree that finds a class."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.marks import DEFAULT_MASK, Field, MarkMaskError, layout, mark_tree

END = ("-j DROP",)


def walk(chains: dict[str, tuple[str, ...]], root: str, mark: int) -> tuple[str, int]:
    """Return the leaf chain (or "drop") a packet with this mark meets, and how many lines it tried."""
    chain, tried = root, 0
    while chain in chains:
        for body in chains[chain]:
            tried += 1
            if body == "-j DROP":
                return "drop", tried
            found = re.fullmatch(r"-m mark --mark (\w+)/(\w+) -g (\S+)", body)
            assert found is not None
            value, mask = int(found[1], 16), int(found[2], 16)
            if mark & mask == value:
                chain = found[3]
                break
        else:
            raise AssertionError(chain)
    return chain, tried


@given(st.sets(st.integers(1, 2046), max_size=300), st.integers(0, 2046))
def test_the_tree_leads_each_class_to_its_chain_and_others_to_the_end(
    numbers: set[int], probe: int
) -> None:
    """A class in the tree finds its own chain; any other number is dropped."""
    field = layout().source
    chains = mark_tree("hw-from", field, {n: f"hw-cf{n:x}" for n in numbers}, end=END)
    expected = f"hw-cf{probe:x}" if probe in numbers else "drop"
    assert walk(chains, "hw-from", field.place(probe))[0] == expected


@given(st.integers(0, 2046), st.integers(0, 0xFFFFFFFF))
def test_foreign_bits_do_not_lead_astray(number: int, noise: int) -> None:
    """Bits outside the field change nothing."""
    field = layout().destination
    chains = mark_tree("hw-to", field, {n: f"hw-ct{n:x}" for n in range(1, 2048)}, end=END)
    mark = field.place(number) | (noise & ~field.mask)
    assert walk(chains, "hw-to", mark)[0] == (f"hw-ct{number:x}" if number else "drop")


def test_the_walk_grows_with_the_logarithm() -> None:
    """Two thousand classes cost a packet a few dozen lines, not thousands."""
    field = layout().source
    chains = mark_tree("hw-from", field, {n: f"hw-cf{n:x}" for n in range(1, 2048)}, end=END)
    assert max(walk(chains, "hw-from", field.place(n))[1] for n in range(1, 2048)) <= 24


def test_every_tree_chain_name_fits_the_kernel() -> None:
    """Chain names stay within 28 characters."""
    field = layout().source
    chains = mark_tree("hw-from", field, dict.fromkeys(range(1, 2048), "x"), end=END)
    assert max(map(len, chains)) <= 28


def test_the_default_mask_leaves_low_bits_and_has_room_for_two_thousand_classes() -> None:
    """The layout's fields are disjoint and within the mask."""
    marks = layout()
    fields = [marks.allowed, marks.passed, marks.source.mask, marks.destination.mask]
    assert sum(fields) == marks.mask
    assert marks.mask & ~DEFAULT_MASK == 0
    assert marks.max_class == 2046


@pytest.mark.parametrize("mask", [0, -1, 0xFF, 0xFF00FF00, 1 << 33, 0x1FF0000 & 0xFF0000])
def test_a_mask_that_cannot_be_used_is_refused(mask: int) -> None:
    """Too few bits, holes, or bits beyond 32 are refused with a sentence."""
    with pytest.raises(MarkMaskError, match="mark mask"):
        layout(mask)


def test_a_field_places_its_number() -> None:
    """A number is moved by the shift and masked by the bits."""
    assert Field(shift=8, bits=4).mask == 0xF00
    assert Field(shift=8, bits=4).place(3) == 0x300
