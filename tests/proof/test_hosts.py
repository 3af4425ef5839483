"""What is rendered of host endpoints does what the documents say: into a host, out of it, through it."""

import pytest

from tests.proof.faults import HOST_FAULTS
from tests.proof.judges import Tally
from tests.proof.runs import asked_of_hosts

N_CLOUDS = 60
N_FLOWS = 60
N_FAULT_CLOUDS = 150


def test_host_endpoints_do_what_the_documents_say() -> None:
    """Untracked, before DNAT, the host's own and forwarded: each place decides as the resources mean."""
    tally = Tally()
    found = list(asked_of_hosts(range(N_CLOUDS), N_FLOWS, tally))
    assert [f"cloud {number}: {one}" for number, one in found] == []
    shares = {kind: n / tally.n_answers for kind, n in tally.kinds.items()}
    for kind in ("egress allow", "egress deny", "ingress allow", "ingress deny"):
        assert shares[kind] > 0.04, f"too few of {kind} to say anything: {shares}"


@pytest.mark.parametrize("name", HOST_FAULTS)
def test_a_fault_of_host_endpoints_is_seen(name: str) -> None:
    """Whatever could be wrong with host endpoints, the rig must see."""
    numbers = range(N_FAULT_CLOUDS)
    assert next(asked_of_hosts(numbers, N_FLOWS, Tally(), HOST_FAULTS[name]), None) is not None
