"""The only code that runs the iptables tools: one long-lived restore process per family, and save.

Owns processes, pipes, tokens and line counts. `iptables-restore --noflush -v` repeats a comment line
on its output once the COMMIT before it is in the kernel: that line is the completion signal. A bad
line ends the process, with nothing of that transaction applied; a new process takes the next one.

Refuses to know policy, and to keep any picture of the table: plan.py compares, parse.py reads words.
One task uses a `Restore`, one transaction at a time.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from hopwall_dataplane.iptables.counters import Count, read_counts
from hopwall_dataplane.iptables.lock import LOCK, holder
from hopwall_dataplane.iptables.nft_driver import NftDriver
from hopwall_dataplane.iptables.parse import classify, is_unprintable, parse_save
from hopwall_dataplane.iptables.quarantine import Stub, apply_with_quarantine
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction
from hopwall_dataplane.outcome import Family, Retry

#: The agent's own environment never reaches a tool; the prefix of a test is found by this PATH.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: Source: measured, a transaction 15 ms or more after a freeing one does not wait for RCU.
SETTLE_S = 0.020
_MAX_STDERR_BYTES = 64 * 1024
_REAP_TIMEOUT_S = 2.0
_SAVE_TIMEOUT_S = 10.0
#: A transaction of no lines, and what each line may take: many times what was measured. A lock of others is waited
#: for within it.
_TIMEOUT_S = 10.0
_TIMEOUT_PER_LINE_S = 0.0005


@dataclass(frozen=True, slots=True)
class Backend:
    """Which iptables a host uses, as absolute paths; `backend.choose` finds it."""

    kind: Literal["nft", "legacy"]
    restore_path: dict[Family, str]
    save_path: dict[Family, str]
    restore_options: tuple[str, ...] = ()

    def restore_argv(self, family: Family, *extra: str) -> tuple[str, ...]:
        """Spell the command line of the restore process."""
        return (self.restore_path[family], "--noflush", *self.restore_options, *extra)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command that ran to its end left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(argv: tuple[str, ...], *, text: str = "", timeout_s: float) -> Ran:
    """Run one command to its end. Blocks: call it in a thread.

    Errors: OSError when it cannot start, TimeoutError when it was killed for being late.
    """
    try:
        done = subprocess.run(
            argv,
            input=text.encode(),
            capture_output=True,
            env=_ENVIRONMENT,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} did not end within {timeout_s:g} s") from error
    return Ran(
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )


class _Child:
    """One restore process: fed through one pipe, drained through two."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.n_lines_fed = 0
        self.stderr = bytearray()
        self._loop = asyncio.get_running_loop()
        self._stdin = process.stdin.fileno()
        self._open = {process.stdout.fileno(), process.stderr.fileno()}
        self._tail = b""
        self._token = b""
        self._killed = False
        self._wakeup: asyncio.Future[None] | None = None
        for fd, take in (
            (process.stdout.fileno(), self._take_stdout),
            (process.stderr.fileno(), self._take_stderr),
        ):
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._drain, fd, take)
        os.set_blocking(self._stdin, False)

    @property
    def is_dead(self) -> bool:
        """Tell whether the process is killed, has ended, or has closed its output."""
        return self._killed or not self._open or self.process.poll() is not None

    async def feed(self, tx: Transaction, token: str) -> bool:
        """Feed one transaction and wait for its token: True if it came, False if the process ended.

        Errors: cancellation leaves the process half fed; it must then be killed.
        """
        self._token = token.encode()
        self._wakeup = self._loop.create_future()
        self.stderr.clear()
        try:
            await self._write(f"{tx.text}{token}\n".encode())
            await self._wakeup
        finally:
            self._wakeup = None
        self.n_lines_fed += tx.n_lines + 1
        return self._token == b""

    async def reap(self) -> int:
        """Wait for the process in a thread (its exit waits for RCU) and close the pipes."""
        self._close_pipes()
        try:
            return await asyncio.to_thread(self.process.wait, _REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        try:
            return await asyncio.to_thread(self.process.wait, _REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL  # Stuck in the kernel: it is left to end when it can.

    def kill(self) -> None:
        """End the process at once."""
        self._killed = True
        if self.process.poll() is None:
            self.process.kill()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._open:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await self._writable()
            except BrokenPipeError:
                return  # It ended; its last words and the end of its output follow.

    async def _writable(self) -> None:
        ready = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(self._stdin, wake)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._stdin)

    def _drain(self, fd: int, take: Callable[[bytes], None]) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if data:
            take(data)
            return
        self._loop.remove_reader(fd)
        self._open.discard(fd)
        if not self._open:
            self._wake()

    def _take_stdout(self, data: bytes) -> None:
        """Drop what -v tells about chains; wake up at the token."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        if self._token and self._token in lines:
            self._token = b""
            self._wake()

    def _take_stderr(self, data: bytes) -> None:
        self.stderr += data
        del self.stderr[:-_MAX_STDERR_BYTES]

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _close_pipes(self) -> None:
        for fd in self._open:
            self._loop.remove_reader(fd)
        self._open.clear()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


class Restore:
    """All tables of one family: apply transactions, read tables back."""

    def __init__(
        self,
        family: Family,
        backend: Backend,
        *,
        command_prefix: tuple[str, ...] = (),
    ) -> None:
        """Only take note; the process starts with `start`, or with the first transaction."""
        self.family = family
        self.backend = backend
        self.n_spawned = 0
        #: Transactions that the kernel took.
        self.n_commits = 0
        self._prefix = command_prefix
        self._argv = (*command_prefix, *backend.restore_argv(family, "-v"))
        self._child: _Child | None = None
        self._nft: NftDriver | None = None
        self._nft_lock = threading.Lock()
        self._n_tokens = 0
        self._in_flight = False
        self._waits: set[str] = set()
        self._freed_at = -SETTLE_S

    @property
    def pid(self) -> int | None:
        """Name the running process, for health reports."""
        return self._child.process.pid if self._child is not None else None

    @property
    def writers(self) -> list[int]:
        """Name what writes for us, as nf_tables names writers in its events."""
        pids = [self.pid] if self.pid is not None else []
        return pids if self._nft is None else [*pids, self._nft.portid]

    @property
    def waits_for(self) -> str:
        """Name the tool that is waited for; "" when none is."""
        if not self._waits:
            return ""
        lock = holder() if self.backend.kind == "legacy" else ""
        return f"{min(self._waits)}{f', and {LOCK} is held by {lock}' if lock else ''}"

    @property
    def settled_in_s(self) -> float:
        """Tell how long to wait until a transaction need not wait for lines freed by the last one."""
        left = self._freed_at + SETTLE_S - asyncio.get_running_loop().time()
        return max(0.0, left)

    async def start(self) -> None:
        """Start the process early, while this process is small.

        Errors: OSError when the tool cannot be started.
        """
        await self._living_child()

    async def apply(
        self, tx: Transaction, *, timeout_s: float | None = None
    ) -> Applied | Failed | Retry:
        """Apply one transaction, whole or not at all.

        Errors: RuntimeError when another one is in flight. After `Retry` and `Failed` the picture of
                the table is in doubt.
        Cost:   nft 1.4 ms with 1,000 lines in the table, 5 ms with 10,000; legacy O(table).
        """
        if self._in_flight:
            raise RuntimeError(f"two transactions at once on the {self.family} iptables driver")
        self._in_flight = True
        if timeout_s is None:
            timeout_s = _TIMEOUT_S + tx.n_lines * _TIMEOUT_PER_LINE_S
        tool = self.backend.restore_path[self.family]
        try:
            with self._waiting(f"{tool} with table {tx.table}"):
                return await self._apply(tx, timeout_s)
        except TimeoutError:
            return Retry(
                f"{tool} took longer than {timeout_s:.1f} s for table {tx.table}; "
                "it was killed and will be started again"
            )
        except OSError as error:
            return Retry(f"iptables-restore could not be started or fed: {error}")
        finally:
            self._in_flight = False

    async def apply_with_quarantine(
        self, tx: Transaction, stub: Stub, *, timeout_s: float | None = None
    ) -> Applied | Failed | Retry:
        """Apply a transaction with each chain the tool will not have closed by its stub instead."""

        async def attempt(part: Transaction) -> Applied | Failed | Retry:
            return await self.apply(part, timeout_s=timeout_s)

        return await apply_with_quarantine(attempt, tx, stub)

    async def read(self, table: TableName) -> TableState | Retry:
        """Read what one table holds of ours; from the kernel itself where the tool cannot print it.

        Cost:   O(table): 8 ms with 1,000 lines, 80 ms with 10,000, in a thread.
        """
        argv = (*self._prefix, self.backend.save_path[self.family], "-t", table)
        try:
            with self._waiting(f"{argv[-3]} with table {table}"):
                return await asyncio.to_thread(self._read, argv, table)
        except (OSError, TimeoutError) as error:
            return Retry(f"table {table} could not be read: {error}")

    @property
    def waits_for_freed(self) -> bool:
        """Whether a line that is made waits for the kernel to let go of those that were taken out."""
        return self.backend.kind == "nft"

    def trim(self, table: TableName, guards: Mapping[str, str]) -> bool:
        """Take out the lines of chains behind their guards, and the guards, all or none.

        Shape:  chain → hash of its guard. False where they are not as believed. Each line goes by its handle: whoever
                changes a chain meanwhile, none behind a guard is bared.
        Errors: OSError.
        Cost:   0.2 ms and 20 µs a line.
        """
        with self._nft_lock:
            self._nft = self._nft or NftDriver(self.family)
            done = self._nft.trim(table, guards)
        self.n_commits += done
        return done

    async def counts(self) -> dict[str, Count]:
        """Read how often each rule of this family was met, in all tables.

        Errors: OSError, TimeoutError.
        Cost:   as `read`, for all tables together; nothing unless it is called.
        """
        argv = (*self._prefix, self.backend.save_path[self.family], "-c")
        return read_counts(await asyncio.to_thread(_save, argv))

    async def close(self) -> None:
        """End the process and leave the kernel as it is."""
        child, self._child = self._child, None
        if child is not None:
            await child.reap()  # The closed pipe is its end of input.
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    @contextmanager
    def _waiting(self, tool: str) -> Iterator[None]:
        self._waits.add(tool)
        try:
            yield
        finally:
            self._waits.discard(tool)

    def _read(self, argv: tuple[str, ...], table: TableName) -> TableState:
        """Read in a thread."""
        state = parse_save(_save(argv))
        if self._prefix and is_unprintable(state):
            raise OSError(f"table {table} holds what iptables-save cannot print")
        if self._prefix or self.backend.kind == "legacy":
            return state
        with self._nft_lock:  # tables may be read at once
            self._nft = self._nft or NftDriver(self.family)
            if is_unprintable(state):
                state = self._nft.read(table)
            state.asleep, usurped = self._nft.roots(table)
        state.usurped = frozenset(usurped)
        for chain in usurped:
            state.kernel.pop(chain, None)
        return state

    def _put_right(self, tx: Transaction) -> None:
        """See that packets meet the table, and that kernel chains can be made, before lines are put there."""
        if tx.roots is not None and self.backend.kind == "nft":
            with self._nft_lock:
                self._nft = self._nft or NftDriver(self.family)
                self.n_commits += self._nft.put_right(tx.table, tx.roots)

    def _delete_lines(self, tx: Transaction) -> None:
        """Delete the lines of ours that the tool cannot, after what stands in for them is there."""
        for edit in tx.edits:
            if edit.handles and self._nft is not None:
                self._nft.delete(tx.table, edit.builtin, edit.handles)
                self.n_commits += len(edit.handles)

    async def _apply(self, tx: Transaction, timeout_s: float) -> Applied | Failed | Retry:
        self._put_right(tx)
        child = await self._living_child()
        n_before = child.n_lines_fed
        self._n_tokens += 1
        try:
            async with asyncio.timeout(timeout_s):
                came = await child.feed(tx, f"# hw-token {self._n_tokens}")
        except BaseException:
            child.kill()  # Half fed, it would take the next transaction as part of this one.
            raise
        if came:
            self.n_commits += 1
            self._delete_lines(tx)
            if tx.frees:
                self._freed_at = asyncio.get_running_loop().time()
            return Applied()
        self._child = None
        returncode = await child.reap()
        return _verdict(tx, child.stderr.decode(errors="replace"), returncode, n_before)

    async def _living_child(self) -> _Child:
        if self._child is not None and self._child.is_dead:
            await self.close()
        if self._child is None:
            process = await asyncio.to_thread(_spawn, self._argv)
            self._child = _Child(process)
            self.n_spawned += 1
        return self._child


def _spawn(argv: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start a process in a thread: under uvloop a spawn from a big heap blocks the loop."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=_ENVIRONMENT,
        start_new_session=True,  # A Ctrl-C at the terminal is for the agent to act on.
    )


def _save(argv: tuple[str, ...]) -> str:
    ran = run_tool(argv, timeout_s=_SAVE_TIMEOUT_S)
    if ran.returncode != 0:
        complaint = classify(ran.stderr, ran.returncode)
        raise OSError(complaint.message)
    return ran.stdout


def _verdict(tx: Transaction, stderr: str, returncode: int, n_before: int) -> Failed | Retry:
    """Turn the end of a process into an outcome of the transaction it was fed."""
    complaint = classify(stderr, returncode)
    line = complaint.line - n_before if complaint.line is not None else None
    if complaint.kind == "later":
        return Retry(f"table {tx.table}: {complaint.message}")
    text = tx.line(line) if line is not None else None
    if line is not None and text is not None and text.startswith("-D "):
        # Only what we read there is deleted: somebody else was faster, and it must be read again.
        return Retry(f"table {tx.table} has changed since it was read: {complaint.message}")
    chain = tx.chain_at_line(line) if line is not None else None
    return Failed(chain, complaint.message, line)
