"""Exec a command that is killed when its parent ends: `python -m hopwall_cli.child PARENT_PID -- command …`.

The kernel keeps the death signal through exec (not through set-user-ID programs), so a kill -9 of the
parent leaves nothing behind. It refuses to start anything when the parent is gone already.
Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def bound(argv: Sequence[str]) -> list[str]:
    """Return the command line that runs `argv` and dies with the calling process.

    The death signal follows the thread that starts the child: call it from the main thread.
    """
    return [sys.executable, "-m", "hopwall_cli.child", str(os.getpid()), "--", *argv]


def die_with_parent(parent: int) -> bool:
    """Ask the kernel for SIGKILL when the parent ends; return whether the parent is still there."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == parent


def main() -> int:
    """Bind this process to its parent and become the command."""
    parent, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.stderr.write("usage: python -m hopwall_cli.child PARENT_PID -- command …\n")
        return 2
    if not die_with_parent(int(parent)):
        return 0
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell; the list is ours
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}.\n")
        return 127


if __name__ == "__main__":
    raise SystemExit(main())
