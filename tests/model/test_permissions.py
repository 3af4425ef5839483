"""Allow-lists of the bus: complete, narrow, and made from the table alone."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model import topics
from hopwall_model.permissions import Permissions, User, permissions
from hopwall_model.topics import Role, Topic

NAMES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
H1 = User(Role.HOST, "h1")
USERS = [User(Role.API), User(Role.CALC), User(Role.AUDITOR), H1]


def covers(pattern: str, subject: str) -> bool:
    """Tell whether a pattern matches everything that a subject or pattern does. Source: NATS ADR-6."""
    left, right = pattern.split("."), subject.split(".")
    for i, token in enumerate(left):
        if token == ">":
            return i < len(right)
        if i >= len(right) or right[i] == ">" or (token != "*" and token != right[i]):
            return False
    return len(left) == len(right)


def overlap(one: str, other: str) -> bool:
    """Tell whether some subject is matched by both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def test_what_a_host_may_do_is_this() -> None:
    """Its own batch, rules question and inbox; shared scopes read-only; no request to the server."""
    assert permissions(H1) == Permissions(
        publish=(
            "hopwall.snapshot.h1",
            "hopwall.flows.*.h1",
            "hopwall.status.host.h1",
            "hopwall.status.moved.h1",
            "hopwall.drift.h1",
            "hopwall.rejected.dataplane-h1",
        ),
        subscribe=(
            "_INBOX.host.h1.>",
            "hopwall.update.host.h1",
            "hopwall.update.shared.>",
            "hopwall.rules.h1",
            "hopwall.release.h1",
            "hopwall.flows.h1.*",
        ),
        answers=True,
    )


def test_the_auditor_listens() -> None:
    """Events, drift and rejections; all it may say is what it could not read."""
    assert permissions(User(Role.AUDITOR)) == Permissions(
        publish=("hopwall.rejected.auditor",),
        subscribe=(
            "_INBOX.auditor.>",
            "hopwall.event.>",
            "hopwall.drift.*",
            "hopwall.rejected.*",
        ),
    )


def test_only_the_api_writes_intent() -> None:
    """No other role may publish any subject of events."""
    writers = [
        user.role
        for user in USERS
        if any(overlap(allowed, topics.EVENT.pattern) for allowed in permissions(user).publish)
    ]
    assert writers == [Role.API]


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.pattern)
def test_every_topic_has_someone_at_both_ends(topic: Topic[Any]) -> None:
    """A topic cannot be added without saying who sends and who hears it, and both may."""
    assert topic.senders
    assert topic.receivers or topic.readers
    assert bool(topic.readers) == bool(topic.stream)
    for user in USERS:
        allowed = permissions(user)
        if user.role in topic.senders:
            assert any(covers(topic.pattern, one) for one in allowed.publish)
        if user.role in topic.receivers:
            assert any(covers(topic.pattern, one) for one in allowed.subscribe)
        if user.role in topic.readers:
            assert f"$JS.API.CONSUMER.CREATE.{topic.stream}" in allowed.publish


def test_what_varies_is_a_star() -> None:
    """The place that a host or a service fills is one token of the pattern."""
    stars = {"": 0, "hosts": 2}
    assert [t.pattern.count("*") for t in topics.TOPICS] == [
        stars.get(t.varies, 1) for t in topics.TOPICS
    ]


@given(NAMES, NAMES)
def test_two_hosts_share_what_is_shared_alone(one: str, other: str) -> None:
    """Whatever hosts are called, what one sends no other sends or hears, and each hears only its own."""
    if one == other:
        return
    first, second = permissions(User(Role.HOST, one)), permissions(User(Role.HOST, other))
    asks = f"hopwall.flows.*.{topics.token(one)}"
    for said in first.publish:
        heard = [s for s in (*second.publish, *second.subscribe) if overlap(said, s)]
        # The one question that hosts ask each other; who asks stands in it.
        assert heard == ([topics.flows_subject(other, "*")] if said == asks else [])
    both = [a for a in first.subscribe for b in second.subscribe if overlap(a, b)]
    assert both == [topics.SHARED.pattern]


@given(NAMES)
def test_no_name_widens_an_allow_list(name: str) -> None:
    """A host's name never becomes a wildcard, a further token, or the end of a text."""
    allowed = permissions(User(Role.HOST, name))
    for subject in (*allowed.publish, *allowed.subscribe):
        assert re.fullmatch(r"[A-Za-z0-9_=.>*-]+", subject)
        assert subject.count("*") == subject.startswith("hopwall.flows.")
        assert subject.count(">") == (subject.endswith(".>"))
        assert not subject.startswith("$")


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.role)
def test_no_list_is_empty_and_inboxes_are_ones_own(user: User) -> None:
    """To the server an empty list allows everything; and nobody listens where others are answered."""
    allowed = permissions(user)
    assert allowed.publish
    inboxes = [one for one in allowed.subscribe if overlap(one, "_INBOX.>")]
    assert inboxes == [topics.inbox_prefix(str(user.role), user.host) + ".>"]


@pytest.mark.parametrize("user", [User(Role.HOST), User(Role.API, "h1")])
def test_a_host_has_a_name_and_nobody_else(user: User) -> None:
    """A credential without an owner is none."""
    with pytest.raises(ValueError, match="a host, and no other"):
        permissions(user)
