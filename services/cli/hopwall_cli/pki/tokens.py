"""The list of REST tokens on disk: add, list, revoke. Shell around `hopwall_api.access.tokens`."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from hopwall_api.access.roles import Role
from hopwall_api.access.tokens import (
    Token,
    TokensError,
    fault_of,
    mint,
    read_tokens,
    write_tokens,
)
from hopwall_cli.errors import Failure
from hopwall_cli.pki.certificates import utc_now
from hopwall_cli.pki.files import write_file
from hopwall_runtime import clock


def create(
    path: Path, name: str, role: str, namespaces: Sequence[str] = (), days: int | None = None
) -> str:
    """Add a token to the list and return it; the list keeps only a digest.

    Errors: Failure.
    """
    ident, text, sha256 = mint(os.urandom(32))
    now = clock.now_text()
    token = Token(
        id=ident,
        name=name,
        role=Role(role),
        namespaces=tuple(dict.fromkeys(namespaces)),
        sha256=sha256,
        created_at=now,
        expires_at=_later(now, days) if days is not None else "",
    )
    if fault := fault_of(token):
        raise Failure(fault)
    with _locked(path):
        write_file(path, write_tokens([*listed(path), token]), 0o600)
    return text


def revoke(path: Path, which: Sequence[str]) -> list[Token]:
    """Remove tokens by name or id, and return them.

    Errors: Failure when one is not there; then nothing is removed.
    """
    with _locked(path):
        tokens = listed(path)
        gone = [token for token in tokens if {token.id, token.name} & set(which)]
        found = {word for token in gone for word in (token.id, token.name)}
        if missing := [word for word in which if word not in found]:
            raise Failure(f"there is no token {missing[0]}; nothing was revoked.")
        write_file(path, write_tokens([token for token in tokens if token not in gone]), 0o600)
    return gone


def listed(path: Path) -> list[Token]:
    """Return the tokens of the list.

    Errors: Failure.
    """
    try:
        return list(read_tokens(path.read_bytes()))
    except OSError as error:
        raise Failure(
            f"{path} cannot be read ({error.strerror}): `hopwall pki init` makes it; --file names another."
        ) from error
    except TokensError as error:
        raise Failure(f"{path}: {error}") from error


def _later(now: str, days: int) -> str:
    later = utc_now(now) + timedelta(days=days)
    return later.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder, so that two commands at once lose nothing."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Failure(f"{path.parent} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
