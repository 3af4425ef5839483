import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.netns import Netns, NetnsError, sweep

pytestmark = pytest.mark.kernel


def names(prefix: str) -> list[str]:
    """Return the interface names of this process that begin with a prefix."""
    return sorted(name for _, name in socket.if_nameindex() if name.startswith(prefix))


def test_function_sees_the_namespace_and_the_test_does_not() -> None:
    """A function called with `python` runs inside; the calling process stays outside."""
    with Netns("self") as ns:
        ns.run(["ip", "link", "add", "hwtap0", "type", "veth", "peer", "name", "hwpeer0"])
        assert ns.python(names, "hwtap") == ["hwtap0"]
        assert names("hwtap") == []
        assert "hwtap0" in ns.run(["ip", "link"])


def test_failure_inside_is_raised_outside() -> None:
    """An exception, a failing command and a dead child all fail the test with their own words."""
    with Netns("self") as ns:
        with pytest.raises(NetnsError, match="ZeroDivisionError"):
            ns.python(divmod, 1, 0)
        with pytest.raises(NetnsError, match="does not exist"):
            ns.run(["ip", "link", "show", "absent0"])
        with pytest.raises(NetnsError, match="no result"):
            ns.python(os._exit, 3)
        assert not ns.succeeds(["false"])


def test_namespace_is_gone_after_the_block() -> None:
    """Nothing is left behind."""
    with Netns("self") as ns:
        assert Path("/run/netns", ns.name).exists()
    assert not Path("/run/netns", ns.name).exists()


def test_what_a_killed_run_left_is_swept_and_what_runs_stays() -> None:
    """The name says whose process made it: gone with the process, kept while it lives."""
    child = subprocess.Popen(["true"])
    child.wait()
    left = f"hwt-left-{child.pid}-1"
    subprocess.run(["ip", "netns", "add", left], check=True)
    inside = subprocess.Popen(["ip", "netns", "exec", left, "sleep", "60"])
    ask = ["ip", "netns", "pids", left]
    while str(inside.pid) not in subprocess.run(ask, capture_output=True, text=True).stdout:
        assert inside.poll() is None
    with Netns("kept") as ns:
        assert left in sweep()
        assert ns.succeeds(["true"])
    assert inside.wait(timeout=10) == -9
    assert not Path(f"/run/netns/{left}").exists()
