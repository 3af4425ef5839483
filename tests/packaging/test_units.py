"""Each service under exactly what its systemd unit leaves it: user, capabilities, folders, system calls.

systemd does not run here, so `unit_sandbox` does what it would do, from the unit files themselves.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.netns import Netns
from tests.support.unit import FOLDER, Unit

pytestmark = [pytest.mark.kernel, pytest.mark.nats, pytest.mark.e2e]

SERVICES = ("nats", "api", "calc", "wall", "dataplane", "bird")
NATS_CONF = FOLDER.parents[1] / "services" / "runtime" / "nats.conf"
#: The numbers of the users that packaging/sysusers.d makes.
UIDS = {"hopwall": 64101, "hopwall-api": 64102, "hopwall-calc": 64103, "hopwall-nats": 64104}
CAPS = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}


def capability_mask(words: list[str]) -> int:
    """Return capabilities as /proc shows them."""
    return sum(1 << CAPS[word] for word in words)


class Host:
    """One host with everything on it, each service run by its unit."""

    def __init__(self, folder: Path) -> None:
        """Choose names."""
        self.folder = folder
        self.ns, self.remote, self.workload = Netns("unit"), Netns("far"), Netns("wl")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()
        self._n_started = 0

    def __enter__(self) -> Self:
        """Make the namespaces: a remote machine, and a workload whose interface is there already."""
        with contextlib.ExitStack() as stack:
            for ns in (self.ns, self.remote, self.workload):
                stack.enter_context(ns)
            for name, far, near, away in (
                ("eth0", self.remote, "192.0.2.1/24", "192.0.2.2/24"),
                ("tapa", self.workload, "", "10.65.0.10/32"),
            ):
                end = ["peer", "name", "v0", "netns", far.name]
                self.ns.run(["ip", "link", "add", name, "type", "veth", *end])
                self.ns.run(["ip", "link", "set", name, "up"])
                far.run(["ip", "link", "set", "v0", "up"])
                far.run(["ip", "addr", "add", away, "dev", "v0"])
                if near:
                    self.ns.run(["ip", "addr", "add", near, "dev", name])
            self.remote.run(["ip", "route", "add", "10.65.0.0/24", "via", "192.0.2.1"])
            self.workload.run(["ip", "route", "add", "169.254.1.1", "dev", "v0"])
            self.workload.run(["ip", "route", "add", "default", "via", "169.254.1.1"])
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End and remove everything."""
        self._stack.close()
        for log in sorted(self.folder.glob("*.log")):
            sys.stderr.write(f"==> {log.name}\n{log.read_text()[-2000:]}\n")

    def _stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def command(self, service: str, *flags: str) -> list[str]:
        """Return what starts a service: the unit's own ExecStart, with this checkout for what is installed."""
        unit = Unit.read(f"hopwall-{service}")
        words = unit.one("ExecStart").split()
        venv = str(Path(sys.executable).parent)
        words[0] = words[0].replace("/opt/hopwall/bin", venv)
        places = {"/etc/hopwall/nats.conf": str(self._nats_conf())}
        words = [places.get(word, word) for word in words]
        uid = UIDS[unit.one("User")]
        binds = {}
        for kind, root in (("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")):
            for name in unit.words(kind):
                source = self.folder / kind / name
                source.mkdir(parents=True, exist_ok=True)
                subprocess.run(["chown", "-R", f"{uid}:{uid}", source], check=True)
                source.chmod(int(unit.one(f"{kind}Mode"), 8))
                binds[f"{root}/{name}"] = str(source)
        self._n_started += 1
        stage = self.folder / f"stage{self._n_started}"
        stage.mkdir()
        plan = {"unit": unit.name, "uid": uid, "stage": str(stage), "binds": binds}
        plan |= {"lock_gid": UIDS["hopwall"]}
        sandbox = [sys.executable, "-m", "tests.support.unit_sandbox", json.dumps(plan)]
        return self.ns.command([*sandbox, *words, *flags])

    def _nats_conf(self) -> Path:
        """Say the shipped configuration with the folder that the unit gives it."""
        path = self.folder / "StateDirectory/hopwall-nats/nats.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = NATS_CONF.read_text().splitlines(True)
        # Who may do what has tests of its own (tests/security); here privileges are asked about.
        path.write_text("".join(line for line in lines if not line.startswith("include")))
        return Path("/var/lib/hopwall-nats/nats.conf")

    def start(self, service: str, *flags: str) -> None:
        """Start a service."""
        with (self.folder / f"{service}.log").open("ab") as log:
            # Without what the tests say: the defaults are meant.
            env = {k: v for k, v in os.environ.items() if not k.startswith("HOPWALL_")}
            given = Unit.read(f"hopwall-{service}").words("Environment")
            env |= dict(word.split("=", 1) for word in given)
            self.running[service] = subprocess.Popen(
                self.command(service, *flags), stdout=log, stderr=log, env=env
            )

    def hopwall(self, *words: str, text: str | None = None) -> str:
        """Run a command of the operator's."""
        return self.ns.run([sys.executable, "-m", "hopwall_cli", *words], text=text)

    def status(self, service: str) -> dict[str, str]:
        """Return what /proc says of a service's process."""
        text = Path(f"/proc/{self.running[service].pid}/status").read_text()
        return {
            key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())
        }

    def view(self) -> dict[str, Any]:
        """Return what the API says of the host."""
        return dict(json.loads(self.hopwall("hosts", "-o", "json"))["items"][0])


def until(question: Any, timeout_s: float = 60.0) -> None:
    """Wait until it is answered by yes."""
    end = time.monotonic() + timeout_s
    while not question():
        assert time.monotonic() < end
        time.sleep(0.1)


def document() -> str:
    """Say a host, a pool, a policy that lets out and not in, and an endpoint."""
    parts = [
        {"kind": "Node", "metadata": {"name": "h1"}, "spec": {"bgp": {"ipv4Address": "192.0.2.1/24", "asNumber": "64512"}}},
        {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.65.0.0/24"}},
        {
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "out"},
            "spec": {"selector": "all()", "types": ["Ingress", "Egress"], "egress": [{"action": "Allow"}]},
        },
        {
            "kind": "WorkloadEndpoint",
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {
                "node": "h1",
                "orchestrator": "test",
                "workload": "a",
                "endpoint": "eth0",
                "interfaceName": "tapa",
                "ipNetworks": ["10.65.0.10/32"],
            },
        },
    ]  # fmt: skip
    return "\n---\n".join(
        json.dumps({"apiVersion": "projectcalico.org/v3", **part}) for part in parts
    )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Make a host."""
    with Host(tmp_path) as made:
        yield made


def pings(ns: Netns, address: str) -> bool:
    """Tell whether an echo comes back."""
    program = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "s.settimeout(1)\n"
        "s.sendto(b'x',(sys.argv[1],7))\n"
        "try: s.recv(9)\n"
        "except OSError: sys.exit(1)\n"
    )
    return ns.succeeds([sys.executable, "-c", program, address])


_ECHO = (
    "import socket\n"
    "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "s.bind(('0.0.0.0',7))\n"
    "while True: s.sendto(*s.recvfrom(9))\n"
)


def start_all(host: Host, backend: str) -> None:
    """Start all units in their order, and declare what there is."""
    for ns in (host.ns, host.remote):
        host.running[f"echo {ns.name}"] = subprocess.Popen(
            ns.command([sys.executable, "-c", _ECHO])
        )
    wall = host.command("wall", "--host", "h1", "--backend", backend)
    subprocess.run(wall, check=True, timeout=120)
    host.start("nats")
    host.start("api", "--listen", "127.0.0.1:8080")
    host.start("calc", "--routing", "bgp")
    host.start("bird")
    host.start("dataplane", "--host", "h1", "--backend", backend, "--bgp")
    until(lambda: host.ns.succeeds([sys.executable, "-m", "hopwall_cli", "hosts"]))
    host.hopwall("apply", "-f", "-", "--wait", "programmed", "--timeout", "60", text=document())
    until(lambda: pings(host.workload, "192.0.2.2"))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_everything_works_under_what_the_units_allow(host: Host, backend: str) -> None:
    """Endpoint programmed, policy enforced, BIRD driven, state kept; and /proc shows what the unit says."""
    start_all(host, backend)
    assert not pings(host.workload, "192.0.2.1")
    assert not pings(host.remote, "10.65.0.10")
    until(lambda: host.view()["inSync"])
    assert host.view().get("refused", []) == []
    birdc = [
        "birdc",
        "-s",
        str(host.folder / "RuntimeDirectory/hopwall/bird.ctl"),
        "show",
        "protocols",
    ]
    until(lambda: "hw_" in host.ns.run(birdc))
    kept = host.folder / "StateDirectory/hopwall/last-good.jsonl"
    until(kept.exists)
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, UIDS["hopwall"])
    for service in set(SERVICES) - {"wall"}:
        check_process(host, service)


#: A gratuitous ARP, as a hypervisor sends it for a machine that resumes.
_CLAIM = (
    "import socket,sys\n"
    "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\n"
    "s.bind(('v0',0x806))\n"
    "own,ip=s.getsockname()[4],socket.inet_aton(sys.argv[1])\n"
    "head=bytes.fromhex('08060001080006040001')\n"
    "s.send(bytes([255])*6+own+head+own+ip+bytes(6)+ip)\n"
)


def enforced(host: Host, backend: str) -> str:
    """Return what stands in the kernel: lines, routes, members, sysctls."""
    ns = host.ns
    return "\n".join(
        (
            re.sub(r"[0-9]+:[0-9]+\]|^#.*", "", ns.run([f"iptables-{backend}-save"]), flags=re.M),
            ns.run(["ip", "route", "show", "proto", "80"]),
            ns.run(["ipset", "save", "hw4-from"]),
            ns.run(["cat", "/proc/sys/net/ipv4/conf/tapa/proxy_arp"]),
        )
    )


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_what_others_change_is_put_right_under_what_the_units_allow(
    host: Host, backend: str
) -> None:
    """Lines, members, routes and sysctls, each by itself, and all while no agent ran; nobody is refused."""
    start_all(host, backend)
    until(lambda: host.view()["inSync"])
    before = enforced(host, backend)
    harms = (
        [f"iptables-{backend}", "-t", "filter", "-F"],
        [f"iptables-{backend}", "-t", "raw", "-D", "PREROUTING", "1"],
        ["ipset", "flush", "hw4-from"],
        ["ip", "route", "del", "10.65.0.10"],
        ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/tapa/proxy_arp"],
    )
    for harm in harms:
        host.ns.run(harm)
        until(lambda: enforced(host, backend) == before)
    host.running["dataplane"].kill()
    host.running["dataplane"].wait()
    for harm in harms:
        host.ns.run(harm)
    host.start("dataplane", "--host", "h1", "--backend", backend, "--bgp")
    until(lambda: enforced(host, backend) == before)
    until(lambda: host.view()["inSync"])
    assert host.view().get("refused", []) == []


def test_a_workload_that_arrives_is_heard_under_what_the_units_allow(host: Host) -> None:
    """The sign of a live migration comes by a packet socket; the source's host is one that does not answer."""
    start_all(host, "nft")
    host.hopwall("delete", "workloadendpoints", "a", "-n", "default")
    ends = {"source": ("h2", "1"), "target": ("h1", "2")}
    parts: list[dict[str, Any]] = [
        {"kind": "Node", "metadata": {"name": "h2"}, "spec": {}},
        {
            "kind": "LiveMigration",
            "metadata": {"name": "m", "namespace": "default"},
            "spec": {
                end: {"workloadEndpoint": {"hostname": node, "orchestratorID": "test", "workloadID": "vm", "endpointID": number}}
                for end, (node, number) in ends.items()
            },
        },
        *(
            {
                "kind": "WorkloadEndpoint",
                "metadata": {"name": end, "namespace": "default"},
                "spec": {"node": node, "orchestrator": "test", "workload": "vm", "endpoint": number,
                         "interfaceName": "tapa", "ipNetworks": ["10.65.0.10/32"]},
            }
            for end, (node, number) in ends.items()
        ),
    ]  # fmt: skip
    text = "\n---\n".join(json.dumps({"apiVersion": "projectcalico.org/v3", **p}) for p in parts)
    host.hopwall("apply", "-f", "-", text=text)

    def routed() -> bool:
        return "tapa" in host.ns.run(["ip", "route", "show", "10.65.0.10", "proto", "80"])

    until(lambda: not routed())

    def arrived() -> bool:
        host.workload.run([sys.executable, "-c", _CLAIM, "10.65.0.10"])
        return routed()

    until(arrived)
    assert pings(host.workload, "192.0.2.2")


def check_process(host: Host, service: str) -> None:
    """Compare what the kernel says of a running process with its unit."""
    unit = Unit.read(f"hopwall-{service}")
    status = host.status(service)
    uid = str(UIDS[unit.one("User")])
    assert status["Uid"].split() == [uid] * 4, service
    assert status["Gid"].split() == [uid] * 4, service
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", "0077"), service
    ambient = capability_mask(unit.words("AmbientCapabilities"))
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {ambient}
    assert int(status["CapBnd"], 16) == capability_mask(unit.words("CapabilityBoundingSet"))


def test_the_units_ask_for_no_more_than_is_said() -> None:
    """api, calc and nats have no capability; the dataplane has two; nobody is root."""
    wanted: dict[str, set[str]] = {name: set() for name in ("api", "calc", "nats")}
    wanted |= {name: {"CAP_NET_ADMIN", "CAP_NET_RAW"} for name in ("wall", "dataplane")}
    wanted["bird"] = {"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}
    users = re.findall(r"^u (\S+)", (FOLDER.parent / "sysusers.d/hopwall.conf").read_text(), re.M)
    assert {path.stem for path in FOLDER.iterdir()} == {f"hopwall-{name}" for name in wanted}
    for name, caps in wanted.items():
        unit = Unit.read(f"hopwall-{name}")
        assert set(unit.words("AmbientCapabilities")) == caps
        assert set(unit.words("CapabilityBoundingSet")) == caps
        assert unit.one("User") in users
        assert unit.one("User") in UIDS


def test_the_wall_comes_before_the_network() -> None:
    """The order is systemd's to keep; that it is asked for is ours."""
    unit = Unit.read("hopwall-wall")
    assert "network-pre.target" in unit.words("Before")
    assert "network-pre.target" in unit.words("Wants")
    assert unit.one("DefaultDependencies") == "no"
    assert unit.one("Type") == "oneshot"


def test_the_wall_comes_after_who_empties_the_tables() -> None:
    """Debian's loaders of rules begin with a flush: one that came later would take the wall away until the agent runs."""
    after = Unit.read("hopwall-wall").words("After")
    assert {"nftables.service", "netfilter-persistent.service", "ufw.service"} <= set(after)


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_finds_little_exposed(service: str) -> None:
    """`systemd-analyze security` rates each unit; what it measures may not grow unseen."""
    path = FOLDER / f"hopwall-{service}.service"
    asked = [
        "systemd-analyze",
        "--offline=yes",
        "--threshold=22",
        "--no-pager",
        "security",
        str(path),
    ]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
