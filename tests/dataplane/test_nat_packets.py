"""Translated addresses with real packets, on both backends and in both families."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from hopwall_model.updates import NAT_POOLS, POOLS, Nat, SetBucket, SetId
from tests.dataplane.test_host_packets import ANY, BOTH, WORKLOADS
from tests.support.site import HOST, REMOTE, WORKLOAD, Site, clean

pytestmark = pytest.mark.kernel

FLOATING = {"a": {4: "203.0.113.10", 6: "fd03::10"}, "b": {4: "203.0.113.11", 6: "fd03::11"}}
RANGES = ("10.65.0.0/24", "fd65::/64")


@pytest.fixture(scope="module", params=["nft", "legacy"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give a host on each backend in turn."""
    with Site(str(request.param)) as made:
        yield made


def pools(outgoing: bool) -> tuple[SetBucket, SetBucket]:
    """Return the sets of pools, with or without natOutgoing."""
    every = SetBucket(id=SetId(POOLS), version=1, members=RANGES)
    return every, SetBucket(id=SetId(NAT_POOLS), version=1, members=RANGES if outgoing else ())


FLOATERS = tuple(
    structs.replace(
        workload,
        nats=(
            Nat(f"{FLOATING[name][4]}/32", f"{WORKLOAD[name][4]}/32"),
            Nat(f"{FLOATING[name][6]}/128", f"{WORKLOAD[name][6]}/128"),
        ),
    )
    for name, workload in zip("ab", WORKLOADS, strict=True)
)


def test_a_pool_with_nat_outgoing_leaves_under_the_hosts_address(site: Site) -> None:
    """Out of all pools the host's address is seen, inside them the workload's own; without it, always that."""
    a = site.workloads["a"]
    for outgoing, seen in ((True, HOST), (False, WORKLOAD["a"])):
        assert site.apply(ANY, *WORKLOADS, *pools(outgoing)) == []
        for family in BOTH:
            assert site.sees(a, REMOTE[family]) == seen[family]
            assert site.sees(a, WORKLOAD["b"][family]) == WORKLOAD["a"][family]
    assert "hw-nat" not in site.tables()


def test_without_all_pools_known_nothing_is_hidden(site: Site) -> None:
    """Half of the truth would hide workloads from each other."""
    site.apply(ANY, *WORKLOADS, pools(outgoing=True)[1])
    assert "MASQUERADE" not in site.tables()


def test_a_floating_address_is_reached_from_everywhere_and_seen_outside(site: Site) -> None:
    """In from a remote machine, the host, another workload and itself; out under the floating address."""
    assert site.apply(ANY, *FLOATERS, *pools(outgoing=True)) == []
    a, b = site.workloads["a"], site.workloads["b"]
    for family in BOTH:
        floating = FLOATING["a"][family]
        assert site.sees(site.remote, floating) == REMOTE[family]
        assert site.sees(site.host, floating)
        assert site.sees(b, floating) == WORKLOAD["b"][family]
        assert site.sees(a, floating) == floating
        assert site.sees(a, REMOTE[family]) == floating
        assert site.sees(a, WORKLOAD["b"][family]) == WORKLOAD["a"][family]


def test_an_address_of_the_host_is_never_given_away(site: Site) -> None:
    """Who declares the host's own address as floating is refused by name, and the host stays itself."""
    thief = structs.replace(WORKLOADS[0], nats=(Nat(f"{HOST[4]}/32", f"{WORKLOAD['a'][4]}/32"),))
    [told] = site.apply(ANY, thief, WORKLOADS[1], *pools(outgoing=False))
    assert told.startswith(f"nat {HOST[4]}/32 of endpoint d/a: ")
    assert "hw-nat" not in site.tables()


def test_what_others_change_in_the_nat_table_is_put_right(site: Site) -> None:
    """A line emptied out comes back, and ours stands after what others appended."""
    site.apply(ANY, *FLOATERS, *pools(outgoing=True))
    tool = f"iptables-{site.backend}"
    before = site.tables()
    site.host.run([tool, "-t", "nat", "-F", "hw-nat-to"])
    site.host.run([tool, "-t", "nat", "-A", "POSTROUTING", "-s", "198.51.100.1", "-j", "ACCEPT"])
    site.apply(ANY, *FLOATERS, *pools(outgoing=True))
    foreign = "-A POSTROUTING -s 198.51.100.1/32 -j ACCEPT"
    lines = site.tables().splitlines()
    assert lines.index(foreign) < next(i for i, x in enumerate(lines) if "-j hw-nat-post" in x)
    site.host.run([tool, "-t", "nat", "-D", "POSTROUTING", "-s", "198.51.100.1", "-j", "ACCEPT"])
    rules = [x for x in before.splitlines() if x.startswith("-A")]
    assert [x for x in site.tables().splitlines() if x.startswith("-A")] == rules


def test_cleanup_leaves_nothing_of_the_nat_table(site: Site) -> None:
    """Chains and jumps go, and with them the sets they name."""
    site.apply(ANY, *FLOATERS, *pools(outgoing=True))
    assert "hw-nat-to" in site.tables()
    site.host.python(clean, site.settings)
    assert "hw-" not in site.tables()
    assert "hw4-" not in site.host.run(["ipset", "list", "-n"])
