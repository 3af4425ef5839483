"""Tokens: what is kept of them, and who holds one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hopwall_api.access.roles import Role
from hopwall_api.access.tokens import (
    Token,
    TokensError,
    bearer,
    holder,
    mint,
    read_tokens,
    write_tokens,
)

NOW = "2026-01-02T00:00:00.000Z"
ID, TEXT, SHA = mint(bytes(range(32)))
ONE = Token(id=ID, name="alice", role=Role.EDITOR, namespaces=("a",), sha256=SHA)
KNOWN = {ID: ONE}


def test_the_holder_of_a_token_is_found() -> None:
    """The whole text, and nothing less, is the token."""
    assert holder(KNOWN, TEXT, NOW) == ONE
    for wrong in ("", TEXT[:-1], TEXT + "A", TEXT.upper(), TEXT[:-1] + "!", f" {TEXT}", ID, SHA):
        assert holder(KNOWN, wrong, NOW) is None


@given(st.binary(min_size=32, max_size=32))
def test_no_other_secret_opens(random: bytes) -> None:
    """A token of the same id with another secret is refused."""
    _, other, _ = mint(random)
    forged = f"hopwall_{ID}_{other.rpartition('_')[2] if other.count('_') == 2 else other[-43:]}"
    assert (holder(KNOWN, forged, NOW) is not None) == (forged == TEXT)


def test_what_is_kept_does_not_hold_the_secret() -> None:
    """The file has a digest: neither the token nor a part of its secret."""
    data = write_tokens([ONE]).decode()
    assert TEXT not in data
    assert TEXT.rpartition(f"{ID}_")[2] not in data
    assert read_tokens(data.encode()) == (ONE,)


@pytest.mark.parametrize(
    ("expires", "good"), [("", True), (NOW, False), ("2026-01-02T00:00:00.001Z", True)]
)
def test_a_token_ends_with_its_time(expires: str, good: bool) -> None:
    """From the moment it expires it is no token."""
    known = {ID: replace(ONE, expires_at=expires)}
    assert (holder(known, TEXT, NOW) is not None) == good


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", ""), ("", ""), ("x", ""), ("Bearer", "")],
)
def test_the_header_has_one_scheme(header: str, token: str) -> None:
    """Only Bearer, in any case of letters."""
    assert bearer(header) == token


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a b"},
        {"id": "x"},
        {"sha256": "0"},
        {"role": Role.ADMIN},
        {"namespaces": ("A",)},
        {"namespaces": ("a.b",)},
    ],
)
def test_a_list_with_a_wrong_entry_is_refused_whole(change: dict[str, object]) -> None:
    """Half a list must not be taken for the list: a wrong name, digest or namespace is an error."""
    with pytest.raises(TokensError):
        read_tokens(write_tokens([replace(ONE, **change)]))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"tokens": [{}]}', b'{"token": []}', b"\xff", write_tokens([ONE, ONE])],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    """Bytes that are no list are an error in one sentence."""
    with pytest.raises(TokensError):
        read_tokens(data)
