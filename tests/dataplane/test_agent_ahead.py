"""An agent that begins where the kernel is ahead of the file on disk, and nobody answers: it never goes back."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.lastgood.driver import NAME
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    TierPolicies,
    Verdict,
)
from tests.dataplane.test_agent_hold import readyz
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns
from tests.support.swept import live

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

#: Longer than an agent waits for calc before it takes the file.
_SILENCE_S = 7.0


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with a workload's interface."""
    with Netns("ahead") as ns:
        ns.run(["ip", "link", "add", "tapa", "type", "veth", "peer", "name", "peer-a"])
        ns.run(["ip", "link", "set", "tapa", "up"])
        yield ns


def kernel_state() -> list[str]:
    """Return all of ours in the kernel that packets may meet, without counters."""
    texts = [
        subprocess.run(words.split(), capture_output=True, text=True, check=True).stdout
        for words in ("iptables-nft-save", "iptables-legacy-save", "ipset save", "ip route")
    ]
    lines = [line for text in texts for line in live(text).splitlines()]
    return sorted(line for line in lines if not line.startswith(("#", ":", "create")))


def words(calc: CalcStandIn, action: Verdict) -> PolicySet:
    """Return the policy with another word."""
    rules = (ResolvedRule(id="r", action=action),)
    before = calc.pieces.get(PolicySet(id=PolicyId("gnp/p"), version=0).scope)
    return PolicySet(
        id=PolicyId("gnp/p"),
        version=calc.next_version(),
        previous=before.version if before else 0,
        ingress=rules,
        egress=rules,
    )


async def until_says(words: str) -> str:
    """Wait until the agent says why it is not ready, in these words."""
    async with asyncio.timeout(60):
        while words not in (text := await asyncio.to_thread(why_not_ready)):
            await asyncio.sleep(0.1)
    return text


def why_not_ready() -> str:
    """Ask the agent, which may not listen yet."""
    try:
        return readyz()[1]
    except OSError:
        return ""


async def until_written(file: Path, words: bytes) -> None:
    """Wait until the file says this."""
    async with asyncio.timeout(60):
        while not file.exists() or words not in file.read_bytes():
            await asyncio.sleep(0.02)


async def _ahead(calc: CalcStandIn, agent: AgentProcess, file: Path) -> dict[str, object]:
    tier = TierPolicies(name="default", ingress=(PolicyId("gnp/p"),), egress=(PolicyId("gnp/p"),))
    one = EndpointSet(
        id=EndpointId("d/a"), interface="tapa", addresses=("10.65.0.24/32",), tiers=(tier,)
    )
    await calc.say(pieces=(words(calc, "allow"),), endpoints=(one,))
    await calc.applied()
    await until_written(file, b"endpoint.set")
    older = shutil.copy(file, file.with_suffix(".older"))
    await calc.say(pieces=(words(calc, "deny"),))
    await calc.applied()
    await until_written(file, b'"deny"')
    found: dict[str, object] = {"ahead": kernel_state()}
    agent.kill()
    newer = file.read_bytes()
    shutil.copy(older, file)  # as it is when the kernel was faster than the disk
    at = agent.argv.index("--nats-url") + 1
    bus, agent.argv[at] = agent.argv[at], "nats://127.0.0.1:1"
    agent.start()
    found["says"] = await until_says("keeps another")
    await asyncio.sleep(_SILENCE_S)
    found["kept"] = kernel_state()
    agent.kill()
    file.write_bytes(newer)
    agent.start()
    found["same"] = await until_says("enforcing last-good")
    found["enforced"] = kernel_state()
    agent.kill()
    shutil.copy(older, file)
    agent.argv[at] = bus
    calc.forget()
    agent.start()
    status = await calc.applied()
    found["heard"] = kernel_state()
    found["not kept"] = status.not_kept
    return found


def test_what_the_kernel_has_is_not_rolled_back(host: Netns, tmp_path: Path, backend: str) -> None:
    """An older file is passed over and said to be; one that is of the kernel's state is enforced."""
    file = tmp_path / "state" / NAME

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> dict[str, object]:
        return await _ahead(calc, agent, file)

    flags = ("--backend", backend, "--state-dir", str(file.parent))
    found = host.python(run_scenario, scenario, tmp_path, *flags)
    assert found["kept"] == found["ahead"]
    assert found["enforced"] == found["ahead"]
    assert found["heard"] == found["ahead"]
    assert "no bus" in str(found["says"])
    assert found["not kept"] == ""


async def _slow_disk(calc: CalcStandIn, agent: AgentProcess, file: Path) -> dict[str, object]:
    one = EndpointSet(id=EndpointId("d/a"), interface="tapa", addresses=("10.65.0.24/32",))
    await calc.say(endpoints=(one,))
    await calc.applied()
    await until_written(file, b"endpoint.set")
    older = file.read_bytes()
    agent.kill()
    calc.forget()
    file.unlink()
    os.mkfifo(file)
    two = structs.replace(one, addresses=("10.65.0.25/32",))
    await calc.say(endpoints=(two,))
    agent.start()
    await asyncio.to_thread(file.write_bytes, older)  # as soon as it is read
    status = await calc.applied()
    await until_written(file, b"10.65.0.25")
    return {"not kept": status.not_kept, "older": b"10.65.0.24" in file.read_bytes()}


def test_what_calc_says_comes_over_what_the_disk_does(host: Netns, tmp_path: Path) -> None:
    """However slow the disk is, its state is never taken for a later one than calc's."""
    file = tmp_path / "state" / NAME

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> dict[str, object]:
        return await _slow_disk(calc, agent, file)

    found = host.python(run_scenario, scenario, tmp_path, "--state-dir", str(file.parent))
    assert found == {"not kept": "", "older": False}
