"""What a hostile workload sends comes nowhere, and what it takes up is bounded."""

import socket

import pytest

from tests.faults.hostile.__main__ import results
from tests.faults.hostile.maker import OPEN
from tests.faults.hostile.rig import state
from tests.support.site import REMOTE, WORKLOAD, Site, seen_by

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_no_hostile_shape_comes_anywhere_and_genuine_ones_do(backend: str) -> None:
    """Spoofed, hidden, malformed, claiming: of over a hundred shapes a family nothing arrives or is believed."""
    found = results(backend)
    assert [f"v{r.shape.family} {r.shape.name}: {r.fault}" for r in found if r.fault] == []
    assert min(sum(r.shape.family == family for r in found) for family in (4, 6)) >= 100


def test_the_ears_hear_what_nobody_stops() -> None:
    """Without our rules most shapes come through: that they do not is our doing, and it would be seen."""
    came = [r for r in results("nft", bare=True) if r.fault]
    assert len(came) >= 120
    kinds = {r.shape.name.split(",")[0].split(" ")[0] for r in came}
    assert kinds >= {
        "source",
        "spoofed",
        "to",
        "echo",
        "SYN",
        "GRE",
        "VXLAN",
        "TCP",
        "DHCP",
        "protocol",
    }


def _flood(family: int, n: int) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    for port in range(20000, 20000 + n):
        with socket.socket(kind, socket.SOCK_DGRAM) as one:
            one.bind((WORKLOAD["a"][family], port))
            one.sendto(b"x", (REMOTE[family], OPEN))


def _connected(family: int, patience_s: float) -> bool:
    return bool(seen_by(REMOTE[family], 80, patience_s))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_workload_has_as_many_flows_as_it_may_and_others_are_not_its_matter(backend: str) -> None:
    """With `max_flows`, a flood of new flows ends at the limit, and the neighbour goes on."""
    with Site(backend, max_flows=100) as site:
        assert not site.apply(*state())
        a, b = site.workloads["a"], site.workloads["b"]
        for family in (4, 6):
            a.python(_flood, family, 400)
            count = site.host.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])
            # The limit of this family, and of the other one before it, and what neighbours ask.
            assert 100 <= int(count) <= 100 * (1 if family == 4 else 2) + 20
            assert not a.python(_connected, family, 1.0)
            assert b.python(_connected, family, 20.0)
