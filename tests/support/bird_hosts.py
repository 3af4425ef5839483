"""Hosts with a real BIRD each, on one bridge: h1 is 172.30.0.1 and fd30::1, and so on.

with BirdHosts("mesh", tmp_path, 3) as hosts:
    hosts[1].configure(bgp)
    hosts[1].start()
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from hopwall_dataplane.bgp.control import Control
from hopwall_dataplane.bgp.driver import BirdDriver, Seen
from hopwall_dataplane.bgp.parse import Reply
from hopwall_dataplane.bgp.render import Rendered, render
from hopwall_dataplane.outcome import Done
from hopwall_model.bgp import Bgp, PrefixRange, Session
from tests.support.netns import Netns

AS = 64512


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until this holds: daemons that start on a busy machine, and try to connect every few seconds."""
    deadline_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_at, "it did not come to hold in time"
        time.sleep(0.1)


def mesh(here: int, there: int, *entitled: PrefixRange, **more: object) -> Session:
    """Return the session of the full mesh from one host to another."""
    given: dict[str, object] = {
        "name": f"mesh/h{there}",
        "family": 4,
        "peer_ip": f"172.30.0.{there}",
        "peer_as": AS,
        "local_as": AS,
        "passive": here > there,
        "entitled": entitled,
        "restart_s": 30,
    }
    return Session(**(given | more))  # type: ignore[arg-type]


def speaker(here: int, *sessions: Session, **more: object) -> Bgp:
    """Return what a host is to do."""
    given: dict[str, object] = {"as_number": AS, "pools": ("10.65.0.0/16", "fd65::/64")}
    return Bgp(router_id=f"172.30.0.{here}", sessions=sessions, **(given | more))  # type: ignore[arg-type]


class BirdHost:
    """One host: a namespace, a folder, and a BIRD when it is started."""

    def __init__(self, ns: Netns, folder: Path, number: int) -> None:
        self.ns = ns
        self.number = number
        self.folder = folder
        self.config = folder / "bird.conf"
        self.socket = folder / "bird.ctl"
        self.pid_file = folder / "bird.pid"
        self.secrets = folder / "secrets"
        self.driver = BirdDriver(socket=self.socket, config=self.config, secrets=self.secrets)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, answers: bool = True) -> None:
        """Start BIRD, as whoever runs the product's command would."""
        argv = [
            sys.executable, "-m", "hopwall_dataplane.bgp.process", "--config", str(self.config),
            "--socket", str(self.socket), "--pid-file", str(self.pid_file),
        ]  # fmt: skip
        with (self.folder / "bird.log").open("ab") as log:
            self._process = subprocess.Popen(self.ns.command(argv), stderr=log)
        if answers:
            until(self._answers)

    def _answers(self) -> bool:
        try:
            return self.ask("show status").ok
        except OSError:
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The BIRD that was started last."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """End BIRD as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def down(self) -> None:
        """End BIRD in good order."""
        assert self._process is not None
        self.ask("down")
        self._process.wait(timeout=60)

    def ask(self, question: str) -> Reply:
        """Ask BIRD one question."""

        async def whole() -> Reply:
            async with Control(self.socket) as bird:
                return await bird.ask(question)

        return asyncio.run(whole())

    def render(self, bgp: Bgp) -> Rendered:
        """Render a value with this host's secrets."""
        secrets = self.driver.read_secrets(bgp.sessions)
        return render(bgp, interface_prefixes=("tap",), secrets=secrets)

    def configure(self, bgp: Bgp) -> None:
        """Make BIRD do what the value says."""
        assert asyncio.run(self.driver.apply(self.render(bgp))) == Done()

    def see(self, bgp: Bgp) -> Seen:
        """Return what BIRD says of the value's sessions."""
        return asyncio.run(self.driver.see(self.render(bgp)))

    def secret(self, name: str, key: str, text: str, mode: int = 0o600) -> None:
        """Lay down a password."""
        path = self.secrets / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def workload(self, *addresses: str, index: int = 0) -> None:
        """Give the host a workload interface with routes of ours to it."""
        name = f"tap{index}"
        if not self.ns.succeeds(["ip", "link", "show", name]):
            self.ns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"v{index}"])
            for end in (name, f"v{index}"):
                self.ns.run(["ip", "link", "set", end, "up"])
        lines = "".join(f"route add {a} dev {name} proto 80\n" for a in addresses)
        self.ns.run(["ip", "-batch", "-"], text=lines)

    def learnt(self, family: int = 4) -> dict[str, str]:
        """Return the kernel's routes by BIRD: destination → the rest."""
        out = self.ns.run(["ip", f"-{family}", "route", "show", "proto", "bird"])
        lines = (line.strip().removeprefix("blackhole ") for line in out.splitlines())
        return {to: rest for to, _, rest in (line.partition(" ") for line in lines) if to}

    def all_routes(self, family: int = 4) -> str:
        """Return all of the kernel's routes."""
        return self.ns.run(["ip", f"-{family}", "route", "show"])


class BirdHosts:
    """Hosts by number from 1, in namespaces on one bridge, removed whatever happens."""

    def __init__(self, label: str, folder: Path, n_hosts: int) -> None:
        self._stack = contextlib.ExitStack()
        self._label = label
        self._folder = folder
        self._n_hosts = n_hosts
        self._hosts: dict[int, BirdHost] = {}
        self._fabric: Netns

    def __getitem__(self, number: int) -> BirdHost:
        return self._hosts[number]

    def __enter__(self) -> Self:
        with self._stack:
            fabric = self._fabric = self._stack.enter_context(Netns(f"{self._label}f"))
            fabric.run(["ip", "link", "add", "br0", "type", "bridge"])
            fabric.run(["ip", "link", "set", "br0", "up"])
            for number in range(1, self._n_hosts + 1):
                ns = self._stack.enter_context(Netns(f"{self._label}{number}"))
                self._wire(fabric, ns, number)
                folder = self._folder / f"h{number}"
                folder.mkdir()
                self._hosts[number] = BirdHost(ns, folder, number)
                self._stack.callback(self._hosts[number].kill)
            self._stack = self._stack.pop_all()
        return self

    @contextlib.contextmanager
    def cut(self, number: int) -> Iterator[None]:
        """Let nothing through to a host or from it while this lasts; its link stays up."""
        self._fabric.run(["ip", "link", "set", f"p{number}", "nomaster"])
        try:
            yield
        finally:
            self._fabric.run(["ip", "link", "set", f"p{number}", "master", "br0"])

    def _wire(self, fabric: Netns, ns: Netns, number: int) -> None:
        for line in (
            f"link add p{number} type veth peer name eth0 netns {ns.name}",
            f"link set p{number} master br0 up",
        ):
            fabric.run(["ip", *line.split()])
        # Else the link-local address is there only after a second, and some daemons wait for it.
        ns.sysctl("net/ipv6/conf/eth0/accept_dad", "0")
        for line in (
            "link set eth0 up",
            f"addr add 172.30.0.{number}/24 dev eth0",
            f"addr add fd30::{number}/64 dev eth0 nodad",
        ):
            ns.run(["ip", *line.split()])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for number, host in self._hosts.items():
                log = host.folder / "bird.log"
                if log.exists():
                    sys.stderr.write(f"--- h{number}\n{log.read_text()[-4000:]}")
        self._stack.close()
