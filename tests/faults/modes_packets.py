"""What a cloud with workloads must survive while every packet is judged: kills, freezes, cuts, other stores."""

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from hopwall_cli import supervisor
from hopwall_cli.lab import netns
from hopwall_runtime import clock
from tests.faults.cloud import Cloud
from tests.faults.rig import pause
from tests.faults.table import Mode, Trial
from tests.faults.watch import Watch, on_a_cloud, swapped_store

#: As many kills as the whole run is to have, where time allows.
N_KILLS = 500
_KILLS_EACH = 20
#: Until a workload whose interface was down is judged again.
_BACK_S = 3.0
_HERE = "tests/faults/modes_packets.py"


# ---------------------------------------------------------------- processes


async def kill_any(watch: Watch, trial: Trial) -> None:
    """Kill any process at random moments, also while it starts or another is away; now and then see all recover."""
    cloud, result = watch.cloud, watch.result
    with mock.patch.object(supervisor, "LONGEST_PAUSE_S", supervisor.FIRST_PAUSE_S):
        while result.kills < N_KILLS and trial.goes_on():
            result.tries += 1
            for _ in range(6 if trial.brief else _KILLS_EACH):
                await asyncio.sleep(pause(trial.chance, 0.05, 0.6))
                name = trial.chance.choice(sorted(cloud.services))
                if name.startswith("bird-") and not await _birds_rest(cloud):
                    continue
                result.kills += cloud.kill(name)
            await watch.recovered()
    hit = ", ".join(f"{name} {n}" for name, n in sorted(cloud.killed.items()))
    wanted = "" if result.kills >= N_KILLS else f" of {N_KILLS}: its time was over"
    result.note = f"{result.kills} kills{wanted} ({hit}); a try is {_KILLS_EACH} of them"


async def _birds_rest(cloud: Cloud) -> bool:
    """Tell whether every BIRD has recovered and has its sessions up.

    One that crashes while it or its only peer still recovers loses routes: RFC 4724 has the other side drop what is
    stale, and a known flaw says the rest (ARCHITECTURE 8). So they are killed one after the other.
    """
    names = list(cloud.machines)
    if any(await asyncio.gather(*map(cloud.birds.recovering, names))):
        return False
    up = await asyncio.gather(*map(cloud.birds.established, names))
    return all(
        len(found) == 2 * len(cloud.peers(name)) for name, found in zip(names, up, strict=True)
    )


async def freeze(watch: Watch, trial: Trial) -> None:
    """Stop a process for a while and let it go on, as a long pause of its machine does."""
    cloud = watch.cloud
    while trial.goes_on():
        name = trial.chance.choice(sorted(cloud.services))
        cloud.services[name].signal(signal.SIGSTOP)
        await asyncio.sleep(1.0 if trial.brief else pause(trial.chance, 1.0, 15.0))
        cloud.services[name].signal(signal.SIGCONT)
        watch.result.tries += 1
        await watch.recovered()


async def starve(watch: Watch, trial: Trial) -> None:
    """Take away from a process what it may open, or how much memory it may have; a new one has enough again."""
    cloud = watch.cloud
    names = [name for name in cloud.services if not name.startswith(("nats", "bird-"))]
    n_ended = 0
    while trial.goes_on():
        name = trial.chance.choice(sorted(names))
        child = cloud.services[name]
        while not (pid := child.pid):  # 0 would be this very process
            await asyncio.sleep(0.02)
        before = child.starts
        kind, least = trial.chance.choice(
            ((resource.RLIMIT_NOFILE, 4), (resource.RLIMIT_AS, 1 << 20))
        )
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (least, least))
        await asyncio.sleep(0.5 if trial.brief else pause(trial.chance, 1.0, 5.0))
        # Who lives on is killed: then its like is given what it needs.
        if child.starts > before or not cloud.kill(name):
            while child.starts == before:  # it has just ended
                await asyncio.sleep(0.02)
            n_ended += 1
            cloud.killed[name] += child.starts - before
        watch.result.tries += 1
        await watch.recovered()
    watch.result.note = (
        f"{n_ended} ended by themselves and were started again, the others were killed"
    )


async def kill_restore(watch: Watch, trial: Trial) -> None:
    """Kill the tool that writes rules, at random moments of changes."""
    cloud = watch.cloud
    while trial.goes_on():
        for _ in range(3 if trial.brief else _KILLS_EACH):
            await asyncio.sleep(pause(trial.chance, 0.0, 0.3))
            host = trial.chance.choice(sorted(cloud.hosts))
            watch.result.kills += _signalled(restores_of(cloud, host), signal.SIGKILL)
        watch.result.tries += 1
        await watch.recovered()
    watch.result.note = f"{watch.result.kills} kills of iptables-restore"


def restores_of(cloud: Cloud, host: str) -> list[int]:
    """Return the iptables-restore processes of a host's agent."""
    agent = cloud.services[f"dataplane-{host}"].pid
    return [pid for pid in _children(agent) if b"-restore" in _command(pid)]


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            yield from map(int, tasks.read_text().split())


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _signalled(pids: Iterable[int], number: int) -> int:
    """Send a signal to those that are still there; return how many they were."""
    n_sent = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            n_sent += 1
    return n_sent


async def hang_restore(watch: Watch, trial: Trial) -> None:
    """Stop the tool that writes rules: the agent ends it after its time and starts another."""
    cloud = watch.cloud
    while trial.goes_on():
        host = trial.chance.choice(sorted(cloud.hosts))
        stopped = restores_of(cloud, host)
        _signalled(stopped, signal.SIGSTOP)
        watch.result.tries += 1
        if trial.brief:  # its time is 30 s: the short form lets it go on
            await asyncio.sleep(1.0)
            _signalled(stopped, signal.SIGCONT)
        await watch.recovered()


async def hold_lock(watch: Watch, trial: Trial) -> None:
    """Hold the lock of xtables, as a tool does that hangs or works long."""
    while trial.goes_on():
        with watch.cloud.lock.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await asyncio.sleep(2.0 if trial.brief else pause(trial.chance, 2.0, 12.0))
        watch.result.tries += 1
        await watch.recovered()


async def restart_agents(watch: Watch, trial: Trial) -> None:
    """Have an agent away while things change, and see what it does when it is back."""
    cloud = watch.cloud
    while trial.goes_on():
        name = f"dataplane-{trial.chance.choice(sorted(cloud.hosts))}"
        await cloud.take_away(name)
        await asyncio.sleep(0.5 if trial.brief else pause(trial.chance, 0.2, 4.0))
        cloud.bring_back(name)
        watch.result.tries += 1
        await watch.recovered()


async def restart_quietly(watch: Watch, trial: Trial) -> None:
    """Kill and start both agents while nothing changes: exactly one verdict is legal for each packet."""
    cloud = watch.cloud
    while trial.goes_on():
        async with watch.changes.standing_still():
            since = clock.monotonic()
            for host in cloud.hosts:
                cloud.kill(f"dataplane-{host}")
            await asyncio.sleep(2.0)
        watch.result.tries += 1
        await watch.recovered(since)


async def bird_away(watch: Watch, trial: Trial) -> None:
    """Kill a host's BIRD and have it away for a while."""
    cloud = watch.cloud
    while trial.goes_on():
        name = f"bird-{trial.chance.choice(sorted(cloud.hosts))}"
        if not await _birds_rest(cloud):
            await asyncio.sleep(0.2)
            continue
        await cloud.take_away(name)
        await asyncio.sleep(0.5 if trial.brief else pause(trial.chance, 0.0, 10.0))
        cloud.bring_back(name)
        watch.result.tries += 1
        await watch.recovered()


# ---------------------------------------------------------------- the broker


async def broker_away(watch: Watch, trial: Trial) -> None:
    """Kill the broker, have it away for a while, and start it again."""
    while trial.goes_on():
        await watch.cloud.take_away("nats")
        await asyncio.sleep(0.5 if trial.brief else pause(trial.chance, 0.0, 8.0))
        watch.cloud.bring_back("nats")
        watch.result.tries += 1
        await watch.recovered()


async def cut_off(watch: Watch, trial: Trial) -> None:
    """Cut hosts, or all services, off from the broker; one way or both."""
    cloud = watch.cloud
    addresses = [host.ipv4 for host in cloud.hosts.values()]
    while trial.goes_on():
        chosen = trial.chance.choice([*([one] for one in addresses), addresses])
        sides = trial.chance.choice((("-s",), ("-d",), ("-s", "-d")))
        rules = _drops(chosen, sides)
        await _fabric(cloud, "-A", rules)
        await asyncio.sleep(1.5 if trial.brief else pause(trial.chance, 2.0, 15.0))
        await _fabric(cloud, "-D", rules)
        watch.result.tries += 1
        await watch.recovered()


def _drops(addresses: Sequence[str], sides: Sequence[str]) -> list[list[str]]:
    """Spell the rules of the broker's machine that drop what comes from hosts (-s), goes to them (-d), or both."""
    chain, port = {"-s": "INPUT", "-d": "OUTPUT"}, {"-s": "--dport", "-d": "--sport"}
    return [
        [chain[side], side, address, "-p", "tcp", port[side], "4222", "-j", "DROP"]
        for address in addresses
        for side in sides
    ]


async def _fabric(cloud: Cloud, act: str, rules: Sequence[Sequence[str]]) -> None:
    for rule in rules:
        await netns.run(netns.inside(cloud.namespace("fabric"), ["iptables", act, *rule]))


async def empty_store(watch: Watch, trial: Trial) -> None:
    """Have an empty server in the broker's place: no host obeys that nothing exists. Then the right one again."""
    cloud = watch.cloud
    other = cloud.folder.path / "nats" / "other"
    while trial.goes_on():
        async with watch.changes.standing_still():
            other.mkdir(exist_ok=True)
            async with swapped_store(cloud, other):
                await asyncio.sleep(4.0 if trial.brief else pause(trial.chance, 4.0, 12.0))
            shutil.rmtree(other)
            since = clock.monotonic()
        watch.result.tries += 1
        await watch.recovered(since)


async def older_store(watch: Watch, trial: Trial) -> None:
    """Put an older copy in the store's place for good: what it says counts, and what is written from then on."""
    cloud, changes = watch.cloud, watch.changes
    store = cloud.folder.path / "nats" / "store"
    copy = store.with_name("copy")
    while trial.goes_on():
        async with changes.standing_still():
            cloud.services["nats"].signal(signal.SIGSTOP)
            await asyncio.to_thread(shutil.copytree, store, copy)
            cloud.services["nats"].signal(signal.SIGCONT)
            then = changes.state
        await watch.recovered()
        await asyncio.sleep(0.5 if trial.brief else pause(trial.chance, 0.5, 5.0))
        async with changes.standing_still():
            await cloud.take_away("nats")
            shutil.rmtree(store)
            copy.rename(store)
            changes.went_back(then)
            cloud.bring_back("nats")
        watch.result.tries += 1
        await watch.recovered()


# ---------------------------------------------------------------- cables


async def flap(watch: Watch, trial: Trial) -> None:
    """Take a workload's interface down and up: nobody else is touched, and it is back in seconds."""
    cloud = watch.cloud
    while trial.goes_on():
        chosen = cloud.workloads[trial.chance.choice("abcd")]
        inside = ["ip", "-n", cloud.namespace(chosen.host), "link", "set", chosen.port]
        excuse = watch.legal.excuse(clock.monotonic(), f"default/{chosen.name}")
        for _ in range(trial.chance.randrange(1, 6)):
            await netns.run([*inside, "down"])
            await asyncio.sleep(pause(trial.chance, 0.0, 0.2))
            await netns.run([*inside, "up"])
        await asyncio.sleep(_BACK_S)
        watch.result.tries += 1
        await watch.recovered()
        # A change of now is in force: its host has seen the interface, however busy the machine.
        excuse.until = clock.monotonic()
    watch.result.note = (
        f"judged again {_BACK_S:.0f} s after it is up: IPv6 looks for duplicates for one of them"
    )


async def change(watch: Watch, trial: Trial) -> None:
    """Break nothing: change one thing after the other."""
    while trial.goes_on():
        for _ in range(8):
            await watch.recovered()
        watch.result.tries += 1


MODES = (
    Mode("changes", "nothing is broken", on_a_cloud(change), ("K12",), weight=0.5, where=_HERE),
    Mode("kill -9 any process", "nats, api, calc, agents, BIRDs, also while they start", on_a_cloud(kill_any), ("P1", "N1", "B1"), weight=60, where=_HERE),
    Mode("processes frozen", "SIGSTOP of any for 1 to 15 s", on_a_cloud(freeze), ("P3", "B1"), weight=2, where=_HERE),
    Mode("processes starved", "of file descriptors or memory", on_a_cloud(starve), ("P4",), where=_HERE),
    Mode("kill -9 iptables-restore", "while things change", on_a_cloud(kill_restore), ("P2",), where=_HERE),
    Mode("iptables-restore hangs", "SIGSTOP for good", on_a_cloud(hang_restore), ("K7",), weight=2, where=_HERE),
    Mode("xtables lock held", "legacy, for 2 to 12 s", on_a_cloud(hold_lock, backend="legacy", own_lock=True), ("K5",), where=_HERE),
    Mode("agent away", "while things change, for up to 4 s", on_a_cloud(restart_agents), ("K1",), where=_HERE),
    Mode("agents killed", "both, while nothing changes", on_a_cloud(restart_quietly), ("K1",), where=_HERE),
    Mode("BIRD away", "kill -9, for up to 10 s", on_a_cloud(bird_away), ("N1",), where=_HERE),
    Mode("broker away", "kill -9, for up to 8 s", on_a_cloud(broker_away), ("B1",), where=_HERE),
    Mode("hosts cut off", "from the broker for 2 to 15 s, one way or both", on_a_cloud(cut_off), ("B2",), weight=2, where=_HERE),
    Mode("empty server", "in the broker's place for 4 to 12 s", on_a_cloud(empty_store, keeps_writes=False), ("B8",), where=_HERE),
    Mode("older store", "in the broker's place, for good", on_a_cloud(older_store, keeps_writes=False), ("B5",), where=_HERE),
    Mode("interface flaps", "up to five times in a row", on_a_cloud(flap), ("K10",), where=_HERE),
)  # fmt: skip
