"""Routes between real hosts with a real BIRD each: who learns what, and what survives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_model.bgp import PrefixRange
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel


def block(number: int) -> PrefixRange:
    """Return what a host is entitled to: its block, and what is inside."""
    return PrefixRange(f"10.65.{number}.0/24", 24, 32)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[BirdHosts]:
    """Make three hosts; nothing runs yet."""
    with BirdHosts("bgp", tmp_path, 3) as found:
        yield found


def start_mesh(hosts: BirdHosts, *numbers: int) -> None:
    """Start a full mesh."""
    for here in numbers:
        hosts[here].start()
        sessions = [mesh(here, there, block(there)) for there in numbers if there != here]
        hosts[here].configure(speaker(here, *sessions))


def test_a_mesh_learns_every_hosts_workloads_and_forgets_them(hosts: BirdHosts) -> None:
    """A route of ours on one host stands on the others, by that host, and goes when it goes."""
    hosts[1].workload("10.65.1.4/32", "10.65.1.5/32")
    start_mesh(hosts, 1, 2, 3)
    via = "via 172.30.0.1 dev eth0 metric 2048"
    for other in (2, 3):
        until(lambda h=hosts[other]: h.learnt().keys() == {"10.65.1.4", "10.65.1.5"})  # type: ignore[misc]
        assert set(map(str.strip, hosts[other].learnt().values())) == {via}
    hosts[1].ns.run(["ip", "route", "del", "10.65.1.4/32"])
    for other in (2, 3):
        until(lambda h=hosts[other]: h.learnt().keys() == {"10.65.1.5"})  # type: ignore[misc]
    assert hosts[1].learnt() == {}
