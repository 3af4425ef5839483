"""Desired minus actual → at most two transactions for one table.

Owns which chains are written, how our lines get to their place in kernel chains, and that removals
come apart. Refuses to touch, move or count on any foreign line.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from hopwall_dataplane.iptables.table import (
    Chain,
    Hashes,
    Jump,
    KernelLine,
    TableName,
    TableState,
    check_jump,
    dead_lines,
    is_ours,
    jump_hash,
    with_hash,
)
from hopwall_dataplane.iptables.transaction import ChainWrite, KernelEdit, Transaction

#: Lines of a chain that is put in front of what it replaces, and of all it then holds, at most. Source: below it the
#: kernel's grace period (8-24 ms) is longer than what the dead lines cost.
_MOST_IN_FRONT, _MOST_IN_ALL = 64, 256


@dataclass(frozen=True, slots=True)
class Plan:
    """`now` makes and repoints; `later` removes what nothing refers to any more.

    `later` holds until desired changes: keep its `chains` as dirty names and plan again, rather than
    keeping it. Apply it apart from `now` by 20 ms or more (the driver's `settled_in_s`).
    """

    now: Transaction | None = None
    later: Transaction | None = None
    #: The chains that then hold lines that no packet meets, behind a guard.
    dead: frozenset[str] = frozenset()


def plan_table(
    table: TableName,
    desired_chains: Mapping[str, Chain],
    desired_jumps: Sequence[Jump],
    actual: TableState,
    *,
    dirty: Set[str] | None = None,
    in_front: tuple[str, ...] = (),
) -> Plan:
    """Find the transactions that turn actual into desired.

    With `dirty` only chains of these names are compared, kernel chains included. Of chains whose names begin with
    one of `in_front`, what replaces a short one is put before it, so that its lines are not freed by `now`.

    Errors: ValueError for a chain or jump that cannot be ours.
    Cost:   O(text of the compared chains); without `dirty`, of all.
    """
    writes, removals, dead = [], [], set()
    for name in _ours_to_compare(desired_chains, actual, dirty):
        bodies, have = desired_chains.get(name), actual.chains.get(name)
        if bodies is None:
            if have is not None:
                removals.append(name)
            continue
        n_dead = dead_lines(name, bodies, have) if have is not None else None
        if have is None or n_dead is None:
            stays = have is not None and name.startswith(in_front) and _has_room(bodies, have)
            over = have if have is not None and stays else ()
            writes.append(ChainWrite(name, bodies, have is None, over))
            n_dead = len(over)
        if n_dead:
            dead.add(name)
    edits = []
    for builtin in _builtins_to_compare(desired_jumps, actual, dirty):
        jumps = [jump for jump in desired_jumps if jump.builtin == builtin]
        edit = _plan_kernel_chain(builtin, jumps, actual.kernel.get(builtin, ()))
        if edit is not None:
            edits.append(edit)
    roots = frozenset(jump.builtin for jump in desired_jumps)
    wrong = roots if roots and (actual.asleep or roots & actual.usurped) else None
    now = None
    if writes or edits or wrong:
        now = Transaction(table, tuple(writes), tuple(edits), roots=wrong)
    later = Transaction(table, removals=tuple(removals)) if removals else None
    return Plan(now, later, frozenset(dead))


def _has_room(bodies: Chain, have: Hashes) -> bool:
    """Tell whether a chain may stand in front of these lines; not of others', which are to go."""
    n_lines = len(bodies) + len(have)
    return len(bodies) <= _MOST_IN_FRONT and n_lines <= _MOST_IN_ALL and None not in have


def plan_wall(
    table: TableName,
    desired_chains: Mapping[str, Chain],
    desired_jumps: Sequence[Jump],
    actual: TableState,
) -> Transaction | None:
    """Find what makes absent chains and jumps stand, and changes none that is there in any form.

    A chain that stands may say more than who asks knows.
    """
    absent = desired_chains.keys() - actual.chains.keys()
    builtins = {
        jump.builtin
        for jump in desired_jumps
        if all(line.hash != jump_hash(jump) for line in actual.kernel.get(jump.builtin, ()))
    }
    if not absent and not builtins and not actual.asleep:
        return None
    return plan_table(table, desired_chains, desired_jumps, actual, dirty=absent | builtins).now


def _ours_to_compare(
    desired: Mapping[str, Chain], actual: TableState, dirty: Set[str] | None
) -> list[str]:
    if dirty is None:
        return sorted(desired.keys() | actual.chains.keys())
    return sorted(name for name in dirty if is_ours(name))


def _builtins_to_compare(
    jumps: Sequence[Jump], actual: TableState, dirty: Set[str] | None
) -> list[str]:
    if dirty is None:
        return sorted({jump.builtin for jump in jumps} | actual.kernel.keys())
    return sorted(name for name in dirty if not is_ours(name))


def _plan_kernel_chain(
    builtin: str, jumps: Sequence[Jump], have: tuple[KernelLine, ...]
) -> KernelEdit | None:
    """Put our lines of one kernel chain in their place, moving none that is right.

    Lines are deleted by their exact text, never by number: a foreign line may have come in between
    since we read. A group (`first`, `last`) that is not right is taken out and put in whole, within
    one transaction, so no packet sees a gap.
    """
    firsts = _wanted(jumps, "first")
    lasts = _wanted(jumps, "last")
    known = firsts.keys() | lasts.keys()
    commands, rest = _take_out(builtin, have, {line.hash for line in have} - known)
    if not _stands(tuple(firsts), rest):
        deleted, rest = _take_out(builtin, rest, firsts.keys())
        # In reverse and each at 1, as some versions misnumber lines within a transaction.
        inserted = [f"-I {builtin} 1 {line.text}" for line in reversed(firsts.values())]
        commands += [*deleted, *inserted]
        rest = (*firsts.values(), *rest)
    if not _stands(tuple(reversed(lasts)), rest[::-1]):
        deleted, rest = _take_out(builtin, rest, lasts.keys())
        commands += [*deleted, *(f"-A {builtin} {line.text}" for line in lasts.values())]
        rest = (*rest, *lasts.values())
    if not commands and rest == have:
        return None
    kept = {line.handle for line in rest}
    handles = tuple(line.handle for line in have if line.handle not in kept)
    return KernelEdit(builtin, tuple(commands), rest, handles)


def _wanted(jumps: Iterable[Jump], where: str) -> dict[str, KernelLine]:
    lines = {}
    for jump in jumps:
        check_jump(jump)
        if jump.where == where:
            line_hash = jump_hash(jump)
            lines[line_hash] = KernelLine(line_hash, with_hash(jump.body, line_hash))
    return lines


def _take_out(
    builtin: str, lines: tuple[KernelLine, ...], hashes: Set[str | None]
) -> tuple[list[str], tuple[KernelLine, ...]]:
    ours = [line for line in lines if line.hash is not None and line.hash in hashes]
    rest = tuple(line for line in lines if line.hash is None or line.hash not in hashes)
    return [f"-D {builtin} {line.text}" for line in ours if not line.handle], rest


def _stands(hashes: tuple[str, ...], lines: tuple[KernelLine, ...]) -> bool:
    """Tell whether the lines begin with exactly these of ours, and hold no further copy of them."""
    head = tuple(line.hash for line in lines[: len(hashes)])
    return head == hashes and all(line.hash not in hashes for line in lines[len(hashes) :])
