"""The task that keeps BIRD as wanted: whatever comes, in whatever order, with BIRD there or not."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.bgp import render as render_module
from hopwall_dataplane.bgp import speaker as speaker_module
from hopwall_dataplane.bgp.control import Control
from hopwall_dataplane.bgp.driver import BirdDriver, NotAccepted, Seen
from hopwall_dataplane.bgp.faults import Fault
from hopwall_dataplane.bgp.process import start_file
from hopwall_dataplane.bgp.render import Rendered
from hopwall_dataplane.bgp.speaker import Speaker, wanted
from hopwall_dataplane.feed import Step
from hopwall_dataplane.outcome import Done, Retry
from hopwall_model.bgp import Bgp, PrefixRange, Session
from hopwall_model.status import BgpStatus
from hopwall_model.updates import BgpSet
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker

#: With the back-off of other faults, looks would be two seconds and more apart after this.
AWAY_S, SOON_S = 8.0, 1.5
ONE = speaker(1, mesh(1, 2))
TWO = speaker(1, mesh(1, 2), mesh(1, 3))


def step(bgp: Bgp | None = None, *, full: bool = False) -> Step:
    """Return a step that says this of BGP, or nothing."""
    updates = () if bgp is None else (BgpSet(bgp=bgp),)
    return Step("e", 1, full=full, updates=updates)


def test_a_snapshot_without_bgp_means_that_calc_leaves_it_alone() -> None:
    """The last word counts; a step that says nothing changes nothing; a snapshot is everything."""
    assert wanted(step(ONE), None) == ONE
    assert wanted(step(), ONE) == ONE
    assert wanted(step(TWO, full=True), ONE) == TWO
    assert wanted(step(full=True), ONE) is None
    both = Step("e", 1, full=False, updates=(BgpSet(bgp=ONE), BgpSet(bgp=TWO)))
    assert wanted(both, None) == TWO


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BirdHost]:
    """Make a host without BIRD, and a task that looks often."""
    monkeypatch.setattr(speaker_module, "LOOK_S", 0.2)
    with BirdHosts("speaker", tmp_path, 1) as found:
        yield found[1]


Scenario = Callable[[Speaker], Awaitable[None]]


def run(host: BirdHost, scenario: Scenario) -> None:
    """Run a scenario beside the task."""

    async def whole() -> None:
        found = Speaker(host.driver, ("tap",), lambda: None)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(found.run())
            await scenario(found)
            task.cancel()

    asyncio.run(whole())


async def until(
    found: Speaker, holds: Callable[[BgpStatus], bool], timeout_s: float = 60.0
) -> BgpStatus:
    """Wait for a status of which this holds."""
    async with asyncio.timeout(timeout_s):
        while found.status is None or not holds(found.status):
            await asyncio.sleep(0.05)
    return found.status


@pytest.mark.kernel
def test_nothing_is_said_of_what_bird_was_not_told_yet(host: BirdHost) -> None:
    """From the moment a value comes until BIRD was asked for it the status is no longer that of the one before."""
    keyed = structs.replace(mesh(1, 2), password=("absent", "key"))

    async def scenario(found: Speaker) -> None:
        await asyncio.to_thread(host.start)
        found.fold(step(speaker(1, keyed), full=True))
        assert found.status is not None
        assert not found.status.in_sync
        assert "has not been told" in found.status.reason
        assert not found.refusals
        await until(found, lambda s: s.in_sync)
        assert [one.object for one in found.refusals] == ["bgp mesh/h2"]
        found.fold(step(ONE))
        assert not found.status.in_sync
        assert not found.refusals
        await until(found, lambda s: s.in_sync)
        assert not found.refusals

    run(host, scenario)


@pytest.mark.kernel
def test_bird_comes_late_dies_and_comes_back(host: BirdHost) -> None:
    """While BIRD is away the status says so; whenever it is there it gets what is wanted."""

    async def scenario(found: Speaker) -> None:
        found.fold(step(ONE, full=True))
        away = await until(found, lambda s: str(host.socket) in s.reason)
        assert not away.in_sync
        await asyncio.to_thread(host.start)
        there = await until(found, lambda s: s.in_sync)
        asked = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=True)
        assert asked.stderr.split() == ["BIRD", "version", there.version]
        assert there.router_id == "172.30.0.1"
        assert [s.name for s in there.sessions] == ["mesh/h2"]
        host.kill()
        await until(found, lambda s: not s.in_sync)
        host.config.unlink()
        found.fold(step(TWO))
        await asyncio.to_thread(host.start)
        again = await until(found, lambda s: s.in_sync and s.n_sessions == 2)
        assert {s.name for s in again.sessions} == {"mesh/h2", "mesh/h3"}

    run(host, scenario)


@pytest.mark.kernel
def test_a_moment_that_bird_prints_apart_is_no_change(
    host: BirdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes wall time anew at each print: a look at which nothing but that differs is not told."""
    see, n_seen, n_told = BirdDriver.see, 0, 0

    async def printed_apart(self: BirdDriver, rendered: Rendered) -> Seen:
        nonlocal n_seen
        n_seen += 1
        seen = await see(self, rendered)
        daemon = replace(seen.daemon, last_reconfigured=f"2026-11-27 10:00:00.00{n_seen % 10}")
        sessions = {
            name: structs.replace(one, state="Active", since=f"10:00:00.00{n_seen % 10}")
            for name, one in seen.sessions.items()
        }
        return Seen(daemon, sessions)

    def told() -> None:
        nonlocal n_told
        n_told += 1

    async def scenario(found: Speaker) -> None:
        found.on_change = told
        found.fold(step(ONE, full=True))
        await until(found, lambda s: s.in_sync)
        before, n_before = found.status, (n_seen, n_told)
        await until(found, lambda _: n_seen >= n_before[0] + 4)
        assert (found.status, n_told) == (before, n_before[1])

    monkeypatch.setattr(BirdDriver, "see", printed_apart)
    host.start()
    run(host, scenario)


@pytest.mark.kernel
def test_a_bird_that_starts_late_has_its_sessions_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away for long, and its peer dials: it is looked for all the time, configured and dialled."""
    range_ = PrefixRange("10.65.0.0/16", 32, 32)
    apply, looked_at = BirdDriver.apply, list[float]()

    async def noted(self: BirdDriver, rendered: Rendered) -> Done | Retry | NotAccepted:
        looked_at.append(time.monotonic())
        return await apply(self, rendered)

    monkeypatch.setattr(BirdDriver, "apply", noted)

    async def whole(dialling: BirdHost, late: BirdHost) -> None:
        found = Speaker(late.driver, ("tap",), lambda: None)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(found.run())
            found.fold(step(speaker(2, mesh(2, 1, range_)), full=True))
            await asyncio.sleep(AWAY_S)
            async with asyncio.timeout(60):  # a busy machine makes some looks late, and not all
                while looked_at[-1] - looked_at[-2] >= SOON_S:
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(late.start)
            async with asyncio.timeout(60):
                while "Established" not in (await asked(dialling, "show protocols")):
                    await asyncio.sleep(0.1)
            task.cancel()

    with BirdHosts("late", tmp_path, 2) as hosts:
        hosts[1].start()
        hosts[1].configure(speaker(1, mesh(1, 2, range_)))
        asyncio.run(whole(hosts[1], hosts[2]))


async def asked(host: BirdHost, question: str) -> str:
    """Return BIRD's answer beside a running task."""
    async with Control(host.socket) as bird:
        return (await bird.ask(question)).text


@pytest.mark.kernel
def test_a_session_bird_refuses_is_left_out_alone(
    host: BirdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are configured; the one refused is named with BIRD's reason, and tried when it changes."""
    monkeypatch.setattr(render_module, "check_session", lambda session: None)
    bad = mesh(1, 3, bfd=True)  # BFD over hops without a source address: BIRD's own check

    async def scenario(found: Speaker) -> None:
        found.fold(step(speaker(1, mesh(1, 2), bad), full=True))
        status = await until(found, lambda s: s.in_sync)
        assert [s.name for s in status.sessions] == ["mesh/h2"]
        (refusal,) = found.refusals
        assert refusal.object == "bgp mesh/h3"
        assert "BFD requires specified local address" in refusal.reason
        n_applied = found.driver.n_applied
        await asyncio.sleep(1.0)
        assert found.driver.n_applied == n_applied
        found.fold(step(TWO))
        await until(found, lambda s: s.in_sync and s.n_sessions == 2)
        assert not found.refusals

    host.start()
    run(host, scenario)


@pytest.mark.kernel
def test_a_value_that_cannot_be_rendered_leaves_bird_as_it_is(host: BirdHost) -> None:
    """The reason is in the status and in the refusals; the next good value is applied."""

    async def scenario(found: Speaker) -> None:
        found.fold(step(ONE, full=True))
        await until(found, lambda s: s.in_sync)
        before = host.config.read_bytes()
        found.fold(step(Bgp(router_id="nonsense", as_number=1)))
        status = await until(found, lambda s: "router ID" in s.reason)
        assert not status.in_sync
        assert [r.object for r in found.refusals] == ["bgp"]
        assert host.config.read_bytes() == before
        found.fold(step(TWO))
        await until(found, lambda s: s.in_sync and s.n_sessions == 2)
        assert not found.refusals

    host.start()
    run(host, scenario)


@pytest.mark.kernel
def test_a_session_opens_when_its_password_comes(host: BirdHost) -> None:
    """Until then it is closed and named; the password is never in a status."""
    secret = mesh(1, 3, password=("bgp", "mesh"))

    async def scenario(found: Speaker) -> None:
        found.fold(step(speaker(1, mesh(1, 2), secret), full=True))
        await until(found, lambda s: s.in_sync and s.n_sessions == 1)
        assert [r.object for r in found.refusals] == ["bgp mesh/h3"]
        host.secret("bgp", "mesh", "sesame")
        await until(found, lambda s: s.in_sync and s.n_sessions == 2)
        assert not found.refusals
        assert "sesame" not in repr((found.status, found.refusals))
        host.secret("bgp", "mesh", "se\nsame")
        await until(found, lambda s: s.in_sync and s.n_sessions == 1)
        assert "sesame" not in host.config.read_text()

    host.start()
    run(host, scenario)


@pytest.mark.kernel
def test_where_calc_leaves_bgp_alone_our_sessions_end_and_others_are_not_ours(
    host: BirdHost,
) -> None:
    """A configuration of ours loses its sessions; one somebody else gave BIRD is not touched."""

    async def foreign(found: Speaker) -> None:
        found.fold(step(full=True))
        await asyncio.sleep(1.0)
        assert found.status is None

    async def ours(found: Speaker) -> None:
        found.fold(step(full=True))
        status = await until(found, lambda s: s.in_sync)
        assert status.n_sessions == 0

    text = "router id 1.2.3.4;\nprotocol device { }\n"
    host.config.write_text(text)
    host.start()
    run(host, foreign)
    assert host.config.read_text() == text
    host.configure(ONE)
    run(host, ours)
    assert "protocol bgp" not in host.config.read_text()


@pytest.mark.kernel
def test_nothing_is_done_before_the_first_snapshot(host: BirdHost) -> None:
    """Without a word from calc BIRD is not even asked."""

    async def scenario(found: Speaker) -> None:
        await asyncio.sleep(0.6)
        assert found.status is None

    host.start()
    host.configure(ONE)
    before = host.config.read_bytes()
    run(host, scenario)
    assert host.config.read_bytes() == before


@pytest.mark.kernel
def test_more_sessions_than_a_status_holds_are_counted(
    host: BirdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status names as many as fit, and how many there are."""
    monkeypatch.setattr(speaker_module, "_MAX_SESSIONS", 2)

    async def scenario(found: Speaker) -> None:
        sessions: list[Session] = [mesh(1, n) for n in range(2, 7)]
        found.fold(step(speaker(1, *sessions), full=True))
        status = await until(found, lambda s: s.in_sync)
        assert (status.n_sessions, len(status.sessions), status.n_established) == (5, 2, 0)

    host.start()
    run(host, scenario)


def test_a_fault_says_what_to_do() -> None:
    """A fault is a sentence for people."""
    with pytest.raises(Fault, match="canonical IPv4 address"):
        render_module.render(
            Bgp(router_id="::1", as_number=1), interface_prefixes=("tap",), secrets={}
        )


@pytest.mark.kernel
def test_who_is_away_for_long_is_not_waited_for_after_a_crash(host: BirdHost) -> None:
    """What BIRD starts with after a crash is laid down; it is taken, and made the right one at the next look."""
    gone = speaker(1, mesh(1, 2, restart_s=1, keepalive_s=1))
    laid = start_file(host.config)

    async def scenario(found: Speaker) -> None:
        found.fold(step(gone, full=True))
        await asyncio.to_thread(host.start)
        await until(found, lambda s: s.in_sync)
        assert not laid.exists()
        async with asyncio.timeout(60):
            while not laid.exists():
                await asyncio.sleep(0.05)
        start = laid.read_text()
        assert "graceful restart off;" in start
        assert laid.stat().st_mode & 0o777 == 0o600
        plain = host.config.read_text()
        assert "graceful restart off;" not in plain
        n_applied = found.driver.n_applied
        host.kill()
        await until(found, lambda s: not s.in_sync)
        await asyncio.to_thread(host.start)
        await until(found, lambda s: s.in_sync)
        assert found.driver.n_applied == n_applied + 1
        assert host.config.read_text() == plain

    run(host, scenario)
    assert "Graceful restart recovery" not in host.ask("show status").text
