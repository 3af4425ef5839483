"""Answers to why."""

import pytest

from hopwall_calc.explain import matching, why_in_set, why_policy
from hopwall_calc.graph import Graph
from hopwall_model.events import ResourceSet
from hopwall_model.resources import EndpointPort, Key, Resource, key_of
from hopwall_model.updates import PolicyId, SetId
from tests.support.states import DB1, POLICED, WEB1, endpoint, gnp, host_endpoint, rule


def graph_of(*resources: Resource) -> Graph:
    """Return a graph of these resources."""
    graph = Graph("e")
    for number, resource in enumerate(resources, start=1):
        graph.on_event(ResourceSet(resource=resource), number)
    graph.flush()
    return graph


def policed() -> Graph:
    """Return a graph of the policed state."""
    return graph_of(*POLICED)


def test_membership_is_explained() -> None:
    """The selector and the labels are named."""
    graph = policed()
    [set_id] = graph.nodes.sets.members
    why = why_in_set(graph, key_of(WEB1), set_id)
    assert why.holds
    assert 'matches role == "web"' in why.reason
    assert not why_in_set(graph, key_of(DB1), set_id).holds
    assert not why_in_set(graph, key_of(DB1), SetId("s:none")).holds


def test_membership_of_a_named_port_is_explained() -> None:
    """Who is selected and has the port is in; who lacks it, or is not selected, is told which."""
    http = (EndpointPort(name="http", port=8080, protocol="TCP"),)
    has = endpoint("has", "h1", "10.65.0.1/32", labels={"role": "web"}, ports=http)
    lacks = endpoint("lacks", "h1", "10.65.0.2/32", labels={"role": "web"})
    other = endpoint("other", "h1", "10.65.0.3/32", labels={"role": "db"}, ports=http)
    to_web = {"selector": "role == 'web'", "ports": ("http",)}
    policy = gnp("p", "all()", rule(protocol="TCP", destination=to_web))
    graph = graph_of(has, lacks, other, policy)
    [set_id] = [s for s in graph.nodes.sets.members if s.startswith("np:")]
    assert why_in_set(graph, key_of(has), set_id).holds
    without = why_in_set(graph, key_of(lacks), set_id)
    assert not without.holds
    assert "has no port http of protocol 6" in without.reason
    unselected = why_in_set(graph, key_of(other), set_id)
    assert not unselected.holds
    assert "does not match" in unselected.reason


@pytest.mark.parametrize("early", ["do_not_track", "pre_dnat"])
def test_an_early_policy_is_for_host_endpoints_alone(early: str) -> None:
    """A workload that the selector means is told so; a host endpoint has the policy."""
    place = {early: True, "apply_on_forward": True, "types": ("Ingress",)}
    host = host_endpoint("eth0", "h1", "eth0")
    graph = graph_of(WEB1, host, gnp("early", "all()", rule(), **place))
    workload = why_policy(graph, key_of(WEB1), PolicyId("gnp/early"))
    assert not workload.holds
    assert "for host endpoints only" in workload.reason
    assert why_policy(graph, key_of(host), PolicyId("gnp/early")).holds


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
