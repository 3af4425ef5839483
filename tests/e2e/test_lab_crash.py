"""What a lab leaves behind when it is killed, and how it is cleared."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_cli.lab import netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.run_folder import RunFolder

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

NAME = "crash"
PROGRAM = f"""
import asyncio
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload

async def main():
    async with Lab({NAME!r}, hosts=2, services=False) as lab:
        await lab.add(
            Workload(name="a", host="h1", ipv4="10.65.0.21"),
            Workload(name="b", host="h2", ipv4="10.65.0.22", kind="tap"),
        )
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(until_interrupted(main()))
"""


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """Run a lab in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()
            process.wait()
            down()


def down() -> str:
    """Run `hopwall lab down`."""
    argv = [sys.executable, "-m", "hopwall_cli", "lab", "down", "--name", NAME]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


def pids() -> list[str]:
    """Return the processes in the lab's namespaces."""
    found = []
    for name in netns.present(topo.prefix(NAME)):
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        found += listed.stdout.split()
    return found


def test_kill_9_leaves_no_process_and_down_clears_the_rest(running: subprocess.Popen[str]) -> None:
    """The kernel ends the lab's processes with their parent; `lab down` removes the namespaces."""
    assert pids()
    running.kill()
    running.wait()
    end = time.monotonic() + 30.0
    while pids() and time.monotonic() < end:
        time.sleep(0.05)
    assert pids() == []
    assert len(netns.present(topo.prefix(NAME))) == 5
    assert down() == f"lab {NAME} is down (5 namespaces were left).\n"
    assert netns.present(topo.prefix(NAME)) == []
    assert not RunFolder(NAME).path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_takes_the_lab_down(running: subprocess.Popen[str], number: int) -> None:
    """Ctrl-C and its like leave nothing behind."""
    running.send_signal(number)
    assert running.wait(60) == 0
    assert netns.present(topo.prefix(NAME)) == []
    assert not RunFolder(NAME).path.exists()


def test_down_ends_a_running_lab(running: subprocess.Popen[str]) -> None:
    """`lab down` from another shell ends the owner in order."""
    assert down() == f"lab {NAME} is down (0 namespaces were left).\n"
    assert running.wait(60) == 0
    assert not Path(RunFolder(NAME).path).exists()
