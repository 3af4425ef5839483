"""Bytes and values: any bytes are a value of the type or a `CodecError`."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model import codec, topics
from hopwall_model.codec import CodecError
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Metadata, Tier, TierSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["event", "resource", "kind", "metadata", "spec", "name", "host", "epoch"]
            ),
            inner | st.sampled_from(["resource.set", "resource.removed", "Tier", "policy.set"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _decodes_or_refuses(data: bytes) -> None:
    for topic in topics.TOPICS:
        try:
            value = topic.decode(data)
        except CodecError:
            continue
        assert topic.decode(codec.encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    """No bytes make a decoder raise anything but `CodecError`."""
    _decodes_or_refuses(data)


@given(JSON)
def test_any_json_is_a_value_or_a_codec_error(document: object) -> None:
    """No JSON document makes a decoder raise anything but `CodecError`."""
    _decodes_or_refuses(msgspec.json.encode(document))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"event":"resource.set","resource":{"kind":"Tier","status":' + b'{"a":' * 100_000,
        b'{"event":"resource.set","resource":{"kind":"Tier","metadata":{"name":"\xff"}}}',
        b'{"event":"resource.set","resource":{"kind":"Tier","metadata":{"name":"\\ud800"}}}',
        b'{"event":"resource.set","resource":{"kind":"Tier","metadata":{"name":1}}}',
        b'{"event":"resource.set","resource":{"kind":"Pod","metadata":{"name":"a"}}}',
        b'{"event":"resource.gone","key":{"kind":"Tier","namespace":"","name":"a"}}',
        b'{"event":"resource.removed","key":{"kind":"Tier","namespace":""}}',
    ],
)
def test_bad_events_are_refused(data: bytes) -> None:
    """Truncated, deep, ill-typed and unknown events are refused."""
    with pytest.raises(CodecError):
        codec.decode_event(data)


@given(
    st.from_regex(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("x"), max_size=3),
)
def test_events_round_trip(name: str, order: float | None, labels: dict[str, str]) -> None:
    """What is encoded decodes to an equal value, whichever the event."""
    tier = Tier(metadata=Metadata(name=name, labels=labels), spec=TierSpec(order=order))
    events: list[Event] = [
        ResourceSet(resource=tier),
        ResourceRemoved(key=Key("Tier", "", name)),
    ]
    for event in events:
        assert codec.decode_event(codec.encode(event)) == event
        assert event.key == Key("Tier", "", name)


def test_the_place_of_a_fault_is_named() -> None:
    """The error names the path of the first fault."""
    with pytest.raises(CodecError, match=r"\$\.resource\.metadata\.name"):
        codec.decode_event(
            b'{"event":"resource.set","resource":{"kind":"Tier","metadata":{"name":1}}}'
        )
