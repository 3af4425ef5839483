"""One transaction: a value that prints exactly the text fed to `iptables-restore --noflush`.

Owns the text, which chain each of its lines belongs to, and what the table holds afterwards. One
table per transaction, as two tables in one input are not atomic. Refuses to decide what changes
(plan.py) and to run anything (driver.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from hopwall_dataplane.iptables.table import (
    GUARD,
    Chain,
    Hashes,
    KernelLine,
    TableName,
    TableState,
    chain_hashes,
    check_chain,
    sets_in,
    with_hash,
)


@dataclass(frozen=True)
class ChainWrite:
    """A chain of ours as a whole: declared, which empties it, then filled. `new` if it was absent.

    With `over` nothing is freed: it is put in front of these lines, a guard between them, which go later.
    """

    name: str
    bodies: Chain
    new: bool
    over: Hashes = ()

    def __post_init__(self) -> None:
        check_chain(self.name, self.bodies)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Hash each line written, once."""
        return chain_hashes(self.name, self.lines)

    @property
    def lines(self) -> Chain:
        """What is written, in order."""
        return (*self.bodies, GUARD) if self.over else self.bodies

    @property
    def after(self) -> Hashes:
        """What the chain then holds."""
        return (*self.hashes, *self.over)

    @property
    def commands(self) -> list[str]:
        """Spell the commands that fill it."""
        texts = [
            with_hash(body, line_hash)
            for body, line_hash in zip(self.lines, self.hashes, strict=True)
        ]
        if self.over:
            # In reverse and each at 1, as some versions misnumber lines within a transaction.
            return [f"-I {self.name} 1 {text}" for text in reversed(texts)]
        return [f"-A {self.name} {text}" for text in texts]


@dataclass(frozen=True, slots=True)
class KernelEdit:
    """Our lines in one kernel chain put right: the commands, and the chain's lines after them.

    `handles` are lines that the tool cannot delete: they go after the commands, so that none is missed.
    """

    builtin: str
    commands: tuple[str, ...]
    after: tuple[KernelLine, ...]
    handles: tuple[int, ...] = ()


@dataclass(frozen=True)
class Transaction:
    """All changes to one table that become true together or not at all.

    Shape:  printed as declarations, fillings, edits of kernel chains, removals; each by name. `roots` are kernel chains
            whose place must be theirs before, in a table that is awake; where it is None nobody looks.
    """

    table: TableName
    writes: tuple[ChainWrite, ...] = ()
    edits: tuple[KernelEdit, ...] = ()
    removals: tuple[str, ...] = ()
    roots: frozenset[str] | None = None

    @property
    def text(self) -> str:
        """Print what is fed to the tool, the final COMMIT line included."""
        return "\n".join((*self._rendered[0], ""))

    @property
    def n_lines(self) -> int:
        """Count the lines of the text."""
        return len(self._rendered[0])

    @property
    def chains(self) -> frozenset[str]:
        """Name every chain this transaction touches, kernel chains included."""
        return frozenset(owner for owner in self._rendered[1] if owner is not None)

    @property
    def new_chains(self) -> frozenset[str]:
        """Name the chains that did not stand before."""
        return frozenset(write.name for write in self.writes if write.new)

    @property
    def frees(self) -> bool:
        """Tell whether the kernel frees lines: the next transaction may then wait 8-24 ms for RCU."""
        return bool(
            self.removals
            or any(not write.new and not write.over for write in self.writes)
            or any(command.startswith("-D") for edit in self.edits for command in edit.commands)
        )

    def line(self, n: int) -> str | None:
        """Give line `n` of the text, counted from 1; None outside of it."""
        return self._rendered[0][n - 1] if 0 < n <= self.n_lines else None

    def chain_at_line(self, n: int) -> str | None:
        """Name the chain that line `n`, counted from 1, is about; None for *table, COMMIT and outside."""
        return self._rendered[1][n - 1] if 0 < n <= self.n_lines else None

    def subset(self, chains: Iterable[str]) -> "Transaction":
        """Keep only what is about these chains, kernel chains included; the table is put right all the same."""
        kept = frozenset(chains)
        return replace(
            self,
            writes=tuple(write for write in self.writes if write.name in kept),
            edits=tuple(edit for edit in self.edits if edit.builtin in kept),
            removals=tuple(name for name in self.removals if name in kept),
        )

    def with_bodies(self, bodies: Mapping[str, Chain]) -> "Transaction":
        """Replace the bodies of some of the written chains."""
        writes = tuple(
            replace(write, bodies=bodies[write.name]) if write.name in bodies else write
            for write in self.writes
        )
        return replace(self, writes=writes)

    def plainly(self) -> "Transaction":
        """Put no chain in front of what it replaces: a transaction that may be tried more than once."""
        writes = tuple(replace(write, over=()) for write in self.writes)
        return replace(self, writes=writes)

    @cached_property
    def _rendered(self) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
        lines = [f"*{self.table}"]
        owners: list[str | None] = [None]

        def add(owner: str, line: str) -> None:
            owners.append(owner)
            lines.append(line)

        plain = (write.name for write in self.writes if not write.over)
        for name in (*plain, *self.removals):
            add(name, f":{name} - [0:0]")
        for write in self.writes:
            for command in write.commands:
                add(write.name, command)
        for edit in self.edits:
            for command in edit.commands:
                add(edit.builtin, command)
        for name in self.removals:
            add(name, f"-X {name}")
        lines.append("COMMIT")
        owners.append(None)
        return tuple(lines), tuple(owners)


@dataclass(frozen=True, slots=True)
class Applied:
    """The kernel holds all of it, save the chains in `refused`, which are closed instead.

    Shape:  chain → the tool's reason. Always empty where no quarantine was asked for.
    """

    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The kernel holds nothing of it; `chain` is to blame, or nobody could be named.

    `line` counts from 1 in the transaction's text.
    """

    chain: str | None
    message: str
    line: int | None


def record(actual: TableState, tx: Transaction) -> None:
    """Write into actual what an applied transaction made of it.

    Cost:   O(transaction).
    """
    for write in tx.writes:
        actual.chains[write.name] = write.after
        # Of what packets meet: what is behind a guard does not count.
        actual.names[write.name] = sets_in(write.bodies)
        actual.says.pop(write.name, None)
    for edit in tx.edits:
        actual.kernel[edit.builtin] = edit.after
    if tx.roots is not None:
        actual.asleep, actual.usurped = False, actual.usurped - tx.roots
    for name in tx.removals:
        actual.chains.pop(name, None)
        actual.names.pop(name, None)
        actual.says.pop(name, None)
