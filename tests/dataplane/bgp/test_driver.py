"""The driver on a real BIRD: what runs already is not touched, what is refused leaves what was."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hopwall_dataplane.bgp import driver as driver_module
from hopwall_dataplane.bgp.control import Control, Unreachable
from hopwall_dataplane.bgp.driver import BirdDriver, NotAccepted
from hopwall_dataplane.bgp.parse import Reply
from hopwall_dataplane.bgp.render import Rendered
from hopwall_dataplane.bgp.times import same
from hopwall_dataplane.outcome import Done, Retry
from hopwall_model.bgp import PrefixRange
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel

ONE = speaker(1, mesh(1, 2, PrefixRange("10.65.2.0/24", 24, 32)))
TWO = speaker(1, mesh(1, 2), mesh(1, 3))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BirdHost]:
    """Make a host whose BIRD runs."""
    with BirdHosts("driver", tmp_path, 1) as found:
        found[1].start()
        yield found[1]


def apply(host: BirdHost, rendered: Rendered) -> object:
    """Apply with a driver that remembers nothing, as after a restart of the agent."""
    fresh = BirdDriver(socket=host.socket, config=host.config, secrets=host.secrets)
    return asyncio.run(fresh.apply(rendered))


@dataclass(frozen=True, eq=False)
class Taken:
    """When BIRD last took a configuration, and how often its log says so."""

    at: str
    n: int

    def __eq__(self, other: object) -> bool:
        """Tell whether BIRD took none in between; it prints one moment some milliseconds apart."""
        return isinstance(other, Taken) and self.n == other.n and same(self.at, other.at)


def reconfigured(host: BirdHost) -> Taken:
    """Ask BIRD and its log."""
    said = (host.folder / "bird.log").read_text()
    return Taken(host.see(ONE).daemon.last_reconfigured, said.count("Reconfiguring"))


def test_what_runs_already_is_not_touched(host: BirdHost) -> None:
    """The same configuration again, by an agent without memory: BIRD is not reconfigured, nor is its file written."""
    rendered = host.render(ONE)
    assert apply(host, rendered) == Done()
    before = (reconfigured(host), host.config.stat())
    for _ in range(3):
        assert apply(host, rendered) == Done()
    assert (reconfigured(host), host.config.stat().st_mtime_ns) == (
        before[0],
        before[1].st_mtime_ns,
    )


def test_the_file_is_for_its_owner_alone_and_says_what_runs(host: BirdHost) -> None:
    """What BIRD reads at its start is what it runs; it holds passwords."""
    rendered = host.render(ONE)
    host.config.chmod(0o644)
    assert apply(host, rendered) == Done()
    assert host.config.read_text() == rendered.text
    assert host.config.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in host.folder.iterdir() if "conf" in p.name) == ["bird.conf"]
    host.config.write_text("router id 1.2.3.4;\n")
    before = reconfigured(host)
    assert apply(host, rendered) == Done()
    assert host.config.read_text() == rendered.text
    assert reconfigured(host) == before


def test_a_change_keeps_the_sessions_it_is_not_about(host: BirdHost) -> None:
    """A new session is added without a restart of the others."""
    host.configure(ONE)
    since = host.see(ONE).sessions["mesh/h2"].since
    time.sleep(1.1)  # a restart would be told by another time
    host.configure(speaker(1, *ONE.sessions, mesh(1, 3)))
    assert same(since, host.see(ONE).sessions["mesh/h2"].since)
    assert set(host.see(TWO).sessions) == {"mesh/h2", "mesh/h3"}


def broken(host: BirdHost) -> Rendered:
    """Return a configuration of known forms that BIRD refuses at the second session."""
    good = host.render(TWO)
    name = next(n for n, s in good.sessions.items() if s == "mesh/h3")
    text = good.text.replace(f"import filter {name}_in;", "import filter hw_absent;")
    return Rendered(text, good.digest, good.sessions, {})


def test_what_bird_refuses_leaves_what_was(host: BirdHost) -> None:
    """The reason names the session; configuration, file and sessions are as before."""
    host.configure(ONE)
    before = (host.config.read_bytes(), reconfigured(host))
    found = apply(host, broken(host))
    assert isinstance(found, NotAccepted)
    assert found.session == "mesh/h3"
    assert "line" in found.reason
    assert (host.config.read_bytes(), reconfigured(host)) == before
    assert asyncio.run(host.driver.running()) == host.render(ONE).digest


def test_what_our_last_look_refuses_bird_never_sees(host: BirdHost) -> None:
    """A line of no known form stops before BIRD is asked anything."""
    host.configure(ONE)
    before = (host.config.read_bytes(), reconfigured(host))
    good = host.render(TWO)
    bad = Rendered(good.text + 'include "/etc/passwd";\n', good.digest, good.sessions, {})
    assert isinstance(apply(host, bad), NotAccepted)
    assert (host.config.read_bytes(), reconfigured(host)) == before
    assert sorted(p.name for p in host.folder.iterdir() if "conf" in p.name) == ["bird.conf"]


def test_an_agent_that_dies_half_way_leaves_what_was(
    host: BirdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration nobody confirms is taken back by BIRD, and the next agent applies it whole."""
    host.configure(ONE)
    monkeypatch.setattr(driver_module, "_UNDO_S", 6)
    ask = Control.ask

    async def dies(self: Control, question: str) -> Reply:
        if question == "configure confirm":
            raise Unreachable("the agent was killed here")
        return await ask(self, question)

    with monkeypatch.context() as half:
        half.setattr(Control, "ask", dies)
        assert isinstance(apply(host, host.render(TWO)), Retry)
    assert asyncio.run(host.driver.running()) == host.render(TWO).digest
    assert host.config.read_text() == host.render(ONE).text
    until(lambda: asyncio.run(host.driver.running()) == host.render(ONE).digest)
    assert apply(host, host.render(TWO)) == Done()
    assert host.config.read_text() == host.render(TWO).text
    time.sleep(6.5)  # beyond the time after which it would be taken back
    assert asyncio.run(host.driver.running()) == host.render(TWO).digest


def test_a_bird_that_is_away_is_a_retry(host: BirdHost) -> None:
    """No socket, or a dead one: nothing is written, and it works when BIRD is back."""
    host.configure(ONE)
    host.kill()
    before = host.config.read_bytes()
    found = apply(host, host.render(TWO))
    assert isinstance(found, Retry)
    assert str(host.socket) in found.reason
    assert host.config.read_bytes() == before
    host.socket.unlink()
    assert isinstance(apply(host, host.render(TWO)), Retry)
    host.start()
    assert apply(host, host.render(TWO)) == Done()


def test_whoever_listens_there_and_is_no_bird_is_a_retry(tmp_path: Path) -> None:
    """Silence, noise and an early end are a reason in words, never an exception."""

    async def whole(answer: bytes) -> object:
        path = tmp_path / "ctl"

        async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(speak, path)
        async with server:
            driver = BirdDriver(socket=path, config=tmp_path / "c", secrets=tmp_path)
            return await driver.apply(Rendered("accept;\n", "", {}, {}))

    for answer in (b"", b"hello\n", b"0001 ok\n", b"0001 ok\n\xff\xfe\n", b"x" * 200_000):
        found = asyncio.run(whole(answer))
        assert isinstance(found, Retry)


def test_a_secret_is_read_only_where_it_is_one(host: BirdHost) -> None:
    """A file others may read, a name that leads elsewhere and an absent file are no password."""
    host.secret("bgp", "good", "sesame\n")
    host.secret("bgp", "open", "sesame", mode=0o644)
    (host.secrets.parent / "outside").write_text("sesame")
    (host.secrets.parent / "outside").chmod(0o600)
    asked = [
        ("bgp", "good"),
        ("bgp", "open"),
        ("bgp", "absent"),
        ("..", "outside"),
        ("bgp", "../x"),
    ]
    sessions = [mesh(1, n, password=one) for n, one in enumerate(asked, 2)]
    assert host.driver.read_secrets(sessions) == {("bgp", "good"): "sesame"}
