"""What the tools print → values: `iptables-save` tables, and what `iptables-restore` complains about.

The only place that reads text of these tools. From a saved table it takes chain names and our
comments, the sets our chains name, their guards, and the text of our own lines in kernel chains; other rule text is never
interpreted.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Literal

from hopwall_dataplane.iptables.table import (
    ALSO,
    FOREIGN,
    GUARD,
    HASH_LENGTH,
    KernelLine,
    TableState,
    is_ours,
    sets_in,
)

# A quote inside a foreign comment is printed as \", so neither form can be forged by one.
_MARKS = ('--comment "hw:', "--comment hw:")
_COMMENT = re.compile(
    rf"([A-Za-z0-9_-]{{{HASH_LENGTH}}})(?::([a-z2-7]{{10}})({ALSO})?)?(?=[\" ]|$)"
)
_OUR_COMMENT = re.compile(rf'-m comment --comment "?hw:[A-Za-z0-9_-]{{{HASH_LENGTH}}}"?')
#: What stands behind our comment: where the line leads.
_LEADS = re.compile(r'"? -[jg] (\S+)')
_NOTE = re.compile(r"^# (Warning: .*|Table .* is incompatible.*)$")


def parse_save(text: str) -> TableState:
    """Read one saved table.

    Errors: never; a line that is not understood is a foreign line of its chain.
    Cost:   O(text), about 0.7 µs a line.
    Source: iptables-save(8): `:chain policy [counters]`, policy `-` for all but kernel chains.
    """
    ours: dict[str, list[str | None]] = {}
    named: dict[str, set[str]] = {}
    says: dict[str, list[str]] = {}
    kernel: dict[str, list[KernelLine]] = {}
    strangers: set[str] = set()
    notes = []
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, _, body = line[3:].partition(" ")
            if chain in ours:
                found = _of_ours(body, strangers)
                ours[chain].append(found[1] if found else None)
                says[chain].append(_whose(body, found))
                if "-set " in body:
                    named[chain] |= sets_in((body,))
            elif chain in kernel:
                found = _of_ours(body, strangers)
                kernel[chain].append(KernelLine(found[1], body) if found else FOREIGN)
        elif line.startswith(":"):
            chain, _, policy = line[1:].partition(" ")
            if is_ours(chain):
                ours[chain], named[chain], says[chain] = [], set(), []
            elif policy.startswith("-"):
                strangers.add(chain)
            else:
                kernel[chain] = []
        elif note := _NOTE.match(line):
            notes.append(note[1])
    return TableState(
        {name: tuple(hashes) for name, hashes in ours.items()},
        {name: tuple(lines) for name, lines in kernel.items()},
        tuple(notes),
        {name: frozenset(sets) for name, sets in named.items()},
        {name: _as_met(lines) for name, lines in says.items()},
    )


def is_unprintable(state: TableState) -> bool:
    """Tell whether the tool printed nothing, as a rule of the table is beyond it."""
    return any(note.endswith("use 'nft' tool.") for note in state.notes)


def identity_in(line: str) -> tuple[str, bool]:
    """Read the identity a line bears, "" for none, and whether the line counts for it."""
    found = _comment_in(line)
    return (found[2] or "", found[3] is None) if found else ("", False)


def _whose(body: str, found: re.Match[str] | None) -> str:
    """Return the identity that a line bears, the guard for a guard, "" for any other."""
    if found is None or found[2]:
        return found[2] if found else ""
    return GUARD if _OUR_COMMENT.sub("", body).strip() == GUARD else ""


def _as_met(lines: Iterable[str]) -> tuple[str, ...]:
    """Return whose lines packets meet, each once for all its lines on end; none meets what is behind a guard."""
    return tuple(one for one, _ in groupby(takewhile(lambda one: one != GUARD, lines)))


def _of_ours(body: str, strangers: Set[str]) -> re.Match[str] | None:
    """Read our comment in a line, None where it is not ours.

    A line that leads to a stranger's chain went along when a chain of ours was given another name.
    """
    found = _comment_in(body)
    if found is not None and strangers and (leads := _LEADS.match(body, found.end())):
        return None if leads[1] in strangers else found
    return found


def hash_in_comment(comment: str) -> str | None:
    """Return the hash in a comment that was read as such, None when it is not ours."""
    found = _COMMENT.fullmatch(comment.removeprefix("hw:")) if comment.startswith("hw:") else None
    return found[1] if found else None


def _comment_in(text: str) -> re.Match[str] | None:
    for mark in _MARKS:
        at = text.rfind(mark)
        if at >= 0 and (found := _COMMENT.match(text, at + len(mark))):
            return found
    return None


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a restore process ended. `line` counts from the start of that process.

    `later` is for what may pass by itself; `never` for what the tool will not take as it is.
    """

    kind: Literal["later", "never"]
    message: str
    line: int | None = None


_ROWS: tuple[tuple[str, Literal["later", "never"]], ...] = (
    # First what is the machine's and not the text's, whatever line it was met at.
    (r"holding the xtables lock", "later"),
    (r"can't open lock file", "later"),
    (r"Permission denied|you must be root|Operation not permitted", "later"),
    (r"Cannot allocate memory|No buffer space|[Mm]emory allocation problem", "later"),
    (r"Resource temporarily unavailable|Interrupted system call", "later"),
    # The end of input came early: whoever fed the process is gone.
    (r"COMMIT expected at line (?P<line>\d+)", "later"),
    # Then lines, as the parser, nft's kernel answer and the plain form name them.
    (r"^Error occurred at line: (?P<line>\d+)", "never"),
    (r"^line (?P<line>\d+): \w+ failed", "never"),
    (r"^\S+: line (?P<line>\d+) failed", "never"),
    (r"is incompatible, use 'nft' tool", "never"),
)
_NOISE = re.compile(r"^(Try `.*|Error occurred at line: \d+|\s*)$")
_PROGRAM = re.compile(r"^ip6?tables\S*( v\S+ \([a-z_]+\))?:\s*")


def classify(stderr: str, returncode: int) -> Complaint:
    """Tell what ended a restore process, from its last words.

    Errors: never; silence and words unknown are doubts, to be tried again.
    """
    message = _spoken(stderr)
    for pattern, kind in _ROWS:
        if found := re.search(pattern, stderr, re.MULTILINE):
            line = found.groupdict().get("line")
            return Complaint(kind, message, int(line) if line else None)
    if returncode < 0:
        return Complaint("later", f"iptables-restore was killed by signal {-returncode}")
    return Complaint("later", f"iptables-restore ended with status {returncode}: {message}")


def _spoken(stderr: str) -> str:
    """Keep the words that say what is wrong, in one line."""
    lines = [_PROGRAM.sub("", line.strip()) for line in stderr.splitlines()]
    return "; ".join(line for line in lines if not _NOISE.match(line))
