"""A peer that lies: a second real BIRD, told by hand to announce what it has no right to."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hopwall_model.bgp import Bgp, PrefixRange
from hopwall_model.status import BgpSession
from tests.support.bird_hosts import AS, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[BirdHosts]:
    """Make two hosts: the first is ours, the second is the rogue's."""
    with BirdHosts("rogue", tmp_path, 2) as found:
        yield found


def announce(hosts: BirdHosts, routes: Iterable[str], *extra: str, password: str = "") -> None:
    """Start the rogue, which exports these routes, each with what follows its network."""
    static = "\n".join(f"route {r};" for r in routes)
    secret = f'password "{password}";' if password else ""
    hosts[2].config.write_text(
        f"""router id 172.30.0.2;
        protocol device {{ }}
        protocol direct {{ ipv4; }}
        protocol static lies {{ ipv4; {static} }}
        protocol bgp victim {{
          local 172.30.0.2 as {AS}; neighbor 172.30.0.1 as {AS}; connect delay time 1; {secret}
          ipv4 {{ import none; export where proto = "lies"; {" ".join(extra)} }};
        }}"""
    )
    hosts[2].start()


def seen(hosts: BirdHosts, bgp: Bgp) -> BgpSession:
    """Return how our host sees its one session."""
    (found,) = hosts[1].see(bgp).sessions.values()
    return found


def test_nothing_foreign_comes_in(hosts: BirdHosts) -> None:
    """A default, a neighbour's block, a more specific, martians: only what the peer is entitled to stands."""
    bgp = speaker(
        1, mesh(1, 2, PrefixRange("10.65.2.0/24", 24, 26), PrefixRange("0.0.0.0/0", 0, 8))
    )
    hosts[1].start()
    hosts[1].configure(bgp)
    before = hosts[1].all_routes()
    lies = ["0.0.0.0/0", "240.0.0.0/8", "10.65.3.0/24", "10.65.2.7/32", "10.65.0.0/16",
            "169.254.1.1/32", "8.8.8.0/24", "172.30.0.2/32"]  # fmt: skip
    announce(hosts, [f"{net} blackhole" for net in [*lies, "10.65.2.0/24", "10.65.2.64/26"]])
    until(lambda: seen(hosts, bgp).filtered == len(lies))
    until(lambda: hosts[1].learnt().keys() == {"10.65.2.0/24", "10.65.2.64/26"})
    left = set(hosts[1].all_routes().splitlines()) - set(before.splitlines())
    assert {line.split()[0] for line in left} == {"10.65.2.0/24", "10.65.2.64/26"}


def test_a_peer_of_the_mesh_speaks_for_itself_alone(hosts: BirdHosts) -> None:
    """A route whose next hop is another machine is not taken, though its network would be."""
    bgp = speaker(1, mesh(1, 2, PrefixRange("10.65.2.0/24", 24, 32)))
    hosts[1].start()
    hosts[1].configure(bgp)
    routes = ["10.65.2.4/32 via 172.30.0.99", "10.65.2.5/32 blackhole"]
    announce(hosts, routes, "next hop keep;")
    until(lambda: seen(hosts, bgp).filtered == 1 and seen(hosts, bgp).imported == 1)
    until(lambda: hosts[1].learnt().keys() == {"10.65.2.5"})


def test_a_link_local_next_hop_is_not_believed(hosts: BirdHosts) -> None:
    """No filter sees the link-local next hop that stands beside the global one: it is not gone by."""
    range_ = PrefixRange("fd65::2:0/112", 112, 128)
    bgp = speaker(1, mesh(1, 2, range_, family=6, peer_ip="fd30::2"))
    hosts[1].start()
    hosts[1].configure(bgp)
    hosts[2].config.write_text(
        f"""router id 172.30.0.2;
        protocol device {{ }}
        protocol direct {{ ipv6; }}
        protocol static lies {{ ipv6; route fd65::2:0/112 blackhole; }}
        protocol bgp victim {{
          local fd30::2 as {AS}; neighbor fd30::1 as {AS}; direct; connect delay time 1;
          ipv6 {{ import none; export where proto = "lies"; }};
        }}"""
    )
    asked = ["ip", "-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative"]
    until(lambda: "fe80::" in hosts[2].ns.run(asked))
    hosts[2].start()
    until(lambda: "fd65::2:0/112" in hosts[1].learnt(6))
    assert hosts[1].learnt(6)["fd65::2:0/112"].startswith("via fd30::2 ")


def test_a_flood_of_foreign_routes_stops_at_the_limit(hosts: BirdHosts) -> None:
    """100,000 foreign routes: none comes in, and no more than twice the limit is kept in memory."""
    bgp = speaker(1, mesh(1, 2, PrefixRange("10.65.2.0/24", 24, 32), import_limit=1000))
    hosts[1].start()
    hosts[1].configure(bgp)
    flood = (f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 blackhole" for n in range(100_000))
    announce(hosts, flood)
    until(lambda: seen(hosts, bgp).filtered == 2000, timeout_s=100)
    assert hosts[1].learnt() == {}


def test_a_flood_within_what_is_entitled_stops_at_the_limit(hosts: BirdHosts) -> None:
    """Of a thousand routes the peer is entitled to, as many come in as the limit says."""
    bgp = speaker(1, mesh(1, 2, PrefixRange("10.65.0.0/16", 32, 32), import_limit=100))
    hosts[1].start()
    hosts[1].configure(bgp)
    announce(hosts, (f"10.65.{n >> 8}.{n & 255}/32 blackhole" for n in range(1000)))
    until(lambda: len(hosts[1].learnt()) == 100)
    until(lambda: seen(hosts, bgp).imported == 100)


@pytest.mark.parametrize("password", ["sesame", "Sesame", ""], ids=["right", "wrong", "none"])
def test_only_who_has_the_password_is_heard(hosts: BirdHosts, password: str) -> None:
    """With the right password routes come in; with another or none there is no session."""
    hosts[1].secret("bgp", "mesh", "sesame\n")
    # Active on our side too, so that both ways of opening are tried.
    session = mesh(1, 2, PrefixRange("10.65.2.0/24", 24, 32), password=("bgp", "mesh"))
    bgp = speaker(1, session)
    hosts[1].start()
    hosts[1].configure(bgp)
    announce(hosts, ["10.65.2.4/32 blackhole"], password=password)
    if password == "sesame":
        until(lambda: hosts[1].learnt().keys() == {"10.65.2.4"})
        return
    with pytest.raises(AssertionError, match="did not come to hold"):
        until(lambda: seen(hosts, bgp).state == "Established", timeout_s=6)
    assert hosts[1].learnt() == {}
