"""The rig is tried itself: whatever could be wrong with rendering, it must see."""

from functools import cache
from random import Random

import pytest

from tests.proof.cloud import Cloud, Flow
from tests.proof.faults import FAULTS
from tests.proof.judges import Rig
from tests.proof.semantics import Semantics
from tests.proof.strategies import cloud_of, flows_in

#: A fault must show within so many packets: that many clouds, and packets in each.
N_CLOUDS = 150
N_FLOWS = 100


@cache
def asked(number: int) -> tuple[Cloud, tuple[Flow, ...]]:
    """Return a cloud and the flows to be asked about."""
    chance = Random(number)
    cloud = cloud_of(chance)
    return cloud, tuple(flows_in(Semantics(cloud), chance, N_FLOWS))


def test_there_are_faults_of_every_stage() -> None:
    """At least a dozen ways to be wrong are tried."""
    assert len(FAULTS) > 40


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name: str) -> None:
    """A rig that lets a fault by proves nothing when it finds none."""
    for number in range(N_CLOUDS):
        cloud, flows = asked(number)
        if Rig(cloud, FAULTS[name]).disagreements(flows):
            return
    pytest.fail(f"{name}: not seen by {N_CLOUDS * N_FLOWS} packets")
