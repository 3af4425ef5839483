"""What a host does with snapshots that take too much away, and with the state it keeps on disk."""

import asyncio
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.lastgood.driver import LastGoodFile
from hopwall_model import codec, topics
from hopwall_model.epochs import epoch_name
from hopwall_model.release import Released, ReleaseRequest
from hopwall_model.status import HostStatus
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    SnapshotRequest,
    TierPolicies,
)
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

pytestmark = [pytest.mark.kernel, pytest.mark.nats]
TIER = TierPolicies(name="default", ingress=(PolicyId("gnp/p"),), egress=(PolicyId("gnp/p"),))
N = 24


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with an uplink."""
    with Netns("hold") as ns:
        ns.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "fabric0"])
        ns.run(["ip", "link", "set", "eth0", "up"])
        ns.run(["ip", "addr", "add", "172.18.203.125/24", "dev", "eth0"])
        yield ns


def sh(command: str) -> str:
    """Run a command in the scenario's namespace."""
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def n_addresses() -> int:
    """Count the workload addresses in the kernel."""
    return sh("ipset save").count("add hw4-to ")


def endpoint(n: int) -> EndpointSet:
    """Return one of many endpoints."""
    return EndpointSet(
        id=EndpointId(f"d/{n}"),
        interface=f"tap{n}",
        addresses=(f"10.65.0.{n + 1}/32",),
        tiers=(TIER,),
    )


async def begin(calc: CalcStandIn, n: int = N) -> None:
    """Say a policy and some endpoints, and wait until they are applied."""
    policy = PolicySet(
        id=PolicyId("gnp/p"),
        version=calc.next_version(),
        ingress=(ResolvedRule(id="r", action="allow"),),
    )
    await calc.say(pieces=(policy,), endpoints=tuple(endpoint(i) for i in range(n)))
    await calc.applied()


async def new_epoch(calc: CalcStandIn, epoch: str, keep: int) -> None:
    """Be a calc that has started again, and knows these endpoints only."""
    calc.epoch, calc.number = epoch, 1
    calc.endpoints = {e.id: e for e in map(endpoint, range(keep))}
    await calc._publish([])


async def release(calc: CalcStandIn, epoch: str) -> Released:
    """Release as the api does."""
    subject = topics.release_subject("h1")
    body = await calc.link.request_chunked(subject, ReleaseRequest(epoch=epoch), timeout_s=30)
    return codec.decoder(Released)(body)


# ---------------------------------------------------------------- the guard


async def _held(calc: CalcStandIn, _agent: AgentProcess) -> tuple[list[int], HostStatus, list[str]]:
    seen, said = [], []
    await begin(calc)
    await new_epoch(calc, "e2", keep=3)
    status = await calc.until(lambda s: s.held is not None)
    await asyncio.sleep(6.5)  # beyond the next time it asks
    seen.append(n_addresses())
    said.append((await release(calc, "e1")).failure)
    seen.append(n_addresses())
    said.append((await release(calc, "e2")).failure)
    after = await calc.applied()
    seen.append(n_addresses())
    assert after.held is None
    said.append((await release(calc, "e2")).failure)
    return seen, status, said


def test_a_snapshot_that_takes_too_much_away_waits_for_its_release(
    host: Netns, tmp_path: Path
) -> None:
    """The host keeps what it has, says so with numbers, and obeys when the very snapshot is released."""
    seen, status, said = host.python(run_scenario, _held, tmp_path, "--backend", "nft")
    assert seen == [N, N, 3]
    assert (status.epoch, status.in_sync) == ("e1", True)
    assert status.held is not None
    assert status.held.epoch == "e2"
    assert (
        "lacks 21 of 24 endpoints (endpoint d/10, endpoint d/11, endpoint d/12, …)"
        in status.held.reason
    )
    assert said[0].startswith("It holds back a snapshot of epoch e2")
    assert said[1:] == ["", "It holds back no snapshot."]


async def _recovered(calc: CalcStandIn, _agent: AgentProcess) -> tuple[int, int, HostStatus]:
    await begin(calc)
    await new_epoch(calc, "e2", keep=0)
    await calc.until(lambda s: s.held is not None)
    held = n_addresses()
    await new_epoch(calc, "e3", keep=N - 1)
    return held, n_addresses(), await calc.applied()


def test_a_calc_that_has_found_its_stream_again_is_obeyed_without_a_release(
    host: Netns, tmp_path: Path
) -> None:
    """Nobody needs to do anything once the snapshot is believable."""
    held, after, status = host.python(run_scenario, _recovered, tmp_path, "--backend", "nft")
    assert (held, after) == (N, N)
    assert status.held is None
    assert status.epoch == "e3"


async def _accounted(calc: CalcStandIn, _agent: AgentProcess) -> list[int]:
    await begin(calc)
    answer = calc._snapshot

    def accounting(request: SnapshotRequest, subject: str) -> bytes:
        snapshot = topics.HOST_BATCH.decode(answer(request, subject))
        told = tuple(name for name in request.missing if name.startswith("endpoint "))
        return codec.encode(structs.replace(snapshot, accounted=told))

    calc.answer = accounting
    await new_epoch(calc, "e2", keep=0)
    await calc.applied()
    return [n_addresses()]


def test_what_calc_accounts_for_goes_at_once(host: Netns, tmp_path: Path) -> None:
    """An operator who drained the host while calc restarted waits for nobody."""
    assert host.python(run_scenario, _accounted, tmp_path, "--backend", "nft") == [0]


async def _deltas(calc: CalcStandIn, _agent: AgentProcess) -> int:
    await begin(calc)
    for n in range(N):
        await calc.remove(f"d/{n}")
    await calc.applied()
    return n_addresses()


def test_ordinary_removals_are_not_held_up(host: Netns, tmp_path: Path) -> None:
    """What goes by deltas goes by events somebody made."""
    assert host.python(run_scenario, _deltas, tmp_path, "--backend", "nft") == 0


async def _no_file(calc: CalcStandIn, agent: AgentProcess) -> tuple[int, str, int]:
    await begin(calc)
    agent.kill()
    calc.forget()
    await new_epoch(calc, "e2", keep=0)
    agent.start()
    status = await calc.until(lambda s: s.held is not None)
    held = n_addresses()
    assert status.held is not None
    await release(calc, "e2")
    await calc.applied()
    return held, status.held.reason, n_addresses()


def test_an_agent_without_a_file_judges_by_what_the_kernel_has(host: Netns, tmp_path: Path) -> None:
    """A restart that finds no state on disk must not be the way around the guard."""
    held, reason, after = host.python(run_scenario, _no_file, tmp_path, "--backend", "nft")
    assert (held, after) == (N, 0)
    assert f"lacks {N} of {N} addresses" in reason


# ---------------------------------------------------------------- the state on disk


def state_of(folder: Path) -> LastGoodFile:
    """Return the host's file."""
    return LastGoodFile(folder / "state", host="h1", written_by="test")


def readyz() -> tuple[int, str]:
    """Ask the agent whether it is ready."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:9099/readyz", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def _kept(calc: CalcStandIn, agent: AgentProcess, folder: Path) -> dict[str, object]:
    seen: dict[str, object] = {}
    await begin(calc)
    await calc.remove("d/0")
    await calc.applied()
    async with asyncio.timeout(60):
        while (loaded := state_of(folder).load()) is None or loaded.mirror.revision < calc.revision:
            await asyncio.sleep(0.1)
    seen["on disk"] = (loaded.mirror.epoch, len(loaded.mirror.endpoints))
    agent.kill()
    calc.forget()
    # calc is there, but as one that knows nothing: what the file says stands against it.
    await new_epoch(calc, "e2", keep=0)
    agent.start()
    status = await calc.until(lambda s: s.held is not None and s.last_good is not None)
    seen["status"] = status
    seen["ready"] = readyz()
    seen["held"] = n_addresses()
    await new_epoch(calc, "e3", keep=N)
    status = await calc.until(lambda s: s.epoch == "e3" and s.in_sync)
    seen["after"] = (n_addresses(), status.last_good, status.held, readyz()[0])
    return seen


def test_the_state_is_kept_and_judged_by(host: Netns, tmp_path: Path) -> None:
    """After a restart the host goes by its file until a believable snapshot comes, and says so."""

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> dict[str, object]:
        return await _kept(calc, agent, tmp_path)

    flags = ("--backend", "nft", "--state-dir", str(tmp_path / "state"))
    seen = host.python(run_scenario, scenario, tmp_path, *flags)
    assert seen["on disk"] == ("e1", N - 1)
    status = seen["status"]
    assert isinstance(status, HostStatus)
    assert status.last_good is not None
    assert (status.last_good.epoch, status.in_sync) == ("e1", False)
    assert seen["held"] == N - 1
    ready = seen["ready"]
    assert isinstance(ready, tuple)
    assert ready[0] == 503
    assert ready[1].startswith("enforcing last-good of revision ")
    assert "a snapshot is held back" in ready[1]
    assert seen["after"] == (N, None, None, 200)


async def _deposed(calc: CalcStandIn, agent: AgentProcess, folder: Path) -> list[int]:
    ruling, deposed = epoch_name("s", "bbbb", 20), epoch_name("s", "aaaa", 10)
    calc.epoch = ruling
    await begin(calc)
    async with asyncio.timeout(60):
        while (loaded := state_of(folder).load()) is None or loaded.mirror.revision < calc.revision:
            await asyncio.sleep(0.1)
    agent.kill()
    calc.forget()
    agent.start()
    seen = []
    for _ in range(5):  # it is heard, and its answers are: nobody else speaks
        await new_epoch(calc, deposed, keep=N - 1)
        await asyncio.sleep(1)
    seen.append(n_addresses())
    await new_epoch(calc, ruling, keep=N - 2)
    await calc.applied()
    return [*seen, n_addresses()]


def test_who_was_deposed_before_a_restart_is_so_after_it(host: Netns, tmp_path: Path) -> None:
    """An agent that begins again knows whom it obeyed: an older calc that still answers takes it nowhere."""

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> list[int]:
        return await _deposed(calc, agent, tmp_path)

    flags = ("--backend", "nft", "--state-dir", str(tmp_path / "state"))
    assert host.python(run_scenario, scenario, tmp_path, *flags) == [N, N - 2]
