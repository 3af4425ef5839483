"""What is kept of a run, and the page that is made of it. Pure."""

import statistics
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tests.faults.catalogue import FAILURES
from tests.faults.table import Mode, Result

_N_WORDS = 3
_DRIFT = "foreign damage is open until it is put right: [drift](reliability/drift.md)"
#: What a line of the first table says beside its figures.
_BESIDE = {
    "K2": _DRIFT,
    "K3": _DRIFT,
    "K4": "each kind of damage: [drift](reliability/drift.md)",
    "K11": "each kind of damage: [drift](reliability/drift.md)",
    "N1": "routes lost: [BGP](bgp-report.md)",
    "N3": "rogue peers: [other daemons](bgp-interop.md)",
    "N4": "50 runs each: [migration](design/migration.md)",
}
_INTRODUCTION = """# Reliability

Made by `make test-faults`; do not change it by hand. How each row works: [tests/faults](../tests/faults/README.md).

*Lost*: acknowledged writes that are not stored afterwards, or not as acknowledged. *Open* and *closed*: packets that came
and must not have, and that did not come and had to. Each packet is a probe, at 100 a second for each of eight pairs and both
families, and is held against a model of the states that are legal at its moment: between the sending of a change and the
answer that all hosts enforce it the verdict before and the one after are legal, else exactly one. A row without probes says
why. *Recovery*: from the end of the fault until a change (or a write, where there is no data path) made since then is
enforced everywhere (or acknowledged), median and worst.

More of the same kind, by other commands: [what others change of ours](reliability/drift.md), [what hostile workloads
send](reliability/hostile.md), [BGP](bgp-report.md), [migrations](design/migration.md)."""


class Row(Struct, frozen=True, kw_only=True):
    """One mode's result, as it is kept."""

    name: str
    what: str
    covers: tuple[str, ...]
    packets: str
    bad: bool
    where: str
    passed: bool
    tries: int
    acked: int
    lost: int
    probes: int
    opened: int
    closed: int
    kills: int
    changes: int
    recovery: tuple[float, ...]
    words: tuple[str, ...]
    took_s: float
    commit: str
    day: str


def row_of(mode: Mode, result: Result, *, took_s: float, commit: str, day: str) -> Row:
    """Return what is kept of a result."""
    words = [result.note, *result.wrong[:_N_WORDS], *result.faults[:_N_WORDS]]
    return Row(
        name=mode.name,
        what=mode.what,
        covers=mode.covers,
        packets=mode.packets,
        bad=mode.bad,
        where=mode.where,
        passed=mode.passed(result),
        tries=result.tries,
        acked=result.acked,
        lost=result.lost,
        probes=result.probes,
        opened=result.opened,
        closed=result.closed,
        kills=result.kills,
        changes=result.changes,
        recovery=tuple(round(one, 3) for one in result.recovery),
        words=tuple(word for word in words if word),
        took_s=round(took_s, 1),
        commit=commit,
        day=day,
    )


def line(row: Row) -> str:
    """Return the line of one row."""
    judged = f"{row.probes:,}" if row.probes else row.packets
    opened, closed = (str(row.opened), str(row.closed)) if row.probes else ("-", "-")
    said = [] if row.passed else ["**FAILED**"]
    return _cells(
        f"{row.name}: {row.what}", row.tries, f"{row.kills:,}" if row.kills else "-",
        f"{row.acked:,}" if row.acked else "-", row.lost, judged, opened, closed,
        _recovery([row]), _link(row.where), "; ".join([*said, *row.words]),
    )  # fmt: skip


def _bad_line(row: Row) -> str:
    by = []
    if row.opened or row.closed:
        by.append(f"the prober: {row.opened} open, {row.closed} closed of {row.probes:,}")
    if row.lost:
        by.append(f"the history: {row.lost} of {row.acked:,} acknowledged writes lost")
    if row.words and not by:
        by.append(row.words[0] if len(row.words) == 1 else row.words[-1])
    caught = "; ".join(by) if row.passed else "**NOT caught**"
    return _cells(f"{row.name}: {row.what}", row.tries, caught, _link(row.where))


def _failure_line(name: str, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if name in row.covers and not row.bad]
    beside = _BESIDE.get(name, "")
    if not mine:
        return _cells(
            f"{name}: {FAILURES[name]}", 0, "-", "-", "-", "-", "-", beside or "not tried"
        )
    probes = sum(row.probes for row in mine)
    opened, closed = sum(row.opened for row in mine), sum(row.closed for row in mine)
    judged = any(row.probes for row in mine)
    named = [row.name if row.passed else f"**{row.name} FAILED**" for row in mine]
    return _cells(
        f"{name}: {FAILURES[name]}", sum(row.tries for row in mine), sum(row.lost for row in mine),
        f"{probes:,}" if judged else mine[0].packets,
        opened if judged else "-", closed if judged else "-", _recovery(mine),
        "; ".join([*named, *([beside] if beside else [])]),
    )  # fmt: skip


def _recovery(rows: Iterable[Row]) -> str:
    seconds = [one for row in rows for one in row.recovery]
    return f"{statistics.median(seconds):.2f} / {max(seconds):.2f} s" if seconds else "-"


def _link(where: str) -> str:
    return f"[{where.removeprefix('tests/')}](../{where})" if where else ""


def _cells(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _table(*head: str, rows: Iterable[str]) -> list[str]:
    return [_cells(*head), "|" + "---|" * len(head), *rows, ""]


def page(rows: Sequence[Row], facts: Sequence[str], more: Sequence[str] = ()) -> str:
    """Return the whole page; `more` are lines of a section of its own."""
    right, bad = [row for row in rows if not row.bad], [row for row in rows if row.bad]
    parts = [_INTRODUCTION, "", *(f"- {fact}" for fact in [*facts, _sum(right)]), ""]
    parts += ["## Each failure mode", ""]
    parts += _table(
        "failure mode", "tried", "lost", "probes", "open", "closed", "recovery", "rows",
        rows=[_failure_line(name, rows) for name in FAILURES],
    )  # fmt: skip
    parts += ["## Each row", ""]
    parts += _table(
        "row", "tried", "kills", "acknowledged", "lost", "probes", "open", "closed", "recovery",
        "where", "", rows=map(line, right),
    )  # fmt: skip
    parts += more
    parts += ["## Known-bad ways, and what caught them", ""]
    parts += _table("known bad", "tried", "caught by", "where", rows=map(_bad_line, bad))
    parts += [
        "The same switches in a simulated cloud, by what no state explains: `tests/simulator/bad.py`.",
        "",
    ]
    return "\n".join(parts)


def _sum(rows: Sequence[Row]) -> str:
    failed = sum(not row.passed for row in rows)
    return (
        f"{len(rows)} rows, {failed} failed; {sum(row.kills for row in rows):,} kills,"
        f" {sum(row.acked for row in rows):,} acknowledged writes, {sum(row.lost for row in rows)} lost;"
        f" {sum(row.probes for row in rows):,} probes, {sum(row.opened for row in rows)} open,"
        f" {sum(row.closed for row in rows)} closed"
    )
