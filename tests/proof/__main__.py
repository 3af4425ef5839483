"""`make test-deep`: the three judges asked at length. Ends with 1 when any two of them differ.

`python -m tests.proof [FIRST]` begins with cloud number FIRST; without it, with one nobody knows before.
"""

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.proof.cloud import CASES, read_case
from tests.proof.faults import FAULTS, HOST_FAULTS, NAT_FAULTS
from tests.proof.judges import Rig, Tally
from tests.proof.pipeline import Tamper
from tests.proof.runs import WireOutcome, asked, asked_of_hosts, asked_of_nat, on_the_wire

#: What asks both judges about clouds of some numbers, and yields one difference of each.
Asked = Callable[..., Iterator[Any]]

N_CLOUDS = 700
N_FLOWS = 200
N_HOST_CLOUDS = 100
N_WIRE_CLOUDS = 12
N_WIRE_FLOWS = 400
N_FAULT_CLOUDS = 600
#: So many kept failures are enough to work with.
MAX_FOUND = 5


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def kept_cases() -> int:
    """Ask the kept cases again; return how many are wrong."""
    paths = sorted(CASES.glob("*.json"))
    wrong = 0
    for path in paths:
        case = read_case(path)
        differ = Rig(case.cloud).disagreements(case.flows)
        wrong += bool(differ)
        for one in differ[:1]:
            say(f"{path.name}: {one}")
    say(f"kept cases: {len(paths)}, of which {wrong} are wrong\n")
    return wrong


def documents_and_lines(first: int) -> int:
    """Hold the walker of lines against the documents; return how many clouds differ."""
    tally, n_found = Tally(), 0
    began_at = time.monotonic()
    for found in asked(range(first, first + N_CLOUDS), N_FLOWS, tally):
        n_found += 1
        if n_found <= MAX_FOUND:
            say(found.keep())
    took_s = time.monotonic() - began_at
    say(f"documents against lines: clouds {first} to {first + N_CLOUDS - 1}, {took_s:.0f} s")
    say(f"  {tally.n_clouds:,} clouds, {tally.n_flows:,} flows, {tally.n_answers:,} ends of flows")
    say(f"  {n_found} clouds in which they differ; what was answered, of all ends:")
    say(f"{tally.table()}\n")
    return n_found


def at_hosts(what: str, asked_of: Asked, first: int) -> int:
    """Hold the walker against the documents of one subject; return how many clouds differ."""
    tally, n_found = Tally(), 0
    began_at = time.monotonic()
    for number, found in asked_of(range(first, first + N_HOST_CLOUDS), N_FLOWS, tally):
        n_found += 1
        if n_found <= MAX_FOUND:
            say(f"cloud {number} of {what}: {found}")
    took_s = time.monotonic() - began_at
    say(f"documents against lines, {what}: {took_s:.0f} s")
    say(f"  {tally.n_clouds:,} clouds, {tally.n_flows:,} packets")
    say(f"  {n_found} clouds in which they differ; what was answered:")
    say(f"{tally.table()}\n")
    return n_found


def wire(first: int) -> int:
    """Hold the real kernel against the documents; return how many packets differ."""
    n_wrong = 0
    for backend in ("nft", "legacy"):
        began_at = time.monotonic()
        total = WireOutcome()
        for number in range(first, first + N_WIRE_CLOUDS):
            outcome = on_the_wire(number, N_WIRE_FLOWS, backend)
            total.n_sent += outcome.n_sent
            total.n_allowed += outcome.n_allowed
            total.n_denied += outcome.n_denied
            total.problems += outcome.problems
        for problem in total.problems[:MAX_FOUND]:
            say(problem)
        n_wrong += len(total.problems)
        say(
            f"documents against the wire, {backend}: {N_WIRE_CLOUDS} hosts, {total.n_sent:,} packets, "
            f"{total.n_allowed:,} came out, {total.n_denied:,} did not, "
            f"{len(total.problems)} differ, {time.monotonic() - began_at:.0f} s"
        )
    return n_wrong


def seeded_faults(first: int) -> int:
    """Seed every fault; return how many the rig did not see."""
    unseen = []
    worst = (0, "")
    seen_after = {
        name: flows_until_seen(asked_of, first, tamper)
        for faults, asked_of in (
            (FAULTS, asked),
            (HOST_FAULTS, asked_of_hosts),
            (NAT_FAULTS, asked_of_nat),
        )
        for name, tamper in faults.items()
    }
    for name, n_flows in seen_after.items():
        worst = max(worst, (n_flows, name))
        if n_flows < 0:
            unseen.append(name)
    say(f"\nseeded faults: {len(seen_after)}, of which {len(unseen)} were not seen {unseen or ''}")
    say(f"  the one that took longest to see: {worst[1]}, {worst[0]:,} flows\n")
    return len(unseen)


def flows_until_seen(asked_of: Asked, first: int, tamper: Tamper) -> int:
    """Return how many flows it takes to see the fault, in steps of a cloud; -1 if it is not seen."""
    tally = Tally()
    numbers = range(first, first + N_FAULT_CLOUDS)
    return tally.n_flows if next(asked_of(numbers, 100, tally, tamper), None) else -1


def main() -> int:
    """Run everything; return the exit code."""
    first = int(sys.argv[1]) if len(sys.argv) > 1 else secrets.randbelow(10**9)
    say(f"the first cloud is number {first}: `python -m tests.proof {first}` asks the same again\n")
    wrong = kept_cases() + documents_and_lines(first)
    wrong += at_hosts("host endpoints", asked_of_hosts, first)
    wrong += at_hosts("translated addresses", asked_of_nat, first)
    wrong += wire(first) + seeded_faults(first)
    say("ALL JUDGES AGREE" if not wrong else f"THE JUDGES DIFFER: {wrong} times, see above")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
