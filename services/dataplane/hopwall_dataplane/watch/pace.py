"""When a subsystem in doubt is read again: at once, less often under noise, slowly in a fight.

Pure. A reading is what finds damage, and the repair follows it: whoever paces readings paces repairs.
"""

from collections import deque
from collections.abc import Iterable

#: What belongs to one change arrives within this time.
SETTLE_S = 0.01
#: Readings are this close together at most. After some that found nothing of ours, they take at most a
#: tenth of the time, yet come at least once in the longest gap.
_NOISE = 3
_SHARE = 10
_GAP_S = (0.1, 5.0)
#: Noise that paused this long is over.
_QUIET_S = 5.0
#: An object that was put right this often within the window is fought over.
FREE_REPAIRS = 20
_WINDOW_S = 60.0
#: How far apart repairs are in a fight: from, to.
_FIGHT_S = (1.0, 10.0)


class Pace:
    """The pace of one subsystem, or of one table.

    Shape: `_repairs` is object → when it was put right, within the window; `_n_empty` counts the readings in
           a row that found nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing in doubt."""
        self._asked_at: float | None = None
        self._not_before = 0.0
        self._n_empty = 0
        self._repairs: dict[str, deque[float]] = {}

    def ask(self, now: float) -> None:
        """Note that a reading is wanted."""
        if self._asked_at is None:
            self._asked_at = now

    def due_in_s(self, now: float) -> float | None:
        """Return the seconds until the reading that is wanted; None when none is."""
        if self._asked_at is None:
            return None
        return max(0.0, max(self._asked_at + SETTLE_S, self._not_before) - now)

    def took(self) -> None:
        """Note that what was wanted is being read."""
        self._asked_at = None

    def read(self, now: float, cost_s: float, repaired: Iterable[str]) -> None:
        """Note what a reading cost, and which objects it found damaged."""
        names = list(repaired)
        for name in names:
            self._repairs.setdefault(name, deque()).append(now)
        self._forget(now)
        quiet = now > self._not_before + _QUIET_S
        self._n_empty = 0 if names or quiet else self._n_empty + 1
        gap = _GAP_S[0]
        if self._n_empty >= _NOISE:
            gap = min(max(gap, _SHARE * cost_s), _GAP_S[1])
        most = max(map(len, self._repairs.values()), default=0)
        if most > FREE_REPAIRS:
            gap = max(gap, min(_FIGHT_S[0] * 2 ** (most - FREE_REPAIRS - 1), _FIGHT_S[1]))
        self._not_before = now + gap

    def fights(self, now: float) -> dict[str, int]:
        """Return the objects that are fought over, and how often each was put right in the last minute."""
        self._forget(now)
        return {name: len(at) for name, at in self._repairs.items() if len(at) >= FREE_REPAIRS}

    def _forget(self, now: float) -> None:
        """Drop what left the window."""
        for name, at in list(self._repairs.items()):
            while at and at[0] < now - _WINDOW_S:
                at.popleft()
            if not at:
                del self._repairs[name]
