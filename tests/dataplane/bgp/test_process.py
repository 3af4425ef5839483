"""BIRD as a process of its own: it always starts, and after a crash it keeps the kernel's routes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_dataplane.bgp.process import command, main
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker

pytestmark = pytest.mark.kernel


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BirdHost]:
    """Make a host without BIRD."""
    with BirdHosts("process", tmp_path, 1) as found:
        yield found[1]


def arguments(host: BirdHost) -> list[str]:
    """Return the command line of the BIRD that runs."""
    pid = host.pid_file.read_text().strip()
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_recovery_is_asked_for_after_a_crash_alone(host: BirdHost) -> None:
    """-R after a kill, not at the first start and not after an end in good order."""
    host.start()
    assert "-R" not in arguments(host)
    host.kill()
    host.start()
    assert "-R" in arguments(host)
    host.down()
    host.start()
    assert "-R" not in arguments(host)


def test_without_a_configuration_it_starts_with_one_that_does_nothing(host: BirdHost) -> None:
    """There is a BIRD for the agent to speak to, and its file is private."""
    host.start()
    assert "protocol bgp" not in host.config.read_text()
    assert host.config.stat().st_mode & 0o777 == 0o600
    host.configure(speaker(1, mesh(1, 2)))


def test_a_broken_file_does_not_keep_it_from_starting(host: BirdHost) -> None:
    """A file that BIRD does not take gives way; a good one is read."""
    host.config.write_text("protocol nonsense {")
    host.start()
    host.configure(speaker(1, mesh(1, 2)))
    host.down()
    host.start()
    assert host.see(speaker(1, mesh(1, 2))).sessions.keys() == {"mesh/h2"}


def test_the_command_is_in_the_foreground() -> None:
    """So that whoever starts it sees its end."""
    paths = {"config": Path("/c"), "socket": Path("/s"), "pid_file": Path("/p")}
    assert command("bird", **paths, recover=True) == [
        "bird", "-f", "-R", "-c", "/c", "-s", "/s", "-P", "/p",
    ]  # fmt: skip


def test_a_folder_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process ends with the code for wrong settings, and one sentence."""
    folder = tmp_path / "absent"
    argv = [f"--{name}={folder / name}" for name in ("config", "socket", "pid-file")]
    assert main(argv) == 2
    assert str(folder) in capsys.readouterr().err
