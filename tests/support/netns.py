"""A network namespace for a test: made, used, and removed whatever happens.

Names begin with `hwt-` and carry the test process's id, so concurrent runs never meet.

    with Netns("routes") as ns:
        ns.run(["ip", "tuntap", "add", "tap0", "mode", "tap"])
        assert ns.python(count_links, "tap") == 1
"""

import contextlib
import ctypes
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_counter = itertools.count(1)


def enter(name: str) -> None:
    """Move the calling thread into a named namespace; sockets opened from now on live there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{name}").open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns {name}: {os.strerror(code)}")


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Have the calling thread, and what it starts, in a named namespace while the block runs."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        enter(name)
        try:
            yield
        finally:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns back")


def sweep() -> list[str]:
    """Remove the namespaces of test processes that were killed, with what runs inside; return their names."""
    home = Path("/run/netns")
    found = [path.name for path in home.glob("hwt-*-*-*")] if home.is_dir() else []
    made = [name for name in found if name.rsplit("-", 2)[1].isdigit()]
    left = [name for name in made if not Path(f"/proc/{name.rsplit('-', 2)[1]}").exists()]
    for name in left:
        remove(name)
    return left


def remove(name: str) -> None:
    """End the processes inside a namespace and remove it; one that is gone already is no error."""
    found = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class NetnsError(AssertionError):
    """A command or function failed inside a namespace; the text holds its output."""


class Netns:
    """One network namespace with `lo` up, as a context manager."""

    def __init__(self, label: str = "test", *, patience_s: float = 120.0) -> None:
        """Choose the name, and how long `python` may take; nothing is made before the `with`."""
        self._patience_s = patience_s
        self.name = f"hwt-{label}-{os.getpid()}-{next(_counter)}"

    def __enter__(self) -> Self:
        """Make the namespace and bring `lo` up."""
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        try:
            self.run(["ip", "link", "set", "lo", "up"])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the namespace, and end what still runs in it."""
        self.close()

    def close(self) -> None:
        """End the processes inside and remove the namespace; twice is harmless."""
        remove(self.name)

    def command(self, argv: list[str]) -> list[str]:
        """Return the command line that runs `argv` inside, for a Popen of one's own."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(
        self,
        argv: list[str],
        *,
        text: str | None = None,
        check: bool = True,
        timeout_s: float = 60.0,
    ) -> str:
        """Run a command inside, with `text` as its input, and return its standard output.

        Errors: `NetnsError` with both outputs when it fails and `check` is true.
        """
        done = subprocess.run(
            self.command(argv),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            message = f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            raise NetnsError(message)
        return done.stdout

    def sysctl(self, name: str, value: str) -> None:
        """Write a setting, named as under /proc/sys: without the tool, which a small machine lacks."""
        self.run(["tee", f"/proc/sys/{name}"], text=value)

    def succeeds(self, argv: list[str], *, timeout_s: float = 60.0) -> bool:
        """Run a command inside and return whether it ended with 0."""
        done = subprocess.run(
            self.command(argv), capture_output=True, check=False, timeout=timeout_s
        )
        return done.returncode == 0

    def python(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a forked child inside the namespace and return what it returns.

        Errors: `NetnsError` with the child's traceback when it raises, or dies, or takes too long.
        """
        read_end, write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _child(self.name, write_end, lambda: function(*args, **kwargs))
        os.close(write_end)
        data, ended = _collect(read_end, time.monotonic() + self._patience_s)
        os.close(read_end)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not ended or not data:
            message = f"the child in {self.name} ended with wait status {status} and no result"
            raise NetnsError(message)
        ok, value = pickle.loads(data)
        if not ok:
            raise NetnsError(value)
        result: T = value
        return result


def _child(name: str, write_end: int, call: Callable[[], object]) -> None:
    """Enter the namespace, call, write the pickled answer, and leave without cleaning up."""
    try:
        try:
            enter(name)
            answer = pickle.dumps((True, call()))
        except BaseException:  # noqa: BLE001 - the parent re-raises whatever it was
            answer = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def _collect(read_end: int, deadline_at: float) -> tuple[bytes, bool]:
    """Read the pipe to its end, or to the deadline."""
    chunks: list[bytes] = []
    while (left := deadline_at - time.monotonic()) > 0:
        if select.select([read_end], [], [], left)[0]:
            chunk = os.read(read_end, 1 << 20)
            if not chunk:
                return b"".join(chunks), True
            chunks.append(chunk)
    return b"".join(chunks), False
