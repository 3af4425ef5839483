"""`--wait` and `--timeout`, and what is said when the stage was not reached. Shared by the writes."""

import argparse
import sys
from typing import Any

STAGES = ("accepted", "computed", "programmed")


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Declare the two flags."""
    parser.add_argument(
        "--wait", choices=STAGES, default="", help="return when it has come this far"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="at most (default 30)"
    )


def report(answer: dict[str, Any], wait: str) -> int:
    """Say who is late when the awaited stage was not reached; return the exit code."""
    status = answer.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions", [])}
    condition = conditions.get(wait.capitalize())
    if not wait or condition is None or condition.get("status") == "True":
        return 0
    sys.stderr.write(f"It is stored, but not yet {wait}: {condition.get('message', '')}\n")
    for laggard in status.get("laggards", []):
        sys.stderr.write(f"  {laggard.get('reason', laggard.get('host', ''))}\n")
    return 1
