"""What the real kernel does with real packets is what the documents say; what it holds is what was fed."""

import pytest

from tests.proof.runs import on_the_wire

pytestmark = pytest.mark.kernel
N_FLOWS = 250
#: Clouds whose host h1 has much to say.
CLOUDS = (6, 35, 44, 48)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_packets_on_the_wire_meet_what_the_documents_say(backend: str) -> None:
    """TCP, UDP, SCTP, UDPLite, ICMP and others, both families: the very packets, both ends."""
    outcomes = [on_the_wire(number, N_FLOWS, backend) for number in CLOUDS]
    assert [problem for outcome in outcomes for problem in outcome.problems] == []
    assert sum(outcome.n_allowed for outcome in outcomes) > 50, "too little came out"
    assert sum(outcome.n_denied for outcome in outcomes) > 50, "too little was stopped"


def test_a_wrong_expectation_is_seen() -> None:
    """The wire is no yes-man: told the opposite of the semantics, it objects to every packet."""
    outcome = on_the_wire(CLOUDS[0], N_FLOWS, "nft", opposite=True)
    assert len(outcome.problems) == outcome.n_sent > 50
