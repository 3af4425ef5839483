"""A service whose wall clock is wrong: `python -m tests.faults.skewed FILE PYTHON -m MODULE flags…`.

FILE holds by how many seconds, and may change at any time. All that a service asks of the wall clock is changed: what
it reads by `hopwall_runtime.clock`, the one place (tests/arch), and what libraries read by `time`. The clock that
never jumps stays, as in a kernel.
"""

import runpy
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from hopwall_runtime import clock

_true_time = time.time  # noqa: TID251 - here it is bent


def skew(file: Path) -> None:
    """Let the wall clock of this process be wrong from now on."""

    def wall() -> float:
        return _true_time() + float(file.read_text() or 0)

    def now_text() -> str:
        said = datetime.fromtimestamp(wall(), UTC).isoformat(timespec="milliseconds")
        return said.replace("+00:00", "Z")

    time.time = wall  # noqa: TID251
    time.time_ns = lambda: int(wall() * 1e9)
    clock.file_time = wall
    clock.now_text = now_text


def main() -> None:
    """Become the service."""
    file, _python, _m, *arguments = sys.argv[1:]
    skew(Path(file))
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
