"""Answers to "why": read from the graph as it was last flushed, changing nothing."""

from msgspec import Struct

from hopwall_calc.graph import Graph
from hopwall_calc.rules import NamedPort, SetSource
from hopwall_model.resources import Key
from hopwall_model.selectors import Selector, canonical, parse
from hopwall_model.updates import PolicyId, SetId


class Why(Struct, frozen=True, kw_only=True):
    """Whether it is so, and the reason in one sentence."""

    holds: bool
    reason: str


def _source_of(graph: Graph, set_id: SetId) -> SetSource | None:
    for policy in graph.nodes.policies.out.values.values():
        if set_id in policy.sets:
            return policy.sets[set_id]
    return None


def why_in_set(graph: Graph, key: Key, set_id: SetId) -> Why:
    """Tell whether an endpoint or network set puts its addresses, or a port of them, into a set, and why."""
    source = _source_of(graph, set_id)
    if source is None:
        return Why(holds=False, reason=f"No rule in use names the set {set_id}.")
    if isinstance(source, tuple):
        return Why(holds=False, reason=f"Set {set_id} is the list of ranges {', '.join(source)}.")
    labels = graph.nodes.labels.out.get(key)
    if labels is None:
        return Why(holds=False, reason=f"{key} does not exist.")
    if isinstance(source, Selector):
        return _selected(key, labels, source)
    return _has_port(graph, key, labels, source)


def _has_port(graph: Graph, key: Key, labels: dict[str, str], source: NamedPort) -> Why:
    why = _selected(key, labels, source.selector)
    ports = graph.nodes.named_ports.out.get(key) or {}
    if why.holds and (source.protocol, source.port) not in ports:
        reason = f"{key} has no port {source.port} of protocol {source.protocol} at any address."
        return Why(holds=False, reason=reason)
    return why


def why_policy(graph: Graph, endpoint: Key, policy_id: PolicyId) -> Why:
    """Tell whether a policy or profile applies to an endpoint, and why."""
    placed = graph.nodes.endpoints.out.get(endpoint)
    labels = graph.nodes.labels.out.get(endpoint)
    if placed is None or labels is None:
        return Why(holds=False, reason=f"{endpoint} does not exist.")
    if policy_id.startswith("profile/"):
        named = policy_id in placed[1].profiles
        verb = "lists" if named else "does not list"
        return Why(holds=named, reason=f"{endpoint} {verb} the profile.")
    for policy in graph.nodes.declared_policies.out.values.values():
        if policy.id == policy_id:
            early = policy.do_not_track or policy.pre_dnat
            if early and endpoint.kind == "WorkloadEndpoint":
                reason = f"Policy {policy_id} is for host endpoints only (doNotTrack or preDNAT)."
                return Why(holds=False, reason=reason)
            return _selected(endpoint, labels, policy.selector)
    return Why(holds=False, reason=f"Policy {policy_id} does not exist.")


def _selected(key: Key, labels: dict[str, str], selector: Selector) -> Why:
    holds = selector.matches(labels)
    shown = ", ".join(f"{label}={value}" for label, value in sorted(labels.items()))
    verb = "matches" if holds else "does not match"
    return Why(holds=holds, reason=f"{key} with {shown} {verb} {canonical(selector)}.")


def matching(graph: Graph, selector: str) -> list[Key]:
    """Return the endpoints and network sets that a selector's text means, sorted.

    Errors: SelectorError for text that is no selector.
    """
    parsed = parse(selector)
    labels = graph.nodes.labels.out.values
    return sorted(key for key, given in labels.items() if parsed.matches(given))
