"""A machine that boots: from the first instant on, nothing is open that nobody allowed.

    remote (192.0.2.2) ── eth0 host ── tapa workload (10.65.0.10)

The host forwards and has a route to the workload from the start, so only rules keep anything closed. Three flows
of each family try all along: workload to host, workload to remote, remote to workload.
"""

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from hopwall_dataplane.feed import Step
from hopwall_dataplane.lastgood.driver import NAME, LastGoodFile
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.support.netns import Netns
from tests.support.swept import live
from tests.support.talk import Talk, Tick

pytestmark = pytest.mark.kernel

HOST, REMOTE, WORKLOAD = (
    {4: "192.0.2.1", 6: "fd00:2::1"},
    {4: "192.0.2.2", 6: "fd00:2::2"},
    {4: "10.65.0.10", 6: "fd65::10"},
)
#: For an agent to start and to do what it finds: seconds, and far more on a busy machine.
PATIENCE_S = 60.0
FLOWS = ("workload to host", "workload to remote", "remote to workload")


class Machine:
    """The three namespaces; the workload's interface is plugged in by `plug`."""

    def __init__(self) -> None:
        """Choose names."""
        self.host, self.remote, self.workload = Netns("boot"), Netns("far"), Netns("wl")
        self._stack = contextlib.ExitStack()
        self._heard: dict[tuple[str, int], Talk] = {}

    def __enter__(self) -> Self:
        """Make the host with its uplink."""
        with contextlib.ExitStack() as stack:
            for ns in (self.host, self.remote, self.workload):
                stack.enter_context(ns)
            self._wire("eth0", self.remote, HOST, REMOTE, "/24", "/64")
            for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
                self.host.sysctl(name, "1")
            for family, cidr in ((4, "10.65.0.0/24"), (6, "fd65::/64")):
                self.remote.run(["ip", "route", "add", cidr, "via", HOST[family]])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self._stack.close()

    def _wire(
        self, name: str, far: Netns, near: dict[int, str], away: dict[int, str], v4: str, v6: str
    ) -> None:
        end = ["peer", "name", "v0", "netns", far.name]
        self.host.run(["ip", "link", "add", name, "type", "veth", *end])
        for ns, device, addresses in ((self.host, name, near), (far, "v0", away)):
            ns.run(["ip", "link", "set", device, "up"])
            for family, address in addresses.items():
                cidr = address + (v4 if family == 4 else v6)
                ns.run(["ip", "addr", "add", cidr, "dev", device, *["nodad"] * (family == 6)])

    def plug(self) -> None:
        """Let the workload's interface appear, with all a careless administrator could set for it."""
        self._wire("tapa", self.workload, {}, WORKLOAD, "/32", "/128")
        self.host.run(["ip", "addr", "add", "fe80::1/64", "dev", "tapa", "nodad"])
        self.host.sysctl("net/ipv4/conf/tapa/proxy_arp", "1")
        self.host.sysctl("net/ipv4/neigh/tapa/proxy_delay", "0")
        for family, via in ((4, "169.254.1.1"), (6, "fe80::1")):
            own = WORKLOAD[family] + ("/32" if family == 4 else "/128")
            self.host.run(["ip", "route", "add", own, "dev", "tapa"])
            if family == 4:
                self.host.run(["ip", "addr", "add", "169.254.1.1/32", "dev", "lo"])
                self.workload.run(["ip", "route", "add", via, "dev", "v0"])
            self.workload.run(
                ["ip", f"-{family}", "route", "add", "default", "via", via, "dev", "v0"]
            )

    def try_all(self) -> None:
        """Begin all flows; they never stop trying."""
        for family in (4, 6):
            ends = zip(
                FLOWS,
                (
                    (self.workload, self.host, HOST),
                    (self.workload, self.remote, REMOTE),
                    (self.remote, self.workload, WORKLOAD),
                ),
                strict=True,
            )
            for port, (flow, (source, target, addresses)) in enumerate(ends, 5001):
                address = addresses[family]
                self._heard[flow, family] = self._talk(
                    Talk(target.name, "serve", "udp", address, port)
                )
                self._talk(Talk(source.name, "call", "udp", address, port))

    def reach_host(self) -> None:
        """Begin a flow of each family from the remote machine to the host itself; it never stops trying."""
        for family, address in HOST.items():
            serving = Talk(self.host.name, "serve", "udp", address, 5009)
            self._heard["remote to host", family] = self._talk(serving)
            self._talk(Talk(self.remote.name, "call", "udp", address, 5009))

    def _talk(self, talk: Talk) -> Talk:
        self._stack.callback(talk.close)
        return talk

    def heard(self, since: float = 0.0) -> dict[str, int]:
        """Count by flow the packets sent since a moment that came through, of both families."""
        return {
            f"{flow} v{family}": len([tick for tick in talk.heard() if tick.sent_at >= since])
            for (flow, family), talk in self._heard.items()
        }

    def open(self, for_s: float) -> set[str]:
        """Let the flows try for a while; return those that came through."""
        began = time.monotonic()
        time.sleep(for_s)
        return {flow for flow, n in self.heard(began).items() if n}

    def opens(self, wanted: set[str]) -> None:
        """Wait until just these flows come through."""
        end = time.monotonic() + PATIENCE_S
        while (found := self.open(1.0)) != wanted:
            assert time.monotonic() < end, found

    def ticks(self, flow: str, family: int) -> list[Tick]:
        """Return each packet of a flow that came through."""
        return self._heard[flow, family].heard()

    def state(self, backend: str = "nft") -> list[list[str]]:
        """Return what the kernel holds, without counters."""
        saves = (f"iptables-{backend}-save", f"ip6tables-{backend}-save", "ipset save")
        texts = (self.host.run(save.split()) for save in saves)
        return [
            sorted(x for x in live(t).splitlines() if not x.startswith(("#", ":"))) for t in texts
        ]

    def stands(self, words: str, table: str) -> None:
        """Wait until both families' tables of nft say this."""
        end = time.monotonic() + PATIENCE_S
        for tool in ("iptables-nft-save", "ip6tables-nft-save"):
            while words not in (text := self.host.run([tool, "-t", table])):
                assert time.monotonic() < end, text
                time.sleep(0.1)

    def wall(self, backend: str, **environ: str) -> None:
        """Do what the unit does that runs before the network comes up, with these settings in its file."""
        argv = [sys.executable, "-m", "hopwall_dataplane", "--build-wall", "--backend", backend]
        said = ["env", *(f"HOPWALL_{name.upper()}={text}" for name, text in environ.items())]
        self.host.run([*said, *argv, "--host", "h1"])

    @contextlib.contextmanager
    def agent(self, folder: Path, *flags: str) -> Iterator[None]:
        """Run an agent, with nothing to be reached where it looks for NATS."""
        argv = [sys.executable, "-m", "hopwall_dataplane", "--host", "h1", *flags]
        argv += ["--state-dir", str(folder / "state"), "--health-listen", "127.0.0.1:9099"]
        with (folder / "agent.log").open("ab") as log:
            process = subprocess.Popen(self.host.command(argv), stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def ready(self) -> str:
        """Return what the agent says of its readiness, "" while it does not answer."""
        return self.host.python(_readyz)


def _readyz() -> str:
    try:
        with urllib.request.urlopen("http://127.0.0.1:9099/readyz", timeout=20) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def until_ready(machine: Machine, words: str) -> str:
    """Wait until the agent says something with these words."""
    end = time.monotonic() + PATIENCE_S
    while words not in (text := machine.ready()):
        assert time.monotonic() < end, text
        time.sleep(0.1)
    return text


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Make a machine that has just booted: an empty kernel."""
    with Machine() as made:
        yield made


def keep_walled(folder: Path) -> None:
    """Keep a state in which a host endpoint lets nothing in from who is in a set, and all from others."""
    tier = TierPolicies(name="default", ingress=(PolicyId("gnp/in"),), egress=(PolicyId("gnp/in"),))
    remote = SetId("s:remote")
    deny = ResolvedRule(id="r0", action="deny", source=Entity(sets=(remote,)))
    allow = ResolvedRule(id="r1", action="allow")
    policy = PolicySet(id=PolicyId("gnp/in"), version=1, ingress=(deny, allow), egress=(allow,))
    members = tuple(sorted((f"{REMOTE[4]}/32", f"{REMOTE[6]}/128")))
    updates = (
        SetBucket(id=remote, version=1, members=members),
        policy,
        HostEndpointSet(id=HostEndpointId("h1-eth0"), interface="eth0", tiers=(tier,)),
    )
    file = LastGoodFile(folder / "state", host="h1", written_by="an older version")
    fresh = frozenset({updates[0].scope, policy.scope})
    file.rewrite(Step("e1", 7, full=True, updates=updates, fresh=fresh))
    file.close()


def keep_state(folder: Path, host: str = "h1") -> Path:
    """Keep a state in which the workload may reach anybody beyond the host, and nobody may reach it."""
    tier = TierPolicies(name="default", ingress=(PolicyId("gnp/p"),), egress=(PolicyId("gnp/p"),))
    updates = (
        PolicySet(id=PolicyId("gnp/p"), version=1, egress=(ResolvedRule(id="r", action="allow"),)),
        EndpointSet(
            id=EndpointId("d/a"),
            interface="tapa",
            addresses=(f"{WORKLOAD[4]}/32", f"{WORKLOAD[6]}/128"),
            tiers=(tier,),
        ),
    )
    file = LastGoodFile(folder / "state", host=host, written_by="an older version")
    file.rewrite(Step("e1", 7, full=True, updates=updates, fresh=frozenset({updates[0].scope})))
    file.close()
    return file.path


def everything() -> set[str]:
    """Return the names of all flows."""
    return {f"{flow} v{family}" for flow in FLOWS for family in (4, 6)}


def test_without_a_wall_all_is_open(machine: Machine) -> None:
    """The prober sees what is open: else the tests below would show nothing."""
    machine.plug()
    machine.try_all()
    machine.opens(everything())


def test_a_boot_is_closed_until_somebody_says_otherwise(
    machine: Machine, tmp_path: Path, backend: str
) -> None:
    """Wall, interface, agent without NATS, agent with a last-good state: never a packet too many."""
    machine.wall(backend)
    machine.plug()
    machine.try_all()
    assert machine.open(1.5) == set()
    with machine.agent(tmp_path, "--backend", backend):
        text = until_ready(machine, "no bus")
        assert text == "no snapshot from calc yet (no bus)\n"
        assert machine.open(1.0) == set()
    assert machine.open(0.5) == set()
    keep_state(tmp_path)
    with machine.agent(tmp_path, "--backend", backend):
        text = until_ready(machine, "last-good")
        assert text.startswith("enforcing last-good of revision 7 / epoch e1 since 20")
        assert text.endswith(", no bus\n")
        machine.opens({"workload to remote v4", "workload to remote v6"})
    allowed = {"workload to remote v4", "workload to remote v6"}
    assert {flow for flow, n in machine.heard().items() if n} == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_level": "loud"},
        {"mark_mask": "5"},
        {"log_rate": "x"},
        {"nats_url": "nats://h:99999999"},
        {"nats_url": "nats://a..b:4222"},
    ],
)
def test_a_wrong_setting_opens_nothing(machine: Machine, wrong: dict[str, str]) -> None:
    """The agent refuses it, so there is none; the wall stands all the same."""
    machine.wall("nft", **wrong)
    machine.plug()
    machine.try_all()
    assert machine.open(1.0) == set()


def test_host_endpoints_are_closed_before_the_agent_runs(
    machine: Machine, tmp_path: Path, backend: str
) -> None:
    """The host's own services wait for no agent; who takes over finds nothing to change in the rules."""
    keep_walled(tmp_path)
    machine.wall(backend, state_dir=str(tmp_path / "state"))
    machine.reach_host()
    assert machine.open(1.5) == set()
    rules, more_rules, _ = machine.state(backend)
    with machine.agent(tmp_path, "--backend", backend):
        until_ready(machine, "last-good")
        assert machine.open(1.5) == set()
    assert machine.state(backend)[:2] == [rules, more_rules]


def test_a_wall_without_memory_closes_no_host(machine: Machine, tmp_path: Path) -> None:
    """Where nothing is known of host endpoints, or what is kept cannot be used, the host itself is left alone."""
    keep_walled(tmp_path)
    path = tmp_path / "state" / NAME
    path.write_bytes(path.read_bytes()[:-40])
    machine.wall("nft", state_dir=str(tmp_path / "state"))
    machine.reach_host()
    machine.opens({"remote to host v4", "remote to host v6"})


def test_an_agent_builds_the_wall_itself_and_mends_it(machine: Machine, tmp_path: Path) -> None:
    """Without the unit an interface that comes after the agent is closed; so it is again after a flush."""
    with machine.agent(tmp_path, "--backend", "nft", "--refresh-s", "0.5"):
        until_ready(machine, "no bus")
        machine.plug()
        machine.try_all()
        assert machine.open(1.5) == set()
        for tool in ("iptables-nft", "ip6tables-nft"):
            machine.host.run([tool, "-t", "raw", "-F", "PREROUTING"])
            machine.host.run([tool, "-F", "FORWARD"])
        machine.stands("-j hw-PREROUTING", "raw")
        machine.stands("-j hw-FORWARD", "filter")


@pytest.mark.parametrize("damage", ["truncated", "foreign", "older"])
def test_a_file_that_cannot_be_used_opens_nothing(
    machine: Machine, tmp_path: Path, damage: str
) -> None:
    """Half a state may be open where the whole is closed: it is ignored, and the agent says so."""
    path = keep_state(tmp_path, host="h9" if damage == "foreign" else "h1")
    text = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(text[: len(text) * 2 // 3])
    elif damage == "older":
        path.write_bytes(text.replace(b'"version":1', b'"version":0'))
    machine.wall("nft")
    machine.plug()
    machine.try_all()
    with machine.agent(tmp_path, "--backend", "nft"):
        until_ready(machine, "no snapshot from calc yet (no bus)")
        assert machine.open(1.5) == set()
    assert f"The last-good state in {path} is not used" in (tmp_path / "agent.log").read_text()


def test_the_wall_leaves_what_stands_as_it_is(machine: Machine, tmp_path: Path) -> None:
    """A second boot unit, or a start of it by hand, changes nothing of a host that works."""
    keep_state(tmp_path)
    machine.plug()
    with machine.agent(tmp_path, "--backend", "nft"):
        until_ready(machine, "last-good")
        machine.stands("hw-cf", "filter")
        time.sleep(1.0)  # whatever it does besides
    before = machine.state()
    machine.wall("nft")
    assert machine.state() == before


def test_an_upgrade_that_cannot_read_the_file_disturbs_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    """Rules that stand go on, to the packet, while an agent knows nothing and hears nobody."""
    path = keep_state(tmp_path)
    machine.plug()
    with machine.agent(tmp_path, "--backend", "nft"):
        until_ready(machine, "last-good")
        machine.try_all()
        machine.opens({"workload to remote v4", "workload to remote v6"})
    before = machine.state()
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":0'))
    for _ in range(3):
        with machine.agent(tmp_path, "--backend", "nft", "--refresh-s", "0.3"):
            until_ready(machine, "no snapshot from calc yet (no bus)")
            time.sleep(0.7)
    assert machine.state() == before
    for family in (4, 6):
        numbers = [tick.number for tick in machine.ticks("workload to remote", family)]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    machine.opens({"workload to remote v4", "workload to remote v6"})


@pytest.mark.parametrize(("before", "after"), [("nft", "legacy"), ("legacy", "nft")])
def test_another_backend_leaves_nothing_behind(
    machine: Machine, tmp_path: Path, before: str, after: str
) -> None:
    """Rules that nobody writes any more would close what is allowed; they go when what replaces them stands."""
    keep_state(tmp_path)
    machine.wall(before)
    machine.plug()
    machine.try_all()
    allowed = {"workload to remote v4", "workload to remote v6"}
    with machine.agent(tmp_path, "--backend", after):
        until_ready(machine, "last-good")
        machine.opens(allowed)
    assert {flow for flow, n in machine.heard().items() if n} == allowed
    for tool in ("iptables", "ip6tables"):
        assert "hw-" not in machine.host.run([f"{tool}-{before}-save"])
