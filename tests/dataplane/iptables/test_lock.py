"""Who holds the lock of the legacy tools is read off the kernel's list of locks."""

import fcntl
import os
from pathlib import Path

from hopwall_dataplane.iptables.lock import holder


def test_whoever_holds_the_lock_is_named(tmp_path: Path) -> None:
    """Nobody, then this very process, then nobody again; a file that is not there is held by nobody."""
    path = tmp_path / "lock"
    assert holder(path) == ""
    with path.open("a") as file:
        assert holder(path) == ""
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(path).endswith(f" (process {os.getpid()})")
    assert holder(path) == ""


def test_a_holder_of_another_namespace_of_processes_cannot_be_named(tmp_path: Path) -> None:
    """The kernel gives 0 for it."""
    path = tmp_path / "lock"
    path.touch()
    at = path.stat()
    file = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    (tmp_path / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 0 {file} 0 EOF\n")
    assert holder(path, tmp_path) == "a process of which nothing can be seen from here"
