"""Tools that do not come to an end: the host says so, goes on closed as it was, and mends itself."""

import asyncio
import fcntl
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_model.updates import EndpointId, EndpointSet, PolicyId, TierPolicies
from tests.dataplane.test_agent_ahead import words
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.odd_tools import own_mounts, wrap_tool
from tests.support.swept import live

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

Told = dict[str, object]


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with a workload's interface."""
    with Netns("heldup") as ns:
        ns.run(["ip", "link", "add", "tapa", "type", "veth", "peer", "name", "peer-a"])
        ns.run(["ip", "link", "set", "tapa", "up"])
        yield ns


def chain() -> list[str]:
    """Return what stands of the policy."""
    name = policy_chain(PolicyId("gnp/p"), "egress")
    tools = ("iptables-nft-save", "iptables-legacy-save")
    saved = [subprocess.run([t], capture_output=True, text=True, check=True).stdout for t in tools]
    lines = "".join(map(live, saved)).splitlines()
    return [line for line in lines if line.startswith(f"-A {name} ")]


def health(what: str) -> tuple[int, str]:
    """Ask the agent how it is."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9099/{what}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def restores(agent: AgentProcess) -> list[int]:
    """Return the restore processes of an agent."""
    assert agent.pid is not None
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(agent.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, args in rows if "-restore" in args]


async def held_up(
    calc: CalcStandIn,
    agent: AgentProcess,
    hinder: Callable[[], None],
    release: Callable[[], None] = lambda: None,
) -> Told:
    """Change a policy while something hinders; return what was told, and what stood meanwhile."""
    tier = TierPolicies(name="default", ingress=(PolicyId("gnp/p"),), egress=(PolicyId("gnp/p"),))
    one = EndpointSet(
        id=EndpointId("d/a"), interface="tapa", addresses=("10.65.0.24/32",), tiers=(tier,)
    )
    await calc.say(pieces=(words(calc, "deny"),), endpoints=(one,))
    await calc.applied()
    told: Told = {"before": await asyncio.to_thread(chain)}
    hinder()
    await calc.say(pieces=(words(calc, "allow"),))
    status = await calc.until(lambda s: bool(s.held_up))
    told["behind"] = status.revision < calc.revision
    async with asyncio.timeout(
        60
    ):  # while the words change, as a tool is killed, two looks may differ
        while (ready := await asyncio.to_thread(health, "readyz")) != (
            503,
            f"{calc.statuses[-1].held_up}\n",
        ):
            await asyncio.sleep(0.1)
    told["says"] = ready[1]
    told["live"] = (await asyncio.to_thread(health, "livez"))[0]
    release()
    status = await calc.until(lambda s: s.revision >= calc.revision and not s.held_up)
    told["after"] = await asyncio.to_thread(chain)
    told["ready after"] = (await asyncio.to_thread(health, "readyz"))[0]
    return told


def is_right(told: Told) -> None:
    """Hold what was told to the rules of all these tests."""
    assert told["behind"]
    assert told["live"] == 200
    assert "-j DROP" in str(told["before"])
    assert "hw-allowed" not in str(told["before"])
    assert "-g hw-allowed" in str(told["after"])
    assert told["ready after"] == 200


async def _stopped(calc: CalcStandIn, agent: AgentProcess) -> Told:
    def hinder() -> None:
        for pid in restores(agent):
            os.kill(pid, signal.SIGSTOP)

    return await held_up(calc, agent, hinder)


def test_a_tool_that_hangs_is_killed_and_started_again(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Meanwhile the host is live and not ready, and its status names the tool."""
    told = host.python(run_scenario, _stopped, tmp_path, "--backend", backend)
    is_right(told)
    assert f"/usr/sbin/iptables-{backend}-restore" in str(told["says"]) or "ip6tables" in str(
        told["says"]
    )


def is_held(lock: Path) -> bool:
    """Tell whether somebody holds a lock."""
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _locked(folder: Path) -> Told:
    own_mounts()
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    holders: list[subprocess.Popen[bytes]] = []

    def hinder() -> None:
        holders.append(subprocess.Popen(["flock", "-o", "/run/xtables.lock", "sleep", "100"]))
        while not is_held(Path("/run/xtables.lock")):
            time.sleep(0.02)

    def release() -> None:
        subprocess.run(["pkill", "-P", str(holders[0].pid)], check=True)
        holders[0].wait()

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> Told:
        return await held_up(calc, agent, hinder, release)

    return run_scenario(scenario, folder, "--backend", "legacy")


def test_who_holds_the_lock_of_iptables_is_named_and_waited_for(
    host: Netns, tmp_path: Path
) -> None:
    """When it lets go the change is applied at once."""
    told = host.python(_locked, tmp_path)
    is_right(told)
    assert "/run/xtables.lock is held by flock" in str(told["says"])


def _replaced(folder: Path, backend: str) -> Told:
    own_mounts()
    flag = folder / "hang"
    wrap_tool(folder, f"xtables-{backend}-multi", f'[ -e "{flag}" ] && exec sleep 100')

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> Told:
        def hinder() -> None:
            flag.touch()
            for pid in restores(agent):
                os.kill(pid, signal.SIGKILL)

        return await held_up(calc, agent, hinder, flag.unlink)

    return run_scenario(scenario, folder, "--backend", backend)


def test_tools_that_never_end_are_tried_until_they_do(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Reading as well as writing: whatever is asked of iptables hangs, and then it does not."""
    is_right(host.python(_replaced, tmp_path, backend))


async def _waiting(calc: CalcStandIn, agent: AgentProcess) -> list[list[int]]:
    await calc.say(pieces=(words(calc, "deny"),))
    await calc.applied()
    seen = [sorted(restores(agent))]
    await asyncio.sleep(7.0)
    seen.append(sorted(restores(agent)))
    await calc.say(pieces=(words(calc, "allow"),))
    await calc.applied()
    return [*seen, sorted(restores(agent))]


def test_a_tool_that_has_nothing_to_do_stays(host: Netns, tmp_path: Path, backend: str) -> None:
    """It does not end by itself some seconds after a transaction, so nothing meets its end."""
    before, after, used = host.python(run_scenario, _waiting, tmp_path, "--backend", backend)
    assert before == after == used
    assert len(before) == 2
