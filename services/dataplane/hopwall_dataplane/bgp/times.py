"""Times as BIRD prints them: which two mean the same moment.

Pure. BIRD keeps a moment on its monotonic clock and makes wall time of it anew each time it prints: the present wall
time less the moment's age, by two clocks read one after the other. So one moment is printed some milliseconds apart
now and then (5 were seen in 18,000 questions). A change of state is printed as time of day for 20 hours, then as a
date. When the wall clock itself is set, all moments are others.
"""

import re
from datetime import date, datetime, time, timedelta

from msgspec import structs

from hopwall_model.status import BgpSession, BgpStatus

#: Far above what BIRD itself may take between its two clocks; a session does not open and end within it.
_APART = timedelta(seconds=1)
_DAY = timedelta(days=1)
_TIME = re.compile(r"(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d:\d\d(?:\.\d{3}|\.\d{6})?)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
#: The day of a time that is told without one.
_SOME_DAY = date(2000, 1, 1)


def same(before: str, now: str) -> bool:
    """Tell whether what BIRD printed before and what it prints now may be one moment.

    A date alone is more than 20 hours old: longer than anything is waited for, so it begins nothing new.
    """
    return before == now or _jittered(before, now) or _DATE.fullmatch(now) is not None


def kept(before: str, now: str) -> str:
    """Return the words for a moment: those read first, as long as they differ from the new ones by jitter alone."""
    return before if _jittered(before, now) else now


def steady(before: BgpStatus | None, now: BgpStatus | None) -> BgpStatus | None:
    """Return a status whose times are those of the status before wherever only BIRD's printing differs."""
    if before is None or now is None:
        return now
    known = {session.name: session for session in before.sessions}
    return structs.replace(
        now,
        last_reconfigured=kept(before.last_reconfigured, now.last_reconfigured),
        sessions=tuple(_steady(known.get(session.name), session) for session in now.sessions),
    )


def _steady(before: BgpSession | None, now: BgpSession) -> BgpSession:
    if before is None or before.state != now.state:
        return now
    return structs.replace(now, since=kept(before.since, now.since))


def _jittered(before: str, now: str) -> bool:
    """Tell whether both are times of one form, and hardly apart; of day: around midnight too."""
    a, b = _moment(before), _moment(now)
    if a is None or b is None or a[0] != b[0]:
        return False
    apart = abs(a[1] - b[1])
    return min(apart, abs(_DAY - apart)) < _APART if not a[0] else apart < _APART


def _moment(text: str) -> tuple[bool, datetime] | None:
    """Return whether a time says its day, and the time; None where it is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    try:
        day = date.fromisoformat(found[1]) if found[1] else _SOME_DAY
        return found[1] is not None, datetime.combine(day, time.fromisoformat(found[2]))
    except ValueError:
        return None
