"""Whom a BIRD that crashed does not wait for: rules of `absent`, and that it makes a difference to the real one."""

import os
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.bgp.absent import Absences, forgotten, noted
from hopwall_dataplane.bgp.process import start_file, take_start
from hopwall_dataplane.bgp.render import Rendered, render
from hopwall_model.bgp import Bgp, PrefixRange
from hopwall_model.status import BgpSession
from tests.support.bird_hosts import BirdHosts, mesh, speaker, until

RANGE = PrefixRange("10.65.0.0/16", 32, 32)


def down(since: str = "10:00:00.000", **more: object) -> BgpSession:
    """Return a session that is down."""
    given = {"name": "mesh/h2", "state": "Active", "since": since, **more}
    return BgpSession(**given)  # type: ignore[arg-type]


def test_peer_is_forgotten_after_both_sides_kept_routes_as_long_as_they_do() -> None:
    """The hold time and the restart time, from when it was first seen down; both as the session has them."""
    absences = noted({}, [down()], 1000.0)
    absences = noted(absences, [down()], 1100.0)
    plain = mesh(1, 2, restart_s=120)
    assert forgotten(absences, [plain], 1000.0 + 360) == frozenset()
    assert forgotten(absences, [plain], 1000.1 + 360) == {"mesh/h2"}
    quick = mesh(1, 2, restart_s=10, keepalive_s=2)
    assert forgotten(absences, [quick], 1000.0 + 16) == frozenset()
    assert forgotten(absences, [quick], 1000.1 + 16) == {"mesh/h2"}


@pytest.mark.parametrize(
    "between",
    [
        [down(state="Established")],
        [down("10:00:03.000")],
        [down(imported=1)],
        [],
    ],
    ids=["is up", "was up between two looks", "has routes that are kept", "is not there"],
)
def test_who_was_there_meanwhile_is_not_forgotten(between: list[BgpSession]) -> None:
    """Time counts from the last sign of life; nobody is forgotten while routes of its are kept."""
    absences: Absences = noted({}, [down()], 0.0)
    absences = noted(absences, between, 900.0)
    absences = noted(absences, between, 1000.0)
    assert forgotten(absences, [mesh(1, 2)], 1000.0) == frozenset()


@pytest.mark.parametrize(
    "later",
    [
        ["10:00:00.001", "09:59:59.999", "10:00:00.005"],
        ["10:00:00.001", "2026-11-26", "2026-11-27"],
    ],
    ids=["printed apart", "told by its day after 20 hours"],
)
def test_an_absence_goes_on_while_only_its_words_differ(later: list[str]) -> None:
    """BIRD prints one moment in several ways: the count does not begin again."""
    absences = noted({}, [down()], 0.0)
    for look, since in enumerate(later, 1):
        absences = noted(absences, [down(since)], look * 300.0)
    assert forgotten(absences, [mesh(1, 2)], 900.0) == {"mesh/h2"}


def test_the_same_time_of_another_day_is_a_new_absence() -> None:
    """A session that was down since yesterday at ten, and is down since today at ten, was up meanwhile."""
    absences = noted({}, [down()], 0.0)
    for look, since in enumerate(["2026-11-26", "10:00:00.000"], 1):
        absences = noted(absences, [down(since)], look * 80_000.0)
    assert forgotten(absences, [mesh(1, 2)], 160_000.0) == frozenset()


def texts(bgp: Bgp) -> tuple[Rendered, Rendered]:
    """Return the configuration, and the one that waits for nobody."""
    names = [session.name for session in bgp.sessions]
    plain, start = (
        render(bgp, interface_prefixes=("tap",), secrets={}, forgotten=gone) for gone in ((), names)
    )
    return plain, start


def test_start_differs_in_its_digest() -> None:
    """So the agent finds that BIRD does not run what is wanted, and brings it there."""
    plain, start = texts(speaker(1, mesh(1, 2)))
    assert plain.digest != start.digest
    assert "graceful restart off;" in start.text
    assert "graceful restart off;" not in plain.text


@pytest.mark.parametrize(
    ("age_s", "taken"), [(0.0, True), (14.0, True), (16.0, False), (-5.0, False)]
)
def test_start_is_taken_while_it_is_fresh(tmp_path: Path, age_s: float, taken: bool) -> None:
    """One that the agent has not renewed for a while is left alone: who was away may be back."""
    config = tmp_path / "bird.conf"
    config.write_text("plain")
    start_file(config).write_text("start")
    os.utime(start_file(config), (1000.0, 1000.0))
    take_start(config, 1000.0 + age_s)
    assert config.read_text() == ("start" if taken else "plain")


@pytest.mark.kernel
def test_after_a_crash_nobody_waits_for_the_dead(tmp_path: Path) -> None:
    """With one of two reflectors dead for good, a BIRD that crashed tells and learns what is new within seconds."""
    with BirdHosts("absent", tmp_path, 4) as hosts:
        wants = {}
        for n in (1, 2):
            peers = [
                structs.replace(mesh(n, r, RANGE), name=f"peer/rr/{r}", passive=False)
                for r in (3, 4)
            ]
            wants[n] = speaker(n, *peers)
        for r in (3, 4):
            clients = [mesh(r, n, RANGE, reflector_client=True, passive=True) for n in (1, 2)]
            wants[r] = speaker(r, *clients, cluster_id="3.3.3.3")
        for n, bgp in wants.items():
            hosts[n].start()
            hosts[n].configure(bgp)
        hosts[1].workload(*(f"10.65.1.{n}/32" for n in range(50)))
        hosts[2].workload(*(f"10.65.2.{n}/32" for n in range(50)))
        until(lambda: len(hosts[1].learnt()) == len(hosts[2].learnt()) == 50)
        hosts[4].kill()
        dead = render(wants[1], interface_prefixes=("tap",), secrets={}, forgotten=["peer/rr/4"])
        hosts[1].driver.lay_start(dead)
        hosts[1].kill()
        hosts[1].start()
        hosts[1].workload("10.65.1.77/32")
        hosts[2].workload("10.65.2.77/32")
        hosts[1].configure(wants[1])  # as the agent does at its next look
        # A second or two; whoever waits for the dead one waits a minute.
        told = lambda: "10.65.1.77" in hosts[2].learnt() and "10.65.2.77" in hosts[1].learnt()  # noqa: E731
        until(told, timeout_s=30)
        assert len(hosts[1].learnt()) == len(hosts[2].learnt()) == 51
