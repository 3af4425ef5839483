"""Live migrations by BGP alone: the route to who has arrived wins everywhere, also where it is still declared."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_dataplane.moves.phases import ELEVATED, SETTLED, YIELDING
from hopwall_model.bgp import PrefixRange
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel

#: In h1's block, and in nobody's.
VM, STRAY = "10.65.1.4", "10.65.9.4"
BLOCK = {n: PrefixRange(f"10.65.{n}.0/24", 24, 32) for n in (1, 2, 3)}


_EARS = """
import socket, sys
ears = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008)
ears.bind((sys.argv[1], 0x0800))
ears.settimeout(60)
print("ready", flush=True)
while ears.recv(2048)[16:20] != socket.inet_aton(sys.argv[2]):
    pass
print("heard", flush=True)
"""


def say_something_to(address: str) -> None:
    """Send a datagram from the current namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"straggler", (address, 7000))


@pytest.fixture(params=[VM, STRAY])
def address(request: pytest.FixtureRequest) -> str:
    """Return an address of the source's own block, and one of nobody's."""
    return str(request.param)


@pytest.fixture
def hosts(tmp_path: Path, address: str) -> Iterator[BirdHosts]:
    """Run three hosts in a mesh; h1 has the workload and a block, and h2 may announce its address too."""
    with BirdHosts("mv", tmp_path, 3) as found:
        found[1].workload(address)
        found[2].workload()
        for here in (1, 2, 3):
            found[here].start()
            sessions = [
                mesh(here, there, BLOCK[there], PrefixRange(f"{address}/32", 32, 32))
                for there in (1, 2, 3)
                if there != here
            ]
            found[here].configure(speaker(here, *sessions, blocks=(f"10.65.{here}.0/24",)))
        until(lambda: way(found[3], address) == "172.30.0.1")
        yield found


def way(host: BirdHost, address: str) -> str:
    """Return where a host sends packets to an address: a next hop, or an interface."""
    said = host.ns.run(["ip", "route", "get", address], check=False).split()
    if "via" in said:
        return said[said.index("via") + 1]
    return said[said.index("dev") + 1] if "dev" in said else ""


def route(host: BirdHost, verb: str, address: str, metric: int) -> None:
    """Add or remove a route of ours to the workload interface."""
    host.ns.run(["ip", "route", verb, address, "dev", "tap0", "proto", "80", "metric", str(metric)])


def hears_of(host: BirdHost, network: str) -> bool:
    """Ask a host's BIRD whether a peer says that it has a network."""
    return asyncio.run(host.driver.hears_of([network]))


class Watch:
    """Notes each way that a host takes to an address, all the time."""

    def __init__(self, host: BirdHost, address: str) -> None:
        self.ways: list[str] = []
        self._host, self._address, self._end = host, address, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self.ways.append(way(self._host, self._address))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            found = way(self._host, self._address)
            if self.ways[-1:] != [found]:
                self.ways.append(found)


def test_the_route_to_who_has_arrived_wins_everywhere(hosts: BirdHosts, address: str) -> None:
    """At each moment every host has one next hop, and it changes once, on the old host too."""
    first, second, third = hosts[1], hosts[2], hosts[3]
    with Watch(third, address) as elsewhere, Watch(first, address) as here:
        # As the source's agent does when the migration is declared: first the new route, then the old goes.
        route(first, "add", address, YIELDING)
        first.ns.run(["ip", "route", "del", address, "dev", "tap0", "proto", "80", "metric", "0"])
        time.sleep(1.0)
        route(second, "add", address, ELEVATED)
        until(lambda: way(third, address) == "172.30.0.2")
        until(lambda: way(first, address) == "172.30.0.2")
        # Convergence ends while the source is still declared, as on a host that nobody can tell.
        route(second, "add", address, 0)
        route(second, "del", address, ELEVATED)
        time.sleep(1.0)
        route(first, "del", address, YIELDING)
        time.sleep(0.5)
    assert elsewhere.ways == ["172.30.0.1", "172.30.0.2"]
    assert here.ways == ["tap0", "172.30.0.2"]


@pytest.mark.parametrize("address", [VM], indirect=True)
def test_who_comes_home_into_a_block_stays_preferred(hosts: BirdHosts, address: str) -> None:
    """After convergence it is announced out of its host's block still, so a source that nobody can tell attracts nothing."""
    first, second, third = hosts[1], hosts[2], hosts[3]
    # It is at the second, which has its address from the block of the first.
    first.ns.run(["ip", "route", "del", address, "dev", "tap0", "proto", "80", "metric", "0"])
    route(second, "add", address, YIELDING)
    until(lambda: way(third, address) == "172.30.0.2")
    with Watch(third, address) as elsewhere, Watch(second, address) as here:
        route(first, "add", address, ELEVATED)
        until(lambda: way(third, address) == "172.30.0.1")
        until(lambda: way(second, address) == "172.30.0.1")
        known = ("10.65.99.9/32", f"{address}/32")
        assert [hears_of(second, network) for network in known] == [False, True]
        assert not hears_of(first, known[1])
        route(first, "add", address, SETTLED)
        route(first, "del", address, ELEVATED)
        time.sleep(1.0)
    assert elsewhere.ways == ["172.30.0.2", "172.30.0.1"]
    assert here.ways == ["tap0", "172.30.0.1"]


def test_back_at_once(hosts: BirdHosts, address: str) -> None:
    """A workload that returns while its first move converges is found at the old place again."""
    first, second, third = hosts[1], hosts[2], hosts[3]
    route(first, "add", address, YIELDING)
    first.ns.run(["ip", "route", "del", address, "dev", "tap0", "proto", "80", "metric", "0"])
    route(second, "add", address, ELEVATED)
    until(lambda: way(third, address) == "172.30.0.2")
    route(second, "add", address, YIELDING)
    route(second, "del", address, ELEVATED)
    route(first, "add", address, ELEVATED)
    route(first, "del", address, YIELDING)
    until(lambda: way(third, address) == "172.30.0.1")
    until(lambda: way(second, address) == "172.30.0.1")
    assert way(first, address) == "tap0"


def test_stragglers_are_forwarded_by_the_old_host(hosts: BirdHosts, address: str) -> None:
    """A packet that still comes to the old host goes on to the new one."""
    first, second, third = hosts[1], hosts[2], hosts[3]
    for host in (first, second):
        host.ns.sysctl("net/ipv4/ip_forward", "1")
    route(first, "add", address, YIELDING)
    first.ns.run(["ip", "route", "del", address, "dev", "tap0", "proto", "80", "metric", "0"])
    route(second, "add", address, ELEVATED)
    until(lambda: way(first, address) == "172.30.0.2")
    # The third host is made to believe that nothing has happened.
    third.ns.run(["ip", "route", "add", address, "via", "172.30.0.1", "metric", "1"])
    second.ns.run(["ip", "neigh", "add", address, "lladdr", "02:00:00:00:00:01", "dev", "tap0"])
    ears = subprocess.Popen(
        second.ns.command([sys.executable, "-c", _EARS, "v0", address]), stdout=subprocess.PIPE
    )
    try:
        assert ears.stdout is not None
        assert ears.stdout.readline() == b"ready\n"
        third.ns.python(say_something_to, address)
        assert ears.stdout.readline() == b"heard\n"
    finally:
        ears.kill()
        ears.communicate()
