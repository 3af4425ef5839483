"""The last-good file itself: read once, rewritten whole by rename, or added to.

Every call blocks (it waits for the disk): use a thread. It refuses to decide when to write.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hopwall_dataplane.feed import Step
from hopwall_dataplane.lastgood import codec
from hopwall_dataplane.lastgood.codec import Loaded, Unusable

NAME = "last-good.jsonl"
#: Beyond this many bytes of changes, and as many as the whole state takes, the file is written anew.
_MIN_CHANGES_BYTES = 256 * 1024
#: Bytes handed to the kernel at once.
_PART_BYTES = 64 * 1024


class LastGoodFile:
    """One host's file.

    Owner: one caller at a time.
    """

    def __init__(self, folder: Path, *, host: str, written_by: str) -> None:
        """Name the file; nothing is opened yet."""
        self.path = folder / NAME
        self._host = host
        self._written_by = written_by
        self._fd: int | None = None
        self._digest = codec.new_digest()
        self._n_whole = 0
        self._n_changes = 0

    def load(self) -> Loaded | None:
        """Return what the file says; None when there is none.

        Errors: Unusable; OSError when it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return codec.read(file, self._host)
        except FileNotFoundError:
            return None

    def set_aside(self) -> None:
        """Keep a file that is unusable under another name, for people; the last one such stays."""
        with contextlib.suppress(OSError):
            self.path.replace(self.path.with_suffix(".unusable"))

    @property
    def wants_whole(self) -> bool:
        """Whether the next write must be of the whole state."""
        return self._fd is None or self._n_changes > max(self._n_whole, _MIN_CHANGES_BYTES)

    def rewrite(self, step: Step) -> None:
        """Replace the file by one whole state: at each instant the old one or the new one is there.

        Errors: OSError; the old file stays.
        """
        self.close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = codec.new_digest()
        new = self.path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            first = codec.header_line(self._host, self._written_by, digest)
            n_written = _write(fd, [first]) + _write(fd, codec.step_lines(step, digest))
            os.fsync(fd)
            new.replace(self.path)
            _sync_folder(self.path.parent)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._fd, self._digest = fd, digest
        self._n_whole, self._n_changes = n_written, 0

    def append(self, steps: Sequence[Step]) -> None:
        """Add changes, and wait until the disk has them.

        Errors: OSError; the file then ends in a step without its commit, and must be rewritten.
        """
        assert self._fd is not None
        try:
            for step in steps:
                self._n_changes += _write(self._fd, codec.step_lines(step, self._digest))
            os.fsync(self._fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; what follows is a rewrite."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write(fd: int, lines: Iterable[bytes]) -> int:
    n_written = 0
    for part in _parts(lines):
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]
        n_written += len(part)
        time.sleep(0)  # the loop's turn: a large state is many parts
    return n_written


def _parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    part = bytearray()
    for line in lines:
        part += line
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


__all__ = ["LastGoodFile", "Loaded", "Unusable"]
