"""What of an `iptables-save` text packets can meet: its reachable rules, without counters. No I/O.

Chains that nothing jumps to any more may wait for their removal; they are no part of what is enforced.
"""

import re

_COUNTERS = re.compile(r" \[\d+:\d+\]$")
_TARGET = re.compile(r" -[jg] (\S+)")


def enforced(text: str) -> tuple[str, ...]:
    """Return the policies and the reachable rules, table by table, in the order of the text."""
    found: list[str] = []
    for table in re.split(r"^(?=\*)", text, flags=re.MULTILINE):
        found += _of_table(table.splitlines())
    return tuple(found)


def entrances(rules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rules of the kernel's own chains, table by table: where packets enter ours.

    They stay the same while policies come and go, and each table is written whole.
    """
    return tuple(r for r in rules if r.startswith("*") or (r.startswith("-A ") and r[3].isupper()))


def _of_table(lines: list[str]) -> list[str]:
    rules: dict[str, list[str]] = {}
    waiting: list[str] = []
    for line in lines:
        if line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            rules.setdefault(chain, [])
            if policy != "-":
                waiting.append(chain)
        elif line.startswith("-A "):
            rules.setdefault(line.split()[1], []).append(line)
    reached: set[str] = set()
    while waiting:
        chain = waiting.pop()
        if chain in reached or chain not in rules:
            continue
        reached.add(chain)
        waiting += [target for rule in rules[chain] for target in _TARGET.findall(rule)]
    return [_COUNTERS.sub("", line) for line in lines if _is_live(line, reached)]


def _is_live(line: str, reached: set[str]) -> bool:
    if line.startswith("*"):
        return True
    if line.startswith(":"):
        return line[1:].split()[0] in reached
    return line.startswith("-A ") and line.split()[1] in reached
