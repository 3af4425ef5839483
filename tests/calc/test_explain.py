"""Answers to why."""

from hopwall_calc.explain import matching, why_in_set, why_policy
from hopwall_calc.graph import Graph
from hopwall_model.events import ResourceSet
from hopwall_model.resources import Key, key_of
from hopwall_model.updates import PolicyId, SetId
from tests.support.states import DB1, POLICED, WEB1


def policed() -> Graph:
    """Return a graph of the policed state."""
    graph = Graph("e")
    for number, resource in enumerate(POLICED, start=1):
        graph.on_event(ResourceSet(resource=resource), number)
    graph.flush()
    return graph


def test_membership_is_explained() -> None:
    """The selector and the labels are named."""
    graph = policed()
    [set_id] = graph.nodes.sets.members
    why = why_in_set(graph, key_of(WEB1), set_id)
    assert why.holds
    assert 'matches role == "web"' in why.reason
    assert not why_in_set(graph, key_of(DB1), set_id).holds
    assert not why_in_set(graph, key_of(DB1), SetId("s:none")).holds


def test_application_of_a_policy_is_explained() -> None:
    """Policies by their selector, profiles by the list."""
    graph = policed()
    assert why_policy(graph, key_of(DB1), PolicyId("gnp/from-web")).holds
    assert not why_policy(graph, key_of(WEB1), PolicyId("gnp/from-web")).holds
    assert why_policy(graph, key_of(WEB1), PolicyId("profile/default")).holds
    assert not why_policy(graph, key_of(WEB1), PolicyId("gnp/absent")).holds
    absent = Key("WorkloadEndpoint", "default", "absent")
    assert "does not exist" in why_policy(graph, absent, PolicyId("gnp/from-web")).reason


def test_selector_is_answered() -> None:
    """Who is meant by a text, inherited labels included."""
    assert matching(policed(), "zone == 'a' && role == 'db'") == [key_of(DB1)]
