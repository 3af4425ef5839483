"""Histories of writes, and whether what is stored is what was acknowledged.

Pure. As etcd's robustness tests do: record each write with its outcome while things break, and judge afterwards. A
write says what it found; so a lost update shows, and not only a lost event.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["acked", "refused", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write of a token to a key, as its writer saw it. Times are of one clock."""

    key: str
    token: str
    #: The revision that was to be replaced; 0: the key must not exist; None: whatever is there.
    base: int | None
    begun: float
    ended: float
    outcome: Outcome
    #: Of an acknowledged write.
    revision: int = 0
    #: How it was refused.
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One event as the stream holds it."""

    key: str
    token: str
    revision: int


@dataclass(slots=True)
class Judgement:
    """How many acknowledged writes there were, how many are not stored, and what else is wrong."""

    acked: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)


def judge(writes: Sequence[Write], stored: Sequence[Stored], shown: Mapping[str, str]) -> Judgement:
    """Judge a history by all events of the stream, and by what reads show of each key at the end."""
    found = Judgement()
    at = {one.revision: one for one in stored}
    acked = [write for write in writes if write.outcome == "acked"]
    found.acked = len(acked)
    for write in acked:
        one = at.get(write.revision)
        found.lost += one is None or (one.key, one.token) != (write.key, write.token)
    tokens = Counter(one.token for one in stored)
    found.faults += [f"{token} is stored {n} times" for token, n in tokens.items() if n > 1]
    found.faults += [
        f"{write.token} was refused{write.answer and f' ({write.answer})'}, and is stored"
        for write in writes
        if write.outcome == "refused" and tokens[write.token]
    ]
    found.faults += _out_of_order(acked)
    found.faults += _lost_updates(writes, stored)
    last = {one.key: one.token for one in sorted(stored, key=lambda one: one.revision)}
    found.faults += [
        f"{key} shows {shown.get(key)}, and {token} is the last word"
        for key, token in last.items()
        if shown.get(key) != token
    ]
    return found


def _out_of_order(acked: Iterable[Write]) -> list[str]:
    """Find a write that began after another was acknowledged, and stands before it."""
    faults = []
    newest = 0
    ends = sorted(acked, key=lambda write: write.ended)
    done = 0
    for write in sorted(ends, key=lambda write: write.begun):
        while done < len(ends) and ends[done].ended < write.begun:
            newest = max(newest, ends[done].revision)
            done += 1
        if write.revision < newest:
            faults.append(
                f"{write.token} has revision {write.revision}, after {newest} was acknowledged"
            )
    return faults


def _lost_updates(writes: Iterable[Write], stored: Iterable[Stored]) -> list[str]:
    """Find a stored write that did not replace what its writer had seen."""
    base = {write.token: write.base for write in writes}
    of_key: dict[str, list[Stored]] = defaultdict(list)
    for one in sorted(stored, key=lambda one: one.revision):
        of_key[one.key].append(one)
    faults = []
    for events in of_key.values():
        before = 0
        for one in events:
            wanted = base.get(one.token)
            if wanted is not None and wanted != before:
                faults.append(f"{one.token} was to replace {wanted}, and replaced {before}")
            before = one.revision
    return faults
