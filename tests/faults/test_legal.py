"""The model of legal states: one verdict at rest, two while something changes, and never more."""

from hopwall_model.resources import Resource
from tests.faults.cloud import admitted, document, within
from tests.faults.legal import Legal, with_resource, without_resource
from tests.faults.streams import Stream, Verdict, always
from tests.proof.cloud import Flow

OPEN, CLOSED, EITHER = frozenset({True}), frozenset({False}), frozenset({True, False})
FLOW = Flow(
    source="10.65.0.1",
    destination="10.65.0.2",
    protocol=17,
    source_port=1,
    destination_port=2,
    sender="default/a",
)


def endpoint(name: str, number: int) -> Resource:
    """Return a workload of x."""
    spec = {"node": "h1", "interfaceName": f"tap{name}", "ipNetworks": [f"10.65.0.{number}/32"]}
    item = document("WorkloadEndpoint", name, spec, labels={"customer": "x"})
    item["metadata"]["namespace"] = "default"
    return admitted(item)


A, B = endpoint("a", 1), endpoint("b", 2)
POLICY = admitted(within("x"))
SHUT = admitted(within("x", "customer == 'z'"))
FIRST = (A, B, POLICY)


def test_at_rest_one_verdict_is_legal() -> None:
    """What the documents say, and of who is not declared, that nothing passes."""
    assert Legal(FIRST).may(FLOW, 1, 2) == OPEN
    assert Legal((A, B, SHUT)).may(FLOW, 1, 2) == CLOSED
    assert Legal((A, POLICY)).may(FLOW, 1, 2) == CLOSED
    assert Legal((B, POLICY)).may(FLOW, 1, 2) == CLOSED


def test_both_verdicts_are_legal_from_the_sending_of_a_change_until_it_is_enforced() -> None:
    """A packet is under way for a while: it may meet what began meanwhile, and not what had ended before."""
    legal = Legal(FIRST)
    number = legal.begin(10.0, with_resource(FIRST, SHUT))
    assert legal.may(FLOW, 9.0, 9.2) == OPEN
    assert legal.may(FLOW, 9.9, 10.1) == EITHER
    assert legal.may(FLOW, 50.0, 50.2) == EITHER
    legal.settle(number, 60.0)
    assert legal.may(FLOW, 59.9, 60.1) == EITHER
    assert legal.may(FLOW, 60.0, 60.2) == CLOSED
    legal.begin(70.0, FIRST)
    assert legal.may(FLOW, 61.0, 61.2) == CLOSED
    assert legal.may(FLOW, 70.1, 70.3) == EITHER


def test_what_was_never_settled_is_settled_by_the_next_that_is() -> None:
    """A change of which nothing is known is over when a later one is enforced."""
    legal = Legal(FIRST)
    legal.begin(10.0, without_resource(FIRST, B))
    number = legal.begin(20.0, FIRST)
    legal.settle(number, 30.0)
    assert legal.may(FLOW, 25.0, 25.2) == EITHER
    assert legal.may(FLOW, 31.0, 31.2) == OPEN


def test_the_ends_of_a_flow_change_by_themselves() -> None:
    """Old at one host and new at the other is legal, though no state says it."""
    leaves_only = admitted(document("GlobalNetworkPolicy", "within-x", {
        "selector": "customer == 'x'", "types": ["Ingress", "Egress"], "egress": [{"action": "Allow"}],
    }))  # fmt: skip
    comes_only = admitted(document("GlobalNetworkPolicy", "within-x", {
        "selector": "customer == 'x'", "types": ["Ingress", "Egress"], "ingress": [{"action": "Allow"}],
    }))  # fmt: skip
    legal = Legal((A, B, leaves_only))
    assert legal.may(FLOW, 1, 2) == CLOSED
    legal.begin(10.0, (A, B, comes_only))
    assert legal.may(FLOW, 11, 12) == EITHER


def test_who_has_no_cable_is_excused_and_nobody_else() -> None:
    """From the pulling of a cable until some time after it is back either verdict of its flows is legal."""
    legal = Legal(FIRST)
    excuse = legal.excuse(10.0, "default/b")
    assert legal.may(FLOW, 11, 12) == EITHER
    excuse.until = 20.0
    assert legal.may(FLOW, 21, 22) == OPEN
    assert legal.may(FLOW, 8, 9) == OPEN
    other = legal.excuse(30.0, "default/c")
    assert legal.may(FLOW, 31, 32) == OPEN
    assert other.until > 1e9


class _Ear:
    """A socket's end: what came."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def sendto(self, data: bytes, _address: object) -> None:
        self.waiting.append(data)

    def recv(self, _n: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0)


def _stream(is_open: bool) -> tuple[Stream, _Ear]:
    ear = _Ear()
    return Stream("a to b v4", always(is_open), ear, ear, ("", 0)), ear  # type: ignore[arg-type]


def test_a_probe_that_does_otherwise_than_is_legal_is_counted_on_its_side() -> None:
    """One that came and must not is open; one that had to and did not is closed, until it comes late."""
    stream, ear = _stream(is_open=False)
    stream.send()
    stream.drain()
    stream.judge(float("inf"))
    assert stream.wrong == {0: True}

    stream, ear = _stream(is_open=True)
    stream.send()
    late = ear.waiting.pop()
    stream.judge(float("inf"))
    assert stream.wrong == {0: False}
    ear.waiting.append(late)
    stream.drain()
    assert stream.wrong == {}
    assert Verdict().n_open == 0
