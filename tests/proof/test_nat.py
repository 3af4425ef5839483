"""What is rendered of floating addresses and pools does what the documents say."""

import pytest

from tests.proof.faults import NAT_FAULTS
from tests.proof.judges import Tally
from tests.proof.runs import asked_of_nat

N_CLOUDS = 60
N_FLOWS = 60
N_FAULT_CLOUDS = 150


def test_addresses_are_translated_as_the_documents_say() -> None:
    """A packet is judged by its internal address and leaves under the right one, or not at all."""
    tally = Tally()
    found = list(asked_of_nat(range(N_CLOUDS), N_FLOWS, tally))
    assert [f"cloud {number}: {one}" for number, one in found] == []
    assert tally.kinds["egress allow"] > 100, "too little was allowed to say anything"
    assert tally.kinds["ingress allow"] > 100, "too little was allowed to say anything"


@pytest.mark.parametrize("name", NAT_FAULTS)
def test_a_fault_of_translation_is_seen(name: str) -> None:
    """Whatever could be wrong with translation, the rig must see."""
    numbers = range(N_FAULT_CLOUDS)
    assert next(asked_of_nat(numbers, N_FLOWS, Tally(), NAT_FAULTS[name]), None) is not None
