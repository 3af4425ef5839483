"""The only place that knows what time it is. Cores take times as values."""

import time
from datetime import UTC, datetime


def now_text() -> str:
    """Return the wall clock as RFC 3339 in UTC with milliseconds: for people, never for ordering."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def monotonic() -> float:
    """Return seconds on a clock that never jumps."""
    return time.monotonic()


def file_time() -> float:
    """Return the wall clock as files have it: to tell how old one is."""
    return datetime.now(UTC).timestamp()
