import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.netlink.codec import (
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLMSG_ERROR,
    Failure,
    Message,
    attribute,
    attribute_table,
    failure_in,
    message,
    messages_in,
    nested,
    number,
    string,
    text_of,
)

kinds = st.integers(1, 0x3FFF)
bodies = st.binary(max_size=40)


@given(st.dictionaries(kinds, bodies))
def test_attributes_read_back_as_they_were_written(table: dict[int, bytes]) -> None:
    """Padding and lengths agree in both directions."""
    data = b"".join(attribute(kind, body) for kind, body in table.items())
    assert len(data) % 4 == 0
    assert attribute_table(data, 0, len(data)) == table


@given(st.lists(st.tuples(kinds, bodies), min_size=1), st.integers(1, 1 << 20))
def test_batch_is_numbered_and_only_its_last_asks_for_an_answer(
    parts: list[tuple[int, bytes]], first: int
) -> None:
    """Every message keeps its type and body; numbers count up; one acknowledgement is asked for."""
    packed = bytes(number([message(kind, 0, body) for kind, body in parts], first))
    found = list(messages_in(packed))
    assert [(m.kind, packed[m.start : m.end]) for m in found] == parts
    assert [m.seq for m in found] == list(range(first, first + len(parts)))
    asks = [bool(m.flags & NLM_F_ACK) for m in found]
    assert asks == [False] * (len(parts) - 1) + [True]


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(data: bytes) -> None:
    """Cut or broken input ends the walk; it never raises and never loops."""
    for found in messages_in(data):
        failure_in(data, found)
        attribute_table(data, found.start, found.end)
    attribute_table(data, 0, len(data))


def test_nested_and_string_attributes() -> None:
    """A nested attribute holds attributes; a string ends at its NUL."""
    data = nested(7, string(2, "tap0"), attribute(3, b"\1"))
    (inner,) = attribute_table(data, 0, len(data)).values()
    table = attribute_table(inner, 0, len(inner))
    assert text_of(table[2]) == "tap0"
    assert table[3] == b"\1"


def test_too_long_an_attribute_is_an_error() -> None:
    """A length that its field cannot hold is never cut silently."""
    with pytest.raises(ValueError, match="over 65535"):
        attribute(8, bytes(65532))


@pytest.mark.parametrize("capped", [True, False])
def test_error_carries_the_kernels_own_words(capped: bool) -> None:
    """The text is found whether or not the request is repeated before it."""
    request = message(24, 0, b"" if capped else b"12345")
    flags = NLM_F_ACK_TLVS | (NLM_F_CAPPED if capped else 0)
    data = struct.pack("=i", -errno.EINVAL) + request + string(1, "Invalid prefix")
    found = Message(NLMSG_ERROR, flags, 1, 0, len(data))
    assert failure_in(data, found) == Failure(errno.EINVAL, "Invalid prefix")


def test_acknowledgement_is_no_failure() -> None:
    """Zero is success."""
    data = struct.pack("=i", 0) + bytes(16)
    assert failure_in(data, Message(NLMSG_ERROR, NLM_F_CAPPED, 1, 0, len(data))) is None
