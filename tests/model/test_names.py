"""Kernel names: short enough, ours to see, and free of what users wrote."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model.names import (
    CHAIN_PREFIX,
    MAX_CHAIN_NAME,
    MAX_SET_NAME,
    SET_PREFIX_V4,
    SET_PREFIX_V6,
    chain_name,
    digest,
    set_name,
    temporary_name,
    valid_ifname,
)


@given(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), st.lists(st.text(), max_size=3))
def test_chain_names_fit_and_show_nothing(kind: str, parts: list[str]) -> None:
    """A chain's name is ours, fits the kernel, and its variable part is only a hash."""
    name = chain_name(kind, *parts)
    assert name.startswith(CHAIN_PREFIX)
    assert len(name.encode()) <= MAX_CHAIN_NAME
    assert re.fullmatch(r"hw-[a-z0-9]{1,8}-[a-z2-7]{16}", name)


@given(st.text())
def test_set_names_fit_with_their_suffix(set_id: str) -> None:
    """A set's name is ours by family and leaves room for the temporary one."""
    v4, v6 = set_name("v4", set_id), set_name("v6", set_id)
    assert v4.startswith(SET_PREFIX_V4)
    assert v6.startswith(SET_PREFIX_V6)
    assert v4 != v6
    assert len(temporary_name(v4).encode()) <= MAX_SET_NAME
    assert re.fullmatch(r"hw4-s-[a-z2-7]{16}-t", temporary_name(v4))


def test_names_are_stable() -> None:
    """Names never change between versions: a restarted process must find its objects."""
    assert chain_name("pi", "gnp/isolate") == "hw-pi-b47ni7fmqz35tyhr"
    assert set_name("v4", "s:abc") == "hw4-s-577qhbo2ofgik45k"
    assert set_name("v6", "s:abc", "port") == "hw6-p-577qhbo2ofgik45k"
    assert digest("", 52) == "4oymiquy7qobjgx36tejs35zeqt24qpemsnzgtfeswmrw6csxbkq"


def test_parts_are_kept_apart() -> None:
    """Parts that join to the same text are different names."""
    assert (
        len({chain_name("pi", "a", "bc"), chain_name("pi", "ab", "c"), chain_name("pi", "abc")})
        == 3
    )


@pytest.mark.parametrize("kind", ["", "A", "a-b", "ninechars", "ä"])
def test_odd_chain_kinds_are_refused(kind: str) -> None:
    """Only a short plain word names a kind of chain."""
    with pytest.raises(ValueError, match="kind"):
        chain_name(kind, "x")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("eth0", True),
        ("tapa429fb36-04", True),
        ("a" * 15, True),
        ("a.1_B-c", True),
        ("", False),
        ("a" * 16, False),
        (".", False),
        ("..", False),
        ("cali+", False),
        ("-j", False),
        ("a b", False),
        ("a/b", False),
        ("eth0\n", False),
        ("é", False),
    ],
)
def test_interface_names(text: str, valid: bool) -> None:
    """An interface name is what the kernel takes and no tool reads as more than a name."""
    assert valid_ifname(text) is valid
