"""`make test-fuzz`: hostile input at length. Ends with 1 at any crash, broken law, or line the kernel refuses.

`python -m tests.fuzz [SEED]` makes the same inputs again; without it they are ones nobody has seen. With
`SHARE=0.01` in the environment it makes so much of them only.
"""

import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.fuzz import kernel, rest

#: Inputs per target: the cheap ones many.
RUNS = {
    "selector": 400_000,
    "resource": 150_000,
    "document": 40_000,
    "event": 150_000,
    "update": 60_000,
    "message": 150_000,
    "save": 60_000,
    "answer": 150_000,
    "settings": 20_000,
}
N_POLICIES = 3_000
N_EXAMPLES = 60
_PATIENCE_S = 1200


@dataclass(frozen=True)
class Row:
    """What became of one way in."""

    name: str
    n_inputs: int
    faults: tuple[str, ...]
    took_s: float


def guided(name: str, runs: int, seed: int) -> Row:
    """Run one target under the coverage-guided fuzzer, in a process of its own."""
    began_at = time.monotonic()
    argv = [sys.executable, "-m", "tests.fuzz.coverage", name, str(runs), str(seed % 2**31)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    n_done = next(
        (int(line.split()[-1]) for line in done.stderr.splitlines() if "executed_units" in line), 0
    )
    faults = () if done.returncode == 0 and n_done >= runs else (_fault(done.stderr),)
    return Row(name, n_done, faults, time.monotonic() - began_at)


def _fault(stderr: str) -> str:
    """Return what was raised, with the input that did it."""
    lines = stderr.splitlines()
    raised = [line for line in lines if "Error" in line or "Base64:" in line or "ALARM" in line]
    return " | ".join(raised[:4]) or " | ".join(lines[-3:])


def rows(seed: int, share: float) -> list[Row]:
    """Do all of it, a line printed as each is done."""
    found = []

    def note(row: Row) -> None:
        found.append(row)
        text = f"{row.name:<28}{row.n_inputs:>10,}{len(row.faults):>8}{row.took_s:>8.0f} s"
        sys.stdout.write("\n  ".join((text, *row.faults[:5])) + "\n")
        sys.stdout.flush()

    for name, runs in RUNS.items():
        note(guided(name, max(100, int(runs * share)), seed))
    for backend in ("nft", "legacy"):
        began_at, count = time.monotonic(), max(20, int(N_POLICIES * share))
        _, refused = kernel.refused_by_kernel(seed, count, backend)
        note(Row(f"policies to {backend}", count, tuple(refused), time.monotonic() - began_at))
    began_at = time.monotonic()
    n_calls, wrong = rest.called(max(2, int(N_EXAMPLES * share)), seed % 2**31)
    note(Row("calls over REST", n_calls, tuple(wrong), time.monotonic() - began_at))
    return found


def main() -> int:
    """Print the table and return the exit code."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else secrets.randbelow(2**31)
    sys.stdout.write(f"seed {seed}\n{'way in':<28}{'inputs':>10}{'faults':>8}{'took':>10}\n")
    found = rows(seed, float(os.environ.get("SHARE", "1")))
    n_faults = sum(len(row.faults) for row in found)
    sys.stdout.write(f"{sum(row.n_inputs for row in found):,} inputs, {n_faults} faults\n")
    return 1 if n_faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
