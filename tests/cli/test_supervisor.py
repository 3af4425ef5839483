import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hopwall_cli.supervisor import Child, ChildRefused, end


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: object, timeout_s: float = 60.0) -> None:
    """Wait until a callable is true."""
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_child_that_dies_is_started_again_and_said() -> None:
    """A killed child comes back with a new process, and the operator is told."""
    said: list[str] = []
    child = Child("sleeper", ["sleep", "60"], say=said.append)
    task = asyncio.get_running_loop().create_task(child.keep())
    await until(lambda: child.pid)
    first = child.pid
    child.signal(signal.SIGKILL)
    await until(lambda: child.pid not in (0, first))
    assert said == ["sleeper ended by signal 9; starting it again in 0.2 s."]
    second = child.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(second)


async def test_what_a_child_says_is_passed_on_with_its_name() -> None:
    """Each line of a child, on either stream, is one line with its name before it."""
    said: list[str] = []
    child = Child("talker", ["sh", "-c", "echo one; echo two >&2; sleep 60"], say=said.append)
    task = asyncio.get_running_loop().create_task(child.keep())
    await until(lambda: len(said) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == ["talker     | one", "talker     | two"]


async def test_helpers_of_a_child_end_with_it() -> None:
    """What a child started and left behind is ended before the child is started again."""
    said: list[str] = []
    child = Child("leader", ["sh", "-c", "sleep 60 & echo $!; exit 1"], say=said.append)
    task = asyncio.get_running_loop().create_task(child.keep())
    await until(lambda: child.starts == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    helper = int(said[0].rpartition(" ")[2])
    await until(lambda: not alive(helper))


async def test_child_that_refuses_its_settings_is_not_started_again() -> None:
    """Exit code 2 is a wrong setting: trying again is no use."""
    child = Child("wrong", ["sh", "-c", "exit 2"], say=lambda _: None)
    with pytest.raises(ChildRefused, match="wrong refuses its settings"):
        await child.keep()
    assert child.starts == 1


@pytest.mark.parametrize("argv", [["sh", "-c", "exit 2"], ["/does/not/exist"]])
async def test_what_is_not_ours_is_started_again_whatever_its_code(argv: list[str]) -> None:
    """A broker that panics ends with 2 as well, and a process that could not be made now may be made later."""
    said: list[str] = []
    child = Child("other", argv, say=said.append, is_ours=False)
    task = asyncio.get_running_loop().create_task(child.keep())
    await until(lambda: sum("starting it again" in line for line in said) >= 2)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stopped_child_ends_too() -> None:
    """A child that was frozen is ended in order."""
    child = Child("frozen", ["sleep", "60"], say=lambda _: None)
    task = asyncio.get_running_loop().create_task(child.keep())
    await until(lambda: child.pid)
    pid = child.pid
    os.kill(pid, signal.SIGSTOP)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


def test_children_die_with_a_killed_parent() -> None:
    """kill -9 of the supervisor leaves no child behind."""
    program = (
        "import asyncio\n"
        "from hopwall_cli.supervisor import Child\n"
        "async def main():\n"
        "    child = Child('x', ['sleep', '60'], say=print)\n"
        "    task = asyncio.get_running_loop().create_task(child.keep())\n"
        "    while not child.pid:\n"
        "        await asyncio.sleep(0.01)\n"
        "    await asyncio.sleep(0.5)\n"
        "    print(child.pid, flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    end = time.monotonic() + 60.0
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)


def test_command_that_is_not_there_is_one_sentence() -> None:
    """A missing program is named."""
    done = subprocess.run(
        [sys.executable, "-m", "hopwall_cli.child", str(os.getpid()), "--", "/no/such"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 127
    assert done.stderr == "/no/such cannot be started: No such file or directory.\n"


async def test_many_that_end_at_once_are_each_seen_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No child is reaped behind the loop's back: each ends by the signal it was sent, and nothing is said."""
    started = [
        await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        for _ in range(100)
    ]
    await asyncio.gather(*map(end, started))
    assert {process.returncode for process in started} == {-signal.SIGTERM}
    assert caplog.messages == []
