"""What only the real tools can show: processes, pipes, tokens, line numbers, counters, locks."""

import asyncio
import fcntl
import os
import re
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from hopwall_dataplane.iptables import driver as driver_module
from hopwall_dataplane.iptables.backend import choose
from hopwall_dataplane.iptables.driver import Backend, Restore
from hopwall_dataplane.iptables.table import Chain, TableState
from hopwall_dataplane.iptables.transaction import Applied, ChainWrite, Failed, Transaction
from hopwall_dataplane.outcome import Family, Retry
from tests.dataplane.iptables.conftest import RealKernel
from tests.support.fake_iptables import UNKNOWN_OPTION
from tests.support.netns import Netns


def write(name: str, *bodies: str, new: bool = False) -> Transaction:
    """Write one chain of the filter table."""
    return Transaction("filter", (ChainWrite(name, bodies, new),))


BAD = write("hw-bad", "-j DROP", f"-p tcp {UNKNOWN_OPTION} 1 -j DROP")


def process_state(pid: int) -> str:
    """Read the state letter of a process; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def ended(pid: int) -> None:
    """Wait until a killed process is a zombie or gone."""
    async with asyncio.timeout(30):
        while process_state(pid) not in ("Z", ""):
            await asyncio.sleep(0.002)


def script(folder: Path, text: str) -> Backend:
    """Make a restore tool of one's own."""
    path = folder / "iptables-nft-restore"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Backend("nft", {Family.V4: str(path)}, {Family.V4: str(path)})


async def test_two_thousand_transactions_run_on_one_process(real: RealKernel) -> None:
    """The process is started once, and holds its descriptors and its memory."""
    assert await real.restore.apply(write("hw-a", new=True)) == Applied()
    pid = real.restore.pid
    n_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for n in range(2000):
        # New chains only: rewrites would wait for RCU each time.
        outcome = await real.restore.apply(write(f"hw-{n % 20}-{n // 20 % 5}", new=True))
        assert outcome == Applied()
    assert (real.restore.pid, real.restore.n_spawned) == (pid, 1)
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) == n_files
    resident_kib = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
    assert resident_kib < 20_000


async def test_counters_of_other_chains_go_on_counting(real: RealKernel) -> None:
    """A change of one chain does not reset what other lines have counted."""
    tx = Transaction(
        "filter",
        (ChainWrite("hw-a", ("-j RETURN",), new=True), ChainWrite("hw-b", (), new=True)),
    )
    assert await real.restore.apply(tx) == Applied()
    real.foreign("*filter\n-A OUTPUT -o lo -j hw-a\nCOMMIT\n")
    address = "127.0.0.1" if real.restore.family is Family.V4 else "::1"
    probe = f"import socket; socket.socket(socket.AF_INET{'6' * (':' in address)}, 2).sendto(b'x', ('{address}', 9))"
    real.ns.run(["python3", "-c", probe])

    def counted() -> list[str]:
        return [line for line in real.save("filter", "-c").splitlines() if "-A hw-a" in line]

    before = counted()
    assert not before[0].startswith("[0:0]")
    assert await real.restore.apply(write("hw-b", "-j RETURN", "-j DROP")) == Applied()
    assert counted() == before


async def test_process_killed_between_transactions_is_replaced(real: RealKernel) -> None:
    """The next transaction finds a new process, and nothing is lost."""
    assert await real.restore.apply(write("hw-a", "-j DROP", new=True)) == Applied()
    pid = real.restore.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await ended(pid)
    assert await real.restore.apply(write("hw-b", "-j DROP", new=True)) == Applied()
    assert real.restore.n_spawned == 2
    assert real.save("filter").count("-j DROP") == 2


async def test_process_killed_during_a_transaction_leaves_all_or_nothing(real: RealKernel) -> None:
    """A kill at any moment is a doubt, never half a transaction; the driver works on after it."""
    chains = [f"hw-{n}" for n in range(300)]
    bodies = ("-p tcp --dport 80 -j ACCEPT", "-p udp -j ACCEPT", "-j DROP")
    tx = Transaction("filter", tuple(ChainWrite(name, bodies, new=True) for name in chains))
    outcomes = []
    for delay_s in (0.0, 0.0005, 0.002, 0.005, 0.01):
        await real.restore.start()
        pid = real.restore.pid
        assert pid is not None
        if not delay_s:  # the first is surely not quicker than its end
            os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(delay_s, os.kill, pid, signal.SIGKILL)
        outcome = await real.restore.apply(tx)
        assert isinstance(outcome, Applied | Retry)
        await asyncio.sleep(delay_s)
        await ended(pid)
        outcomes.append(outcome)
        state = await real.restore.read("filter")
        assert isinstance(state, TableState)
        held = [name for name in chains if state.chains.get(name)]
        assert len(held) in (0, 300)
    assert isinstance(outcomes[0], Retry)
    assert await real.restore.apply(tx) == Applied()


async def test_line_numbers_are_right_on_every_process(real: RealKernel) -> None:
    """The tool counts lines since it started; the driver names the line of the transaction."""
    for n_before in (0, 1, 7, 0):
        for n in range(n_before):
            assert await real.restore.apply(write(f"hw-{n}", "-j DROP")) == Applied()
        outcome = await real.restore.apply(BAD)
        assert isinstance(outcome, Failed)
        assert (outcome.chain, outcome.line) == ("hw-bad", 4)
        assert UNKNOWN_OPTION in outcome.message
    assert real.restore.n_spawned == 4


async def test_big_transaction_and_talkative_tool_do_not_block(real: RealKernel) -> None:
    """Text far beyond a pipe's size goes in while all the tool prints goes out."""
    bodies: Chain = tuple(f"-p tcp --dport {n} -j ACCEPT" for n in range(1, 11))
    tx = Transaction("filter", tuple(ChainWrite(f"hw-{n}", bodies, new=True) for n in range(1000)))
    assert len(tx.text) > 500_000
    assert await real.restore.apply(tx) == Applied()
    # Each declaration of a chain that stands prints "Flushing chain".
    assert await real.restore.apply(tx) == Applied()
    state = await real.restore.read("filter")
    assert isinstance(state, TableState)
    assert len(state.chains) == 1000


async def test_freed_lines_are_left_to_settle(
    real: RealKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a transaction that frees lines the driver tells how long to wait; after others nothing."""
    assert await real.restore.apply(write("hw-a", "-j DROP", new=True)) == Applied()
    assert real.restore.settled_in_s == 0.0
    assert await real.restore.apply(write("hw-a", "-j ACCEPT")) == Applied()
    # Else a busy machine may let it pass before we look.
    monkeypatch.setattr(driver_module, "SETTLE_S", 1000.0)
    assert 900.0 < real.restore.settled_in_s <= 1000.0
    monkeypatch.undo()
    await asyncio.sleep(driver_module.SETTLE_S + 0.001)
    assert real.restore.settled_in_s == 0.0


async def test_two_transactions_at_once_are_a_bug(real: RealKernel) -> None:
    """One task owns the driver."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(real.restore.apply(write("hw-a", new=True)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="at once"):
            await real.restore.apply(write("hw-b", new=True))
    assert first.result() == Applied()


async def test_cancelled_transaction_does_not_spoil_the_next(real: RealKernel) -> None:
    """A half-fed process is not used again."""
    await real.restore.start()
    task = asyncio.get_running_loop().create_task(real.restore.apply(write("hw-a", new=True)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await real.restore.apply(write("hw-b", new=True)) == Applied()
    assert real.restore.n_spawned == 2


async def test_hung_tool_is_killed_and_the_loop_goes_on(tmp_path: Path) -> None:
    """A tool that never answers costs the time-out and is a retry; meanwhile the loop turns."""
    restore = Restore(Family.V4, script(tmp_path, "exec sleep 60"))
    try:
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            applying = group.create_task(restore.apply(write("hw-a"), timeout_s=1.0))
            n_turns = 0
            while not applying.done():
                await asyncio.sleep(0.01)
                n_turns += 1
        assert isinstance(applying.result(), Retry)
        assert n_turns > 2  # a hundred, where there is a processor for it
        assert time.monotonic() - began_at < 50  # of the sixty it would take
        assert isinstance(await restore.apply(write("hw-a"), timeout_s=0.1), Retry)
        assert restore.n_spawned == 2
    finally:
        await restore.close()


@pytest.mark.kernel
def test_driver_works_under_uvloop() -> None:
    """The loop of production runs it too, its processes started in a thread."""

    async def work(restore: Restore) -> None:
        for n in range(3):
            assert await restore.apply(write(f"hw-{n}", "-j DROP")) == Applied()
        assert isinstance(await restore.apply(BAD), Failed)
        assert await restore.apply(write("hw-a", "-j DROP")) == Applied()
        state = await restore.read("filter")
        assert isinstance(state, TableState)
        assert len(state.chains) == 4
        await restore.close()

    async def choose_and_work(prefix: tuple[str, ...]) -> None:
        backend = await choose("nft", families=(Family.V4,), command_prefix=prefix)
        await work(Restore(Family.V4, backend, command_prefix=prefix))

    with Netns("ipu") as ns, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(choose_and_work(("ip", "netns", "exec", ns.name)))


async def test_missing_tool_is_a_retry_with_its_name(tmp_path: Path) -> None:
    """A tool that went away since the start is named."""
    path = str(tmp_path / "gone")
    restore = Restore(Family.V4, Backend("nft", {Family.V4: path}, {Family.V4: path}))
    for outcome in (await restore.apply(write("hw-a")), await restore.read("filter")):
        assert isinstance(outcome, Retry)
        assert "gone" in outcome.reason


async def test_tool_gets_no_environment_of_ours_and_its_warnings_do_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets stay with the agent, and a megabyte of warnings before the token is drained."""
    monkeypatch.setenv("HOPWALL_SECRET", "x")
    noisy = (
        'env > "$0.env"\n'
        "while read -r line; do case $line in\n"
        "COMMIT) head -c 1000000 /dev/zero | tr '\\0' 'w' >&2;;\n"
        '"# "*) echo "$line";;\n'
        "esac; done"
    )
    restore = Restore(Family.V4, script(tmp_path, noisy))
    try:
        for _ in range(3):
            assert await restore.apply(write("hw-a"), timeout_s=60) == Applied()
        assert restore.n_spawned == 1
        seen = (tmp_path / "iptables-nft-restore.env").read_text()
        assert "HOPWALL_SECRET" not in seen
        assert "LC_ALL=C" in seen
    finally:
        await restore.close()


async def test_lock_of_legacy_is_waited_for_and_nft_has_none(
    real: RealKernel, tmp_path: Path
) -> None:
    """While somebody holds the lock legacy gives a retry that says so; nft goes on."""
    path = tmp_path / "xtables.lock"
    in_ns = ("ip", "netns", "exec", real.ns.name, "env", f"XTABLES_LOCKFILE={path}")
    backend = real.restore.backend
    if backend.kind == "legacy":
        backend = replace(backend, restore_options=("--wait",))
    restore = Restore(real.restore.family, backend, command_prefix=in_ns)
    try:
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if backend.kind == "nft":
                assert await restore.apply(write("hw-a", new=True), timeout_s=60) == Applied()
            else:
                outcome = await restore.apply(write("hw-a", new=True), timeout_s=1)
                assert isinstance(outcome, Retry)
                assert "took longer than 1.0 s" in outcome.reason
        assert await restore.apply(write("hw-a", new=True), timeout_s=60) == Applied()
    finally:
        await restore.close()
