"""`hopwall backup`: the whole intent, as of one revision, into a file that a person can read."""

import argparse
import os
import sys
from pathlib import Path
from typing import BinaryIO

from hopwall_cli import backup_file
from hopwall_cli.backup_file import BackupError
from hopwall_cli.client import Client
from hopwall_cli.errors import Failure


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("backup", help="write all resources to a file")
    parser.add_argument("file", nargs="?", default="-", help="- (default): standard output")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Fetch, check that it is whole, write, and say what was written."""
    lines = [line async for line in client.lines("/v1/backup")]
    try:
        found = backup_file.read(lines, "the answer")
    except BackupError as error:
        raise Failure(str(error)) from error
    if args.file == "-":
        _write(sys.stdout.buffer, lines)
        sys.stdout.flush()
    else:
        _save(Path(args.file), lines)
    sys.stderr.write(f"hopwall: {found.says}\n")
    return 0


def _save(path: Path, lines: list[bytes]) -> None:
    """Put the file in place whole, or not at all: an older backup is not lost to a broken newer one."""
    new = path.with_name(f"{path.name}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            _write(file, lines)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}.") from error


def _write(file: BinaryIO, lines: list[bytes]) -> None:
    for line in lines:
        file.write(line + b"\n")
