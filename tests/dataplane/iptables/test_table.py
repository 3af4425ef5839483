import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.table import (
    HASH_LENGTH,
    Jump,
    bearing,
    chain_hashes,
    check_chain,
    check_jump,
    jump_hash,
    plain,
    with_hash,
)

BODIES = st.lists(st.sampled_from(["-j DROP", "-j ACCEPT", "-p tcp -j DROP"]), max_size=5)


@given(name=st.sampled_from(["hw-a", "hw-b"]), bodies=BODIES, other=BODIES)
def test_last_hash_answers_for_the_whole_chain(
    name: str, bodies: list[str], other: list[str]
) -> None:
    """Two chains of one name end in the same hash only if all their lines are the same."""
    mine, theirs = chain_hashes(name, bodies), chain_hashes(name, other)
    assert (mine[-1:] == theirs[-1:]) == (bodies == other)
    assert all(len(line_hash) == HASH_LENGTH for line_hash in mine)


def test_hash_depends_on_the_chain_and_on_the_place() -> None:
    """The same line has another hash in another chain, under another line, and as another jump."""
    assert chain_hashes("hw-a", ["-j DROP"]) != chain_hashes("hw-b", ["-j DROP"])
    assert len(set(chain_hashes("hw-a", ["-j DROP"] * 3))) == 3
    jumps = [
        Jump("FORWARD", "hw-a"),
        Jump("INPUT", "hw-a"),
        Jump("FORWARD", "hw-a", where="last"),
        Jump("FORWARD", "hw-a", match="-i tap+"),
    ]
    assert len({jump_hash(jump) for jump in jumps}) == 4


def test_hashes_stay_the_same_between_versions() -> None:
    """A new version recognises what an old one wrote; if this changes, all chains are rewritten once."""
    assert chain_hashes("hw-a", ["-j DROP", "-j ACCEPT"]) == (
        "Kk4QjEEeCQHFFPCP",
        "Gn0lgLS8VWFyJWsu",
    )
    assert jump_hash(Jump("FORWARD", "hw-a")) == "dkkbQ8cAdgtWVS1o"


def test_comment_comes_last() -> None:
    """Our comment is the last match; a line of nothing else is legal."""
    assert with_hash("-j DROP", "x" * 16) == f'-j DROP -m comment --comment "hw:{"x" * 16}"'
    assert with_hash(bearing("-j DROP", "abcdefgh23"), "x" * 16) == (
        f'-j DROP -m comment --comment "hw:{"x" * 16}:abcdefgh23"'
    )
    assert with_hash(bearing("-j NFLOG", "abcdefgh23", counts=False), "x" * 16) == (
        f'-j NFLOG -m comment --comment "hw:{"x" * 16}:abcdefgh23:also"'
    )
    assert with_hash("", "x" * 16) == f'-m comment --comment "hw:{"x" * 16}"'


def test_the_hash_answers_for_the_identity() -> None:
    """A line whose identity alone changed is another line; without it the body is what it was."""
    lines = [bearing("-j DROP", "abcdefgh23"), bearing("-j DROP", "abcdefgh24")]
    assert chain_hashes("hw-a", lines[:1]) != chain_hashes("hw-a", lines[1:])
    assert [plain(line) for line in lines] == ["-j DROP", "-j DROP"]


@pytest.mark.parametrize(
    ("name", "bodies"),
    [
        ("FORWARD", ()),
        ("hw-" + "x" * 26, ()),
        ("hw-a b", ()),
        ('hw-a"b', ()),
        ("hw-a\n-F", ()),
        ("hw-a", ("-j DROP\n-F INPUT",)),
        ("hw-a", ("-j DROP\r",)),
        ("hw-a", ("-j DROP\0",)),
        ("hw-a", ("-s 10.0.0.1 " * 1000,)),
    ],
)
def test_chain_that_reaches_beyond_itself_is_refused(name: str, bodies: tuple[str, ...]) -> None:
    """A name that is not ours, or a body of more than one line, never becomes text."""
    with pytest.raises(ValueError, match="chain"):
        check_chain(name, bodies)


@pytest.mark.parametrize("jump", [Jump("hw-a", "hw-b"), Jump("INPUT", "hw-a", match="\n-F")])
def test_jump_that_reaches_beyond_its_line_is_refused(jump: Jump) -> None:
    """A jump stands in a kernel chain and is one line."""
    with pytest.raises(ValueError, match="chain"):
        check_jump(jump)
