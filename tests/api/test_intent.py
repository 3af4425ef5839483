"""From what is wanted and what is held to what is written."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_api.intent import Expectation, Stamp, check, merge, plan_removal, plan_set
from hopwall_api.problems import ApiProblem
from hopwall_api.store import NOTHING, Held, shown
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Metadata, Node

KEY = Key("Node", "", "a")
STAMP = Stamp(uid="6c0e4e8e-1111-4222-8333-123456789abc", at="2026-01-01T00:00:00Z")


def node(**fields: Any) -> Node:
    """Return a Node named a."""
    return Node(metadata=Metadata(name="a", **fields))


def held(revision: int, **fields: Any) -> Held:
    """Return what is held after a Node was stored at this revision."""
    return Held(last=revision, stored=shown(node(uid="u0", generation=3, **fields), revision))


def refusal(expectation: Expectation, now: Held) -> int:
    """Return the status of the refusal, or 0."""
    try:
        check(KEY, now, expectation)
    except ApiProblem as problem:
        return problem.status
    return 0


@pytest.mark.parametrize(
    ("expectation", "of_nothing", "of_seven"),
    [
        (Expectation(), 0, 0),
        (Expectation(if_match=("*",)), 412, 0),
        (Expectation(if_match=("7",)), 412, 0),
        (Expectation(if_match=("5", "7")), 412, 0),
        (Expectation(if_match=("8",)), 412, 412),
        (Expectation(absent=True), 0, 412),
        (Expectation(create=True), 0, 409),
        (Expectation(version="7"), 409, 0),
        (Expectation(version="6"), 409, 409),
        (Expectation(version=""), 0, 409),
    ],
)
def test_expectations_are_held_to(expectation: Expectation, of_nothing: int, of_seven: int) -> None:
    """Each precondition, where nothing is stored and where revision 7 is."""
    assert refusal(expectation, NOTHING) == of_nothing
    assert refusal(expectation, held(7)) == of_seven


def test_a_new_resource_gets_identity_from_the_server() -> None:
    """uid, creation time and generation are the server's, whatever the user sent."""
    plan = plan_set(KEY, node(uid="mine", generation=99, resource_version="5"), NOTHING, STAMP)
    assert isinstance(plan.event, ResourceSet)
    metadata = plan.event.resource.metadata
    assert (metadata.uid, metadata.creation_timestamp, metadata.generation) == (
        STAMP.uid_of(KEY),
        STAMP.at,
        1,
    )
    assert metadata.resource_version is None
    assert (plan.word, plan.expected) == ("created", 0)


def test_each_resource_of_a_request_has_a_uid_of_its_own() -> None:
    """One bulk request makes many resources; no two of them are the same."""
    other = Key(KEY.kind, KEY.namespace, "other")
    assert STAMP.uid_of(KEY) != STAMP.uid_of(other)
    assert STAMP.uid_of(KEY) == STAMP.uid_of(KEY)


def test_a_change_keeps_identity_and_counts() -> None:
    """A replacement is the same resource, one generation on."""
    plan = plan_set(KEY, node(labels={"x": "1"}), held(7), STAMP)
    assert (plan.word, plan.expected) == ("configured", 7)
    assert (plan.resource.metadata.uid, plan.resource.metadata.generation) == ("u0", 4)


def test_an_equal_value_is_not_written() -> None:
    """What changes nothing for the user is no event, bookkeeping aside."""
    plan = plan_set(KEY, node(uid="other", generation=1), held(7), STAMP)
    assert (plan.word, plan.event) == ("unchanged", None)


def test_after_a_removal_the_tombstone_is_expected() -> None:
    """A resource made anew goes on top of the tombstone and is another one."""
    plan = plan_set(KEY, node(), Held(last=9, stored=None), STAMP)
    assert (plan.word, plan.expected) == ("created", 9)


def test_a_removal_is_a_tombstone_and_needs_something_to_remove() -> None:
    """Absence is an event; removing nothing is 404."""
    assert plan_removal(KEY, held(7)).event == ResourceRemoved(key=KEY)
    with pytest.raises(ApiProblem) as refused:
        plan_removal(KEY, Held(last=9, stored=None))
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_its_rfc(target: Any, patch: Any, result: Any) -> None:
    """The table of RFC 7396, appendix A."""
    assert merge(target, patch) == result


documents = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(target=documents, patch=documents)
def test_a_merge_patch_without_null_is_idempotent(target: Any, patch: Any) -> None:
    """Applying it again changes nothing, and leaves its inputs alone."""
    once = merge(target, patch)
    assert merge(once, patch) == once


def test_a_patch_deeper_than_any_resource_is_refused() -> None:
    """Depth is bounded, so a patch cannot exhaust the stack."""
    patch: Any = {}
    for _ in range(100):
        patch = {"a": patch}
    with pytest.raises(ApiProblem):
        merge({}, patch)
