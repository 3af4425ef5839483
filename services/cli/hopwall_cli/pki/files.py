"""Files of secrets: whole or not at all, and never readable by others for a moment."""

import os
from pathlib import Path


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all; one that was there keeps its owner."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        if path.exists():
            held = path.stat()
            os.fchown(descriptor, held.st_uid, held.st_gid)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)
