"""`hopwall lab join` and `leave` on a lab that runs in another process, and a lab without workloads."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_cli.lab.run_folder import RunFolder

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

NAME = "orders"


def lab(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a part of `hopwall lab` from another shell."""
    whole = [sys.executable, "-m", "hopwall_cli", "lab", argv[0], "--name", NAME, *argv[1:]]
    return subprocess.run(whole, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a lab of one host and no workloads until the tests are done; yield what it says."""
    file = tmp_path_factory.mktemp("lab") / "said"
    argv = ["up", "--name", NAME, "--hosts", "1", "--workloads", "0"]
    with (
        file.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-m", "hopwall_cli", "lab", *argv], stdout=out, stderr=out
        ) as process,
    ):
        try:
            deadline_at = time.monotonic() + 240
            while "Ctrl-C ends it." not in file.read_text():
                assert process.poll() is None, file.read_text()
                assert time.monotonic() < deadline_at, file.read_text()
                time.sleep(0.1)
            yield file
        finally:
            process.terminate()
            process.wait(120)


def test_lab_without_workloads_says_what_can_be_tried(said: Path) -> None:
    """A lab of hosts alone is up, and names a host where others name a workload."""
    assert f"lab {NAME} is up: h1.\n" in said.read_text()
    assert f"hopwall lab exec --name {NAME} h1 -- ip route\n" in said.read_text()
    assert "default via" in lab("exec", "h1", "--", "ip", "route").stdout


def test_host_joins_with_workloads_and_leaves(said: Path) -> None:
    """By order a host comes with as many workloads as told, and goes with all that was its own."""
    assert lab("join", "h3", "--workloads", "1").stdout == f"h3, vm21 joined lab {NAME}.\n"
    assert lab("join", "--workloads", "1").stdout == f"h2, vm22 joined lab {NAME}.\n"
    connect = "import socket; socket.create_connection(('10.65.0.22', 7000), 30)"
    asked = lab("exec", "vm21", "--", sys.executable, "-c", connect)
    assert asked.returncode == 0, asked.stderr
    assert lab("leave", "h3").stdout == f"h3 has left lab {NAME}.\n"
    status = lab("status").stdout
    assert "vm22" in status
    assert "h3" not in status
    assert "vm21" not in status
    assert lab("leave", "h2").returncode == 0


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (("join", "h1"), "host h1 is in the lab already."),
        (("join", "tower"), "host tower: a lab's hosts are called h1 to h64."),
        (("leave", "h9"), f"lab {NAME} has no host and no reflector h9."),
    ],
)
def test_order_that_cannot_be_is_refused(said: Path, order: tuple[str, ...], why: str) -> None:
    """What cannot be done is said in one sentence, with exit code 1, and the lab runs on."""
    refused = lab(*order)
    assert (refused.returncode, refused.stderr) == (1, f"hopwall: {why}\n")
    assert lab("status").returncode == 0


def test_caller_that_says_nothing_of_use_does_no_harm(said: Path) -> None:
    """Whoever connects and goes, or talks nonsense, gets no answer, and others are served."""
    for words in (b"", b"nonsense\n", b'{"verb": "crash", "host": "h1"}\n', b"x" * 10_000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(RunFolder(NAME).orders))
            sock.sendall(words)
    assert lab("leave", "h9").returncode == 1


def test_lab_that_does_not_run_takes_no_orders() -> None:
    """Without a lab of that name an order ends with a sentence that says how to run one."""
    argv = [sys.executable, "-m", "hopwall_cli", "lab", "join", "--name", "nobody"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "`hopwall lab up --name nobody` runs one" in ended.stderr
