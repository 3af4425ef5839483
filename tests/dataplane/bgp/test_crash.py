"""A BIRD that crashes, ends or starts again takes no route with it, on either side."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_model.bgp import Bgp, PrefixRange
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel

N_ROUTES = 50
#: How long a host stays without BIRD, and how long we look for what goes after it is back.
AWAY_S = 3.0
LOOK_S = 4.0


@contextmanager
def lost(host: BirdHost, file: Path) -> Iterator[list[str]]:
    """Collect the workload routes that the host's kernel loses while this lasts."""
    found: list[str] = []
    with file.open("w") as out:
        monitor = subprocess.Popen(host.ns.command(["ip", "monitor", "route"]), stdout=out)
        until(lambda: _is_told(host, file, "192.0.2.1"))
        yield found
        until(lambda: _is_told(host, file, "192.0.2.2"))
        monitor.terminate()
        monitor.wait()
    found += [line for line in file.read_text().splitlines() if line.startswith("Deleted 10.65.")]


def _is_told(host: BirdHost, file: Path, mark: str) -> bool:
    """Make a change of routes; tell whether the monitor has told of it."""
    for verb in ("add", "del"):
        host.ns.run(["ip", "route", verb, "blackhole", mark])
    return f"Deleted blackhole {mark}" in file.read_text()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[BirdHosts, Bgp]]:
    """Make two hosts, the second of which has learnt fifty routes from the first."""
    with BirdHosts("crash", tmp_path, 2) as hosts:
        hosts[1].workload(*(f"10.65.1.{n}/32" for n in range(N_ROUTES)))
        range_ = PrefixRange("10.65.0.0/16", 32, 32)
        for here, there in ((1, 2), (2, 1)):
            hosts[here].start()
            hosts[here].configure(speaker(here, mesh(here, there, range_)))
        until(lambda: len(hosts[2].learnt()) == N_ROUTES)
        yield hosts, speaker(2, mesh(2, 1, range_))


def established(host: BirdHost, bgp: Bgp) -> bool:
    """Tell whether all of the host's sessions are up with all routes in."""
    sessions = host.see(bgp).sessions.values()
    return all(s.state == "Established" and s.imported == N_ROUTES for s in sessions)


@pytest.mark.parametrize("which", [1, 2], ids=["advertiser", "receiver"])
def test_a_crash_loses_no_route(pair: tuple[BirdHosts, Bgp], which: int, tmp_path: Path) -> None:
    """BIRD is killed and comes back: the receiver's kernel loses none of fifty routes."""
    hosts, bgp = pair
    with lost(hosts[2], tmp_path / "monitor") as gone:
        hosts[which].kill()
        time.sleep(AWAY_S)
        assert len(hosts[2].learnt()) == N_ROUTES
        hosts[which].start()
        until(lambda: established(hosts[2], bgp))
        time.sleep(LOOK_S)
    assert gone == []
    assert len(hosts[2].learnt()) == N_ROUTES


def test_a_reflector_that_crashes_takes_no_route_along(tmp_path: Path) -> None:
    """Both clients keep each other's routes while their only reflector is away, and after it is back."""
    with BirdHosts("reflector", tmp_path, 3) as hosts:
        range_ = PrefixRange("10.65.0.0/16", 32, 32)
        hosts[1].workload(*(f"10.65.1.{n}/32" for n in range(N_ROUTES)))
        for n, session in ((1, mesh(1, 3, range_)), (2, mesh(2, 3, range_))):
            hosts[n].start()
            hosts[n].configure(speaker(n, structs.replace(session, name="peer/reflector/3")))
        clients = [mesh(3, n, range_, reflector_client=True, passive=False) for n in (1, 2)]
        hosts[3].start()
        hosts[3].configure(speaker(3, *clients, cluster_id="3.3.3.3"))
        until(lambda: len(hosts[2].learnt()) == N_ROUTES)
        with lost(hosts[2], tmp_path / "monitor") as gone:
            hosts[3].kill()
            time.sleep(AWAY_S)
            hosts[3].start()
            bgp = speaker(2, structs.replace(mesh(2, 3, range_), name="peer/reflector/3"))
            until(lambda: established(hosts[2], bgp))
            time.sleep(LOOK_S)
        assert gone == []
        assert len(hosts[2].learnt()) == N_ROUTES


def test_an_orderly_end_of_the_receiver_loses_no_route(
    pair: tuple[BirdHosts, Bgp], tmp_path: Path
) -> None:
    """BIRD is told to end: what it learnt stands on in the kernel."""
    hosts, _ = pair
    with lost(hosts[2], tmp_path / "monitor") as gone:
        hosts[2].down()
        time.sleep(AWAY_S)
    assert gone == []
    assert len(hosts[2].learnt()) == N_ROUTES


def test_what_went_while_the_receiver_was_away_goes_when_it_is_back(
    pair: tuple[BirdHosts, Bgp],
) -> None:
    """Routes kept over a crash are not kept for ever: one withdrawn meanwhile goes."""
    hosts, _ = pair
    hosts[2].kill()
    hosts[1].ns.run(["ip", "route", "del", "10.65.1.7/32"])
    hosts[2].start()
    until(lambda: len(hosts[2].learnt()) == N_ROUTES - 1)
    assert "10.65.1.7" not in hosts[2].learnt()


def test_with_bfd_a_host_that_dies_is_forgotten_at_once(tmp_path: Path) -> None:
    """BFD sees that the peer is gone and its routes go in seconds, not after the restart time."""
    with BirdHosts("bfd", tmp_path, 2) as hosts:
        hosts[1].workload("10.65.1.1/32")
        for here, there in ((1, 2), (2, 1)):
            range_ = PrefixRange("10.65.0.0/16", 32, 32)
            session = mesh(here, there, range_, bfd=True, source_ip=f"172.30.0.{here}")
            hosts[here].start()
            hosts[here].configure(speaker(here, session))
        until(lambda: len(hosts[2].learnt()) == 1)
        until(lambda: "Up" in hosts[2].ask("show bfd sessions").text)
        hosts[1].kill()
        # Two seconds; by the restart time it would be thirty.
        until(lambda: hosts[2].learnt() == {}, timeout_s=20)


def test_with_two_reflectors_a_crash_amid_a_recovery_loses_no_route(tmp_path: Path) -> None:
    """A host's BIRD that crashes while one reflector recovers from its own crash hears all from the other."""
    with BirdHosts("amid", tmp_path, 4) as hosts:
        range_ = PrefixRange("10.65.0.0/16", 32, 32)
        hosts[1].workload(*(f"10.65.1.{n}/32" for n in range(N_ROUTES)))
        for n in (1, 2):
            peers = [structs.replace(mesh(n, r, range_), name=f"peer/rr/{r}") for r in (3, 4)]
            hosts[n].start()
            hosts[n].configure(wants := speaker(n, *peers))
        for r in (3, 4):
            clients = [mesh(r, n, range_, reflector_client=True, passive=False) for n in (1, 2)]
            hosts[r].start()
            hosts[r].configure(speaker(r, *clients, cluster_id="3.3.3.3"))
        until(lambda: len(hosts[2].learnt()) == N_ROUTES and established(hosts[2], wants))
        with lost(hosts[2], tmp_path / "monitor") as gone:
            # It recovers until all its clients are back, and one of them stands still.
            hosts[1].process.send_signal(signal.SIGSTOP)
            hosts[3].kill()
            hosts[3].start()
            until(lambda: hosts[3].ask("show protocols").text.count("Established") == 1)
            assert "recovery in progress" in hosts[3].ask("show status").text
            hosts[2].kill()
            hosts[2].start()
            hosts[1].process.send_signal(signal.SIGCONT)
            until(lambda: "recovery in progress" not in hosts[2].ask("show status").text)
            time.sleep(LOOK_S)
        assert gone == []
        assert len(hosts[2].learnt()) == N_ROUTES
