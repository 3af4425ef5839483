"""A lab's folder under /run: its lock, its description, its sockets and logs.

The lock is held by the living owner alone (the kernel drops it at any death), so what lies in the folder
of an unlocked lab was left by a crash.
Owner:  /run/hopwall/lab/<name>/
"""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

import msgspec

from hopwall_cli.lab.topology import LabError, check_name

ROOT = Path("/run/hopwall/lab")


class Description(msgspec.Struct, frozen=True):
    """What `lab status` and `lab exec` need to know about a running lab."""

    name: str
    owner: int
    hosts: dict[str, str]
    workloads: dict[str, str] = {}
    processes: dict[str, int] = {}


class RunFolder:
    """The folder of one lab."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name)
        self.path = ROOT / name
        self._lock_path = ROOT / f"{name}.lock"
        self._lock = -1

    @property
    def api_socket(self) -> Path:
        """The REST API's socket, reachable from every namespace."""
        return self.path / "api.sock"

    @property
    def orders(self) -> Path:
        """The socket by which the owner is told what to do."""
        return self.path / "orders.sock"

    @property
    def server(self) -> str:
        """The REST API as `--server` takes it."""
        return f"unix://{self.api_socket}"

    def log(self, service: str) -> Path:
        """Return the log file of a service."""
        return self.path / "log" / f"{service}.log"

    def take(self) -> None:
        """Become the lab's owner; the folder stays as a crash left it.

        Errors: LabError when it has a living owner.
        """
        ROOT.mkdir(parents=True, exist_ok=True)
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(lock)
                raise LabError(
                    f"lab {self.name} is running already; "
                    f"`hopwall lab down --name {self.name}` ends it."
                ) from error
            if self._is_current(lock):
                self._lock = lock
                return
            os.close(lock)  # its last owner removed it between our two steps

    def _is_current(self, lock: int) -> bool:
        try:
            return self._lock_path.stat().st_ino == os.fstat(lock).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Stop being the owner, and leave no lock file."""
        if self._lock >= 0:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def clear(self) -> None:
        """Remove the folder with all that is in it."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def make(self) -> None:
        """Make the folder anew."""
        self.clear()
        (self.path / "log").mkdir(parents=True)

    def write(self, description: Description) -> None:
        """Keep the description, whole or not at all."""
        new = self.path / "lab.json.new"
        new.write_bytes(msgspec.json.format(msgspec.json.encode(description)))
        new.rename(self.path / "lab.json")

    def read(self) -> Description | None:
        """Return the description, if there is one that can be read."""
        try:
            return msgspec.json.decode((self.path / "lab.json").read_bytes(), type=Description)
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            return None

    def alive(self) -> bool:
        """Tell whether the lab has a living owner."""
        try:
            self.take()
        except LabError:
            return True
        self.release()
        return False
