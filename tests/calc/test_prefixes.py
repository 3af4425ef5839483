"""Ranges of networks: what is left, what is accepted, what holds what."""

from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_calc.prefixes import PrefixIndex, accepted, collapsed, gaps, without
from hopwall_model.bgp import FilterRule, PrefixRange


@st.composite
def networks(draw: st.DrawFn, *, shortest: int = 24) -> IPv4Network:
    """Return a network in 10.0.0.0/24 or around it."""
    length = draw(st.integers(shortest, 32))
    return IPv4Network((draw(st.integers(0x0A000000, 0x0A0000FF)), length), strict=False)


@st.composite
def ranges(draw: st.DrawFn) -> PrefixRange:
    """Return the networks of some lengths in a network."""
    cidr = draw(networks(shortest=20))
    first = draw(st.integers(cidr.prefixlen, 32))
    return PrefixRange(str(cidr), first, draw(st.integers(first, 32)))


def holds(range_: PrefixRange, network: IPv4Network) -> bool:
    """Tell whether a network is among those of the range."""
    inside = network.subnet_of(IPv4Network(range_.cidr))
    return inside and range_.shortest <= network.prefixlen <= range_.longest


@given(ranges(), networks(), networks(shortest=20))
def test_without_takes_out_what_is_inside(
    range_: PrefixRange, taken: IPv4Network, asked: IPv4Network
) -> None:
    """A network is left exactly if it was there and is not inside what was taken out."""
    left = list(without(range_, str(taken)))
    wanted = holds(range_, asked) and not asked.subnet_of(taken)
    assert any(holds(part, asked) for part in left) is wanted
    assert len(left) <= 33


def test_without_of_another_family_changes_nothing() -> None:
    """Nothing of one family is inside the other."""
    range_ = PrefixRange("::/0", 0, 128)
    assert list(without(range_, "10.0.0.0/8")) == [range_]


@given(st.lists(networks(), max_size=6), st.integers(0x0A000000, 0x0A0000FF))
def test_gaps_are_what_is_left(taken: list[IPv4Network], number: int) -> None:
    """Each address is in the networks taken out or in one gap."""
    inner = collapsed(str(network) for network in taken)
    left = [IPv4Network(text) for text in gaps("10.0.0.0/24", inner)]
    address = IPv4Network((number, 32))
    is_taken = any(address.subnet_of(network) for network in taken)
    assert sum(address.subnet_of(gap) for gap in left) == (0 if is_taken else 1)


def test_gaps_of_what_does_not_touch() -> None:
    """Networks beside, around and at the ends of the outer one."""
    assert list(gaps("10.0.1.0/24", ["10.0.0.0/24", "10.0.2.0/24"])) == ["10.0.1.0/24"]
    assert list(gaps("10.0.1.0/24", ["10.0.0.0/16"])) == []
    assert list(gaps("fd00::/126", ["fd00::3/128"])) == ["fd00::/127", "fd00::2/128"]
    assert list(gaps("255.255.255.0/24", ["255.255.255.128/25"])) == ["255.255.255.0/25"]


def test_collapsed_is_of_both_families() -> None:
    """Neighbours become one, what is inside vanishes, IPv4 comes first."""
    given_ = ["fd00::/65", "10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "fd00:0:0:0:8000::/65"]
    assert collapsed(given_) == ("10.0.0.0/23", "fd00::/64")


def rule(cidr: str = "", operator: str = "", first: int = 0, last: int = 32) -> FilterRule:
    """Return a rule that accepts."""
    return FilterRule(
        action="accept",
        family=6 if ":" in cidr else 4,
        operator=operator,  # type: ignore[arg-type]
        cidr=cidr,
        shortest=first,
        longest=last,
    )


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        (rule("0.0.0.0/0", "equal"), PrefixRange("0.0.0.0/0", 0, 0)),
        (rule("0.0.0.0/0", "in"), PrefixRange("0.0.0.0/0", 0, 32)),
        (rule("10.0.0.0/8", "in", 9, 24), PrefixRange("10.0.0.0/8", 9, 24)),
        (rule("10.0.0.0/8", "in", 2), PrefixRange("10.0.0.0/8", 8, 32)),
        (rule("10.0.0.0/8", "equal"), PrefixRange("10.0.0.0/8", 8, 8)),
        (rule("10.0.0.0/8", "not-in"), PrefixRange("0.0.0.0/0", 1, 32)),
        (rule(), PrefixRange("0.0.0.0/0", 1, 32)),
    ],
)
def test_what_a_rule_accepts_at_most(given_: FilterRule, wanted: PrefixRange) -> None:
    """The range holds all that the rule accepts; the default route only where the rule names it."""
    assert accepted([given_], 4) == (wanted,)


def test_what_no_rule_accepts() -> None:
    """Lengths that exclude each other and rules that reject accept nothing."""
    rejecting = FilterRule(action="reject", family=4)
    assert accepted([rule("10.0.0.0/8", "equal", 9), rejecting], 4) == ()
    assert accepted([rule("10.0.0.0/8", "in", 0, 7)], 4) == ()


@given(st.lists(st.tuples(networks(), st.sampled_from("abc")), max_size=8), networks())
def test_the_index_finds_what_covers(
    entries: list[tuple[IPv4Network, str]], asked: IPv4Network
) -> None:
    """It gives the values of all networks that hold the one asked for, also after removals."""
    index: PrefixIndex[str] = PrefixIndex()
    for network, value in entries:
        index.add(str(network), value)
    index.add("::/0", "six")
    for network, value in entries[::2]:
        index.remove(str(network), value)
    wanted = sorted(value for network, value in entries[1::2] if asked.subnet_of(network))
    assert sorted(index.covering(str(asked))) == wanted
    assert list(index.covering("fd00::1/128")) == ["six"]


def test_the_index_refuses_to_remove_what_is_not_there() -> None:
    """A value that was never put is a broken invariant."""
    index: PrefixIndex[str] = PrefixIndex()
    with pytest.raises(KeyError):
        index.remove(str(ip_network("10.0.0.0/8")), "a")
