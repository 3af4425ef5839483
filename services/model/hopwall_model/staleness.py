"""How the API says that what it shows may be old: a header of its answers, and two events of a running watch."""

from msgspec import Struct

#: On what was read while NATS is not heard: how many seconds ago what is shown was surely the stream.
HEADER = "Hopwall-Stale"
#: The events of a watch: what was shown may be old from now on; it is not any more, and nothing was missed.
STALE, FRESH = "stale", "fresh"
_DIGITS = 9


class Age(Struct, frozen=True, kw_only=True):
    """What goes with the events. Units: seconds, 0 when it is over."""

    seconds: int


def seconds_of(text: str) -> int:
    """Return what the header says; 0 where it says nothing that is a number."""
    return int(text[:_DIGITS]) if text.isascii() and text.isdigit() else 0
