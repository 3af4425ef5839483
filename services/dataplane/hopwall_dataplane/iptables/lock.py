"""Who holds the lock that the legacy tools wait for: told to people, never acted on."""

import os
from pathlib import Path

#: Source: iptables(8), XTABLES_LOCKFILE; the tools are given no other.
LOCK = Path("/run/xtables.lock")


def holder(lock: Path = LOCK, proc: Path = Path("/proc")) -> str:
    """Name who holds the lock; "" when nobody does, or nobody can be seen to."""
    try:
        inode = lock.stat()
        lines = (proc / "locks").read_text().splitlines()
    except OSError:
        return ""
    major, minor = os.major(inode.st_dev), os.minor(inode.st_dev)
    file = f"{major:02x}:{minor:02x}:{inode.st_ino}"
    for words in map(str.split, lines):
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == file:
            return _named(words[4], proc)
    return ""


def _named(pid: str, proc: Path) -> str:
    try:
        return f"{(proc / pid / 'comm').read_text().strip()} (process {pid})"
    except OSError:
        return "a process of which nothing can be seen from here"
