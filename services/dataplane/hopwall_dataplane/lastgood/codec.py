"""Lines of the last-good file ⇄ steps: JSON a person can read, each step sealed by a digest of all before it.

    {"format":"hopwall last-good","version":1,"host":"h1","written_by":"0.1.0"}
    {"kind":"policy.set","id":"gnp/p",…}           the updates of a step, as they travel (docs/design/wire.md)
    {"kind":"commit","epoch":…,"revision":42,"full":true,"fresh":[…],"sha256":"…"}

The first step is whole, what follows are changes. A step without its commit line was cut off while it was
written: it is left out, and what came before it stands. Anything else that is not as it was written makes the
whole file unusable: half of a state may be open where all of it is closed.

Pure.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from msgspec import Struct, structs

from hopwall_dataplane.feed import Step
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_model import codec
from hopwall_model.updates import Scope, Update

FORMAT = "hopwall last-good"
#: Raised whenever a reader of the one before could take a state for another than it is.
VERSION = 1

_COMMIT_BEGINS = b'{"kind":"commit"'


class Unusable(Exception):
    """The file says nothing that may be enforced; the text is one sentence for the operator."""


class Digest(Protocol):
    """A running digest, as of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""

    def hexdigest(self) -> str:
        """Return it as text."""

    def copy(self) -> Self:
        """Return another that has taken in the same."""


class Header(Struct, frozen=True, kw_only=True):
    """The first line."""

    format: str
    version: int
    host: str
    #: The version of the product, for people.
    written_by: str = ""


class Commit(Struct, frozen=True, kw_only=True, tag_field="kind", tag="commit"):
    """The last line of a step."""

    epoch: str
    revision: int
    full: bool = False
    fresh: tuple[Scope, ...] = ()
    #: Of every line before this one, newlines included, and of this one while it is "".
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file says, and how many lines at its end were left out."""

    mirror: Mirror
    n_cut_off: int


_header = codec.decoder(Header)
_commit = codec.decoder(Commit)
_update: Callable[[bytes], Update] = codec.decoder(Update)  # type: ignore[arg-type]


def new_digest() -> Digest:
    """Return the digest of no line."""
    return hashlib.sha256()


def header_line(host: str, written_by: str, digest: Digest) -> bytes:
    """Return the first line, and begin the digest with it."""
    header = Header(format=FORMAT, version=VERSION, host=host, written_by=written_by)
    return _line(header, digest)


def step_lines(step: Step, digest: Digest) -> Iterator[bytes]:
    """Yield the lines of one step, taking them into the digest."""
    for update in step.updates:
        yield _line(update, digest)
    commit = Commit(
        epoch=step.epoch,
        revision=step.revision,
        full=step.full,
        fresh=tuple(sorted(step.fresh)),
    )
    yield _line(structs.replace(commit, sha256=_seal(commit, digest)), digest)


def read(lines: Iterable[bytes], host: str) -> Loaded:
    """Return what a file's lines say.

    Errors: Unusable.
    """
    mirror, digest = Mirror(), new_digest()
    waiting: list[bytes] = []
    n_commits = 0
    for number, line in enumerate(lines):
        if number == 0:
            _check_header(line, host)
        elif line.startswith(_COMMIT_BEGINS) and line.endswith(b"\n"):
            mirror.fold(_step(waiting, line, digest, first=n_commits == 0))
            waiting = []
            n_commits += 1
        else:
            waiting.append(line)
        digest.update(line)
    if n_commits == 0:
        raise Unusable("it ends before its first state is complete")
    return Loaded(mirror, len(waiting))


def _check_header(line: bytes, host: str) -> None:
    try:
        header = _header(line)
    except codec.CodecError as error:
        raise Unusable(f"its first line is not that of such a file: {error}") from error
    if header.format != FORMAT:
        raise Unusable(f"its format is {header.format!r} and not {FORMAT!r}")
    if header.version != VERSION:
        raise Unusable(f"its version is {header.version}; this program reads {VERSION} only")
    if header.host != host:
        raise Unusable(f"it is of host {header.host!r}, and this is {host!r}")


def _step(lines: list[bytes], last: bytes, digest: Digest, *, first: bool) -> Step:
    try:
        commit = _commit(last)
        sealed = structs.replace(commit, sha256=_seal(structs.replace(commit, sha256=""), digest))
        if last != codec.encode(sealed) + b"\n":
            raise Unusable("its content does not match its digest")
        updates = tuple(_update(line) for line in lines)
    except codec.CodecError as error:
        raise Unusable(f"a line of it cannot be understood: {error}") from error
    if first and not commit.full:
        raise Unusable("its first state is not a whole one")
    return Step(
        commit.epoch,
        commit.revision,
        full=commit.full,
        updates=updates,
        fresh=frozenset(commit.fresh),
    )


def _seal(commit: Commit, digest: Digest) -> str:
    whole = digest.copy()
    whole.update(codec.encode(commit))
    return whole.hexdigest()


def _line(value: object, digest: Digest) -> bytes:
    line = codec.encode(value) + b"\n"
    digest.update(line)
    return line
