"""`hopwall up` in a namespace that stands for one machine: start, kill, start again, end, clean up."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.netns import Netns

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

HOPWALL = [sys.executable, "-m", "hopwall_cli"]
PROFILE = """\
kind: Profile
metadata: {name: open}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
---
kind: WorkloadEndpoint
metadata: {name: vm1}
spec: {node: me, interfaceName: tapvm1, ipNetworks: [10.65.0.24/32], profiles: [open]}
"""


class Machine:
    """One machine with `hopwall up` on it."""

    def __init__(self, ns: Netns, folder: Path) -> None:
        self.ns = ns
        self.folder = folder
        self.server = f"unix://{folder}/api.sock"

    @contextmanager
    def up(self, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """Run `hopwall up` until the block ends, from when it says that it is ready."""
        log = self.folder / "up.log"
        listen = f"unix:{self.folder}/api.sock,127.0.0.1:8080"
        argv = ["up", "--state-dir", str(self.folder), "--host", "me", "--listen", listen, *flags]
        with (
            log.open("w") as file,
            subprocess.Popen(
                self.ns.command([*HOPWALL, *argv]), stdout=file, stderr=file, text=True
            ) as process,
        ):
            try:
                until(lambda: "ready: the REST API answers" in log.read_text(), log)
                yield process
            finally:
                process.terminate()
                process.wait(60)

    def run(self, *argv: str, text: str = "") -> str:
        """Run a `hopwall` command on the machine."""
        return self.ns.run([*HOPWALL, "--server", self.server, *argv], text=text, timeout_s=60)

    def children(self) -> set[str]:
        """Return the service processes that run on the machine."""
        found = set()
        for pid in self.ns_pids():
            line = command_of(pid)
            found |= {
                name
                for name in ("nats-server", "hopwall_api", "hopwall_calc", "hopwall_dataplane")
                if name in line
            }
        return found

    def rules_at_rest(self) -> str:
        """Return the rules once they stay so for a second: what nothing leads to any more is removed a little later."""
        before = self.ns.run(["iptables-save"])
        while True:
            time.sleep(1.0)
            now = self.ns.run(["iptables-save"])
            if now.count("\n-A") == before.count("\n-A"):
                return now
            before = now

    def ns_pids(self) -> list[int]:
        """Return the processes on the machine."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.ns.name], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]


def until(condition: object, log: Path, timeout_s: float = 60.0) -> None:
    """Wait until a callable is true; show the log when it does not become so."""
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(log.read_text())
        time.sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Make a machine with one workload interface and a foreign rule, set aside from the real one."""
    with Netns("up") as ns:
        ns.run(["ip", "link", "add", "tapvm1", "type", "veth", "peer", "name", "peer0"])
        ns.run(["ip", "link", "set", "tapvm1", "up"])
        ns.run(["ip", "link", "set", "peer0", "up"])
        ns.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP"])
        yield Machine(ns, tmp_path)


def test_life_of_one_host(machine: Machine) -> None:
    """Up, killed with -9, up again with all it knew, ended with the kernel as it was, cleaned up."""
    foreign = machine.ns.run(["iptables-save"])
    with machine.up() as process:
        out = machine.run("apply", "-f", "-", "--wait", "programmed", text=PROFILE)
        assert out.splitlines()[1] == "WorkloadEndpoint default/vm1 created"
        assert "10.65.0.24 dev tapvm1" in machine.ns.run(["ip", "route"])
        assert len(machine.children()) == 4
        said = (machine.folder / "up.log").read_text()
        assert "not known whether nats-server" not in said, "nobody has looked whether it syncs"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        until(lambda: not machine.children(), machine.folder / "up.log")
    with machine.up():
        items = json.loads(machine.run("get", "wep", "-o", "json"))["items"]
        assert [item["metadata"]["name"] for item in items] == ["vm1"]
        machine.run("apply", "-f", "-", "--wait", "programmed", text=PROFILE)
        rules = machine.rules_at_rest()
    assert machine.children() == set()
    assert machine.ns.run(["iptables-save"]).count("\n-A") == rules.count("\n-A")
    assert "10.65.0.24 dev tapvm1" in machine.ns.run(["ip", "route"])
    assert "would remove" in machine.run("cleanup", "--dry-run")
    assert "10.65.0.24 dev tapvm1" in machine.ns.run(["ip", "route"])
    assert "removed" in machine.run("cleanup")
    assert machine.ns.run(["ip", "route"]) == ""
    left = [line for line in machine.ns.run(["iptables-save"]).splitlines() if line[:2] == "-A"]
    assert left == [line for line in foreign.splitlines() if line[:2] == "-A"]


def test_child_that_dies_comes_back(machine: Machine) -> None:
    """A service that is killed is started again, and the log says so."""
    with machine.up():
        log = machine.folder / "up.log"
        victims = [pid for pid in machine.ns_pids() if "hopwall_calc" in command_of(pid)]
        os.kill(victims[0], signal.SIGKILL)
        until(lambda: "calc ended by signal 9; starting it again" in log.read_text(), log)
        until(lambda: len(machine.children()) == 4, log)
        machine.run("apply", "-f", "-", "--wait", "programmed", text=PROFILE)


def command_of(pid: int) -> str:
    """Return a process's command line, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_second_up_is_refused(machine: Machine) -> None:
    """Two `hopwall up` never share a folder."""
    with machine.up():
        again = subprocess.run(
            machine.ns.command([*HOPWALL, "up", "--state-dir", str(machine.folder)]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == f"hopwall: hopwall up is running already with {machine.folder}.\n"


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "172.18.203.1:80", "127.0.0.1:80,[::]:80"])
def test_open_door_is_refused(machine: Machine, listen: str) -> None:
    """Without authentication the API listens on loopback or a unix socket only."""
    done = subprocess.run(
        machine.ns.command([*HOPWALL, "up", "--listen", listen, "--state-dir", "/nowhere/x"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "loopback or a unix socket only" in done.stderr
