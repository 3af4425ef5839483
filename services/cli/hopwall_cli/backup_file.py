"""The file of a backup: what it says, whether it is whole, and what has to be done to make a store say the same.

Pure. A line that says what it is, then a line of JSON for each resource, what is named before what names it.
Refuses a file that is not whole or was changed: half a backup, restored, would remove the other half.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hopwall_model.problems import Invalid
from hopwall_model.resources import KINDS
from hopwall_model.validate import admit

Json = dict[str, Any]
Name = tuple[str, str, str]  # kind, namespace, name

FORMAT = 1
KIND = "HopwallBackup"
#: What one atomic write holds; a little is left for the rest of the request.
MOST_ITEMS = 1000
MOST_BYTES = 12 * 1024 * 1024

_ORDER = {kind.__name__: i for i, kind in enumerate(KINDS)}


class BackupError(ValueError):
    """The file is no whole backup; the text is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read."""

    head: Json
    #: SHA-256 of the lines after the first, as they are.
    sha256: str
    resources: Mapping[Name, Json]

    @property
    def says(self) -> str:
        """What it is, for people."""
        head = self.head
        return (
            f"{len(self.resources)} resources at revision {head.get('revision')} of store"
            f" {str(head.get('store'))[:8] or 'without an id'}, taken {head.get('takenAt')}"
        )


def read(lines: Iterable[bytes], where: str, *, edited: bool = False) -> Backup:
    """Return the backup. With `edited` its count and checksum need not be what its first line says.

    Errors: BackupError.
    """
    digest = hashlib.sha256()
    head: Json | None = None
    found: dict[Name, Json] = {}
    for number, line in enumerate(lines, start=1):
        line = line.rstrip(b"\r\n")
        value = _value(line, where, number)
        if head is None:
            head = _head(value, where)
            continue
        digest.update(line + b"\n")
        name = name_of(value)
        if name is None or name[0] not in _ORDER:
            raise BackupError(f"{where}: line {number} is no resource that is known here.")
        if name in found:
            raise BackupError(f"{where}: line {number} is {_said(name)} a second time.")
        found[name] = value
    if head is None:
        raise BackupError(f"{where} is empty.")
    if not edited:
        _check_whole(head, len(found), digest.hexdigest(), where)
    return Backup(head, digest.hexdigest(), found)


def _value(line: bytes, where: str, number: int) -> Json:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BackupError(f"{where}: line {number} is no JSON.") from error
    if not isinstance(value, dict):
        raise BackupError(f"{where}: line {number} is no object.")
    return value


def _head(value: Json, where: str) -> Json:
    if value.get("kind") != KIND:
        raise BackupError(f"{where} is no backup: its first line is not of kind {KIND}.")
    if value.get("format") != FORMAT:
        raise BackupError(
            f"{where} has format {value.get('format')}; this version reads format {FORMAT}."
        )
    if value.get("restoring"):
        raise BackupError(f"{where} was taken while a restore was under way: it is a mixture.")
    return value


def _check_whole(head: Json, n: int, sha256: str, where: str) -> None:
    if head.get("count") != n:
        raise BackupError(
            f"{where} is not whole: it says {head.get('count')} resources and holds {n}."
            " If you have changed it yourself, say --edited."
        )
    if head.get("sha256") != sha256:
        raise BackupError(
            f"{where} is not what was backed up: its checksum does not hold."
            " If you have changed it yourself, say --edited."
        )


def name_of(value: Json) -> Name | None:
    """Return kind, namespace and name of a document, or None if it has not all."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return None
    name = (value.get("kind"), metadata.get("namespace") or "", metadata.get("name"))
    return (
        (name[0], name[1], name[2])
        if all(isinstance(n, str) for n in name) and name[2]  # type: ignore[return-value]
        else None
    )


def _said(name: Name) -> str:
    return f"{name[0]} {name[1]}/{name[2]}" if name[1] else f"{name[0]} {name[2]}"


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes a store say what a backup says."""

    added: Sequence[Json]
    changed: Sequence[Json]
    removed: Sequence[Name]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def difference(now: Mapping[Name, Json], wanted: Mapping[Name, Json]) -> Difference:
    """Return the difference: what is named comes before what names it, and goes after it."""
    added = [wanted[name] for name in sorted(wanted.keys() - now.keys(), key=_place)]
    both = sorted(wanted.keys() & now.keys(), key=_place)
    changed = [wanted[name] for name in both if _content(wanted[name]) != _content(now[name])]
    removed = sorted(now.keys() - wanted.keys(), key=_place, reverse=True)
    return Difference(added, changed, removed)


def _place(name: Name) -> tuple[int, str, str]:
    return _ORDER[name[0]], name[1], name[2]


def _content(value: Json) -> Json:
    """Return what of a resource a restore gives back."""
    metadata = {k: v for k, v in value["metadata"].items() if k != "resourceVersion"}
    return {**{k: v for k, v in value.items() if k != "status"}, "metadata": metadata}


def parts(difference: Difference) -> Iterator[tuple[list[Json], list[Name]]]:
    """Yield what is to be set and removed, in parts that one atomic write holds."""
    some: list[Json] = []
    size = 0
    for item in (*difference.added, *difference.changed):
        n = len(json.dumps(item))
        if some and (len(some) == MOST_ITEMS or size + n > MOST_BYTES):
            yield some, []
            some, size = [], 0
        some.append(item)
        size += n
    if some:
        yield some, []
    for start in range(0, len(difference.removed), MOST_ITEMS):
        yield [], list(difference.removed[start : start + MOST_ITEMS])


def faults(difference: Difference, *, most: int = 20) -> list[str]:
    """Return lines that say what of the resources that are to be set is none that can be stored."""
    lines = []
    for value in (*difference.added, *difference.changed):
        name = name_of(value)
        assert name is not None  # it was read
        try:
            admit(value)
        except Invalid as error:
            lines += [
                f"{_said(name)}, {p.pointer or 'document'}: {p.reason}" for p in error.problems
            ]
    if len(lines) > most:
        lines[most:] = [f"… and {len(lines) - most} more"]
    return lines


def summary(difference: Difference, *, most: int = 20) -> list[str]:
    """Return lines that say what would become of the store: the numbers by kind, then names."""
    lines = []
    for word, names in (
        ("add", [name_of(one) for one in difference.added]),
        ("change", [name_of(one) for one in difference.changed]),
        ("remove", list(difference.removed)),
    ):
        known = [name for name in names if name is not None]
        if not known:
            continue
        by_kind = {kind: sum(name[0] == kind for name in known) for kind in _ORDER}
        told = ", ".join(f"{n} {kind}" for kind, n in by_kind.items() if n)
        lines.append(f"{word} {len(known)}: {told}")
        lines += [f"  {word} {_said(name)}" for name in known[:most]]
        if len(known) > most:
            lines.append(f"  … and {len(known) - most} more")
    return lines or ["nothing: the store says what the backup says"]
