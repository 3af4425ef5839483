"""Subjects: one per name, whatever the name is."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model import topics
from hopwall_model.resources import Key
from hopwall_model.updates import Scope

NAMES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def _matches(pattern: str, subject: str) -> bool:
    parts = [{"*": "[^.]+", ">": ".+"}.get(part, re.escape(part)) for part in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), subject) is not None


@given(NAMES, NAMES)
def test_tokens_are_injective(one: str, other: str) -> None:
    """Two names have the same token only if they are the same name."""
    assert (topics.token(one) == topics.token(other)) == (one == other)


@given(NAMES)
def test_tokens_hold_nothing_special(name: str) -> None:
    """A token has no dot, wildcard, space or control character."""
    assert re.fullmatch(r"[A-Za-z0-9_=-]*", topics.token(name))


@given(NAMES)
def test_a_token_can_be_read_back(name: str) -> None:
    """The escapes are the UTF-8 bytes of the name: an auditor can read them back."""
    token = topics.token(name)
    raw = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), token.encode())
    assert raw.decode() == name


def test_plain_names_stay_readable() -> None:
    """Names of plain letters stay as they are, and dots are escaped."""
    assert topics.event_subject(Key("Tier", "", "default")) == "hopwall.event.tier._.default"
    assert (
        topics.event_subject(Key("WorkloadEndpoint", "ns", "vm.1"))
        == "hopwall.event.workloadendpoint.ns.vm=2E1"
    )
    assert topics.shared_subject(Scope("policy/np/ns/a")) == (
        "hopwall.update.shared.policy.np=2Fns=2Fa"
    )


def test_the_empty_namespace_is_not_a_namespace() -> None:
    """No namespace's subject is that of the global kinds: `_` is not a valid namespace."""
    assert topics.event_subject(Key("Tier", "", "a")).split(".")[3] == "_"
    assert topics.event_subject(Key("Tier", "a", "a")).split(".")[3] == "a"


@pytest.mark.parametrize("name", ["h1", "host.example", "a b*>", "ü"])
def test_subjects_fall_under_their_topics(name: str) -> None:
    """Every subject is matched by the pattern of its topic."""
    pairs: list[tuple[topics.Topic[Any], str]] = [
        (topics.EVENT, topics.event_subject(Key("Node", "", name))),
        (topics.HOST_BATCH, topics.host_batch_subject(name)),
        (topics.SHARED, topics.shared_subject(Scope(f"set/{name}"))),
        (topics.SNAPSHOT, topics.snapshot_subject(name)),
        (topics.RULES, topics.rules_subject(name)),
        (topics.HOST_STATUS, topics.host_status_subject(name)),
        (topics.DRIFT, topics.drift_subject(name)),
        (topics.REJECTED, topics.rejected_subject(name)),
    ]
    for topic, subject in pairs:
        assert _matches(topic.pattern, subject)
        assert [other for other in topics.TOPICS if _matches(other.pattern, subject)] == [topic]


def test_no_two_topics_share_a_pattern() -> None:
    """A subject tells the type."""
    assert len({topic.pattern for topic in topics.TOPICS}) == len(topics.TOPICS)
