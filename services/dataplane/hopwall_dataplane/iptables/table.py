"""What a table holds of ours: desired chains and jumps, actual state, and how a line is recognised.

Owns the comment every line of ours ends in: `hw:<hash>`, or `hw:<hash>:<identity>` where the line is a
rule's or a denial's (`identity.py`), with `:also` behind it where another line of the same counts the packet.
Inside our chains the hash (16 characters) runs over the chain's name, the hash of the line above and the line
itself, so a line's hash answers for all lines above it; a process with no memory reads it back and knows
what stands.

Refuses to understand rule text: what a line matches is the renderer's business. Next: plan.py.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from hopwall_dataplane.outcome import Family
from hopwall_model.names import CHAIN_PREFIX, MAX_CHAIN_NAME

TableName = Literal["raw", "mangle", "filter", "nat"]
TableKey = tuple[Family, TableName]
Place = Literal["first", "last"]

#: Source: iptables-restore reads lines into a buffer of 10,240 bytes; room is kept for our comment.
MAX_BODY_BYTES = 8192
HASH_LENGTH = 16

#: Ends the comment of a line that does not count: another of the same identity does.
ALSO = ":also"
#: An identity's comment before its line has a hash.
_BEARING = ' -m comment --comment "hw::'

#: Ends what was put in front of a chain's former lines: as if the chain ended there.
GUARD = "-j RETURN"

_NAMED_SET = re.compile(r"--match-set (\S+)")
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")

Chain = tuple[str, ...]
Hashes = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """Our line in a kernel chain: `first` stands before all foreign lines, `last` after them."""

    builtin: str
    target: str
    match: str = ""
    where: Place = "first"

    @property
    def body(self) -> str:
        """Spell the line as a rule body."""
        return f"{self.match} -j {self.target}" if self.match else f"-j {self.target}"


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One line of a kernel chain. A foreign one is only a place-holder: `hash` is None, `text` empty.

    `text` is what follows `-A <chain> `, so that exactly this line can be deleted again; one that was read
    where the tool could not has the kernel's `handle` instead.
    """

    hash: str | None
    text: str = ""
    handle: int = 0


FOREIGN = KernelLine(None)


@dataclass(slots=True)
class TableState:
    """What was last read from, or written to, one table of the kernel.

    Shape:  `chains`: our chain → the hash of each line, None for a line that is not ours.
            `kernel`: kernel chain → its lines in order.
            `names`: our chain → the sets its lines name; without those whose text could not be read.
            `says`: our chain → whose lines it holds, as read; without those that were written since.
            `notes`: what the tool said besides, for people.
            `asleep`, `usurped`: no packet meets any of its lines; the kernel chains in whose places others stand.
    Owner:  the agent's task alone; `transaction.record` is the only function that changes it.
    """

    chains: dict[str, Hashes] = field(default_factory=dict)
    kernel: dict[str, tuple[KernelLine, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    names: dict[str, frozenset[str]] = field(default_factory=dict, compare=False)
    says: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    asleep: bool = False
    usurped: frozenset[str] = frozenset()


def sets_in(bodies: Iterable[str]) -> frozenset[str]:
    """Return the sets that lines name."""
    return frozenset(name for body in bodies for name in _NAMED_SET.findall(body))


def identities_in(bodies: Iterable[str]) -> tuple[str, ...]:
    """Return whose lines these are, each once for all its lines on end; "" for a line that bears no identity."""
    texts = (body.partition(_BEARING)[2].partition('"')[0] for body in bodies)
    return tuple(identity for identity, _ in groupby(text.partition(":")[0] for text in texts))


def is_ours(chain: str) -> bool:
    """Tell whether a chain is ours by its name."""
    return chain.startswith(CHAIN_PREFIX)


def chain_hashes(name: str, bodies: Sequence[str]) -> tuple[str, ...]:
    """Hash each line of a chain over its name and all lines so far.

    Cost:   O(text), about 1 µs a line.
    """
    running = hashlib.sha256(name.encode())
    hashes = []
    for body in bodies:
        running.update(b"\n" + body.encode())
        hashes.append(_short(running.digest()))
    return tuple(hashes)


def dead_lines(name: str, bodies: Sequence[str], stands: Hashes) -> int | None:
    """Count the lines of a chain that no packet meets, as a guard stands before them; None if it does not say this.

    Shape:  the guard counts; 0 is a chain as it is written plainly.
    """
    hashes = chain_hashes(name, (*bodies, GUARD))
    if stands == hashes[:-1]:
        return 0
    return len(stands) - len(bodies) if stands[: len(hashes)] == hashes else None


def jump_hash(jump: Jump) -> str:
    """Hash a line of ours in a kernel chain; it stands alone, as its neighbours may be foreign."""
    seed = "\n".join(("jump", jump.builtin, jump.where, jump.body))
    return _short(hashlib.sha256(seed.encode()).digest())


def bearing(body: str, identity: str, *, counts: bool = True) -> str:
    """Let a body bear an identity: in its comment, whose hash is still to come (`with_hash`).

    `counts` is false for a line that goes along with the one that counts the packet: a log line before
    its drop, say.
    """
    return f'{body}{_BEARING}{identity}{"" if counts else ALSO}"'


def plain(body: str) -> str:
    """Return the body without the identity it may bear."""
    return body.partition(_BEARING)[0]


def with_hash(body: str, line_hash: str) -> str:
    """Append our comment to a body; last, so that a packet meets it only when all else matched."""
    text, _, identity = body.partition(_BEARING)
    tail = f":{identity}" if identity else '"'
    return f'{text} -m comment --comment "hw:{line_hash}{tail}'.lstrip()


def check_chain(name: str, bodies: Sequence[str]) -> None:
    """Refuse a chain that could not be told to be ours, or whose text could reach beyond its lines.

    Errors: ValueError with one sentence that names the chain.
    """
    if not is_ours(name) or len(name) > MAX_CHAIN_NAME or not _PLAIN.fullmatch(name):
        raise ValueError(
            f"chain name {name!r} must start with {CHAIN_PREFIX!r} and be at most "
            f"{MAX_CHAIN_NAME} letters, digits and . _ -"
        )
    for body in bodies:
        _check_body(name, body)


def check_jump(jump: Jump) -> None:
    """Refuse a jump from a chain of ours, or one whose text could reach beyond its line.

    Errors: ValueError with one sentence that names the kernel chain.
    """
    if is_ours(jump.builtin) or not _PLAIN.fullmatch(jump.builtin):
        raise ValueError(f"jump from {jump.builtin!r}: only a kernel chain can hold a jump")
    _check_body(jump.builtin, jump.body)


def _check_body(name: str, body: str) -> None:
    if not body.isprintable():
        raise ValueError(f"a line of chain {name} has a character that cannot be printed: {body!r}")
    if len(body.encode()) > MAX_BODY_BYTES:
        raise ValueError(f"a line of chain {name} is longer than {MAX_BODY_BYTES} bytes")


def _short(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest[:12]).decode()[:HASH_LENGTH]
