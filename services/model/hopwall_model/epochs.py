"""Which life of calc is obeyed where several speak: the one that began last, as long as it is heard (decision 35).

The name of an epoch is `<store>.<chance>.<term>`: whose intent it speaks of, and a number that grows with each that
begins. What calc adds to a name when it begins anew by itself makes a later one of the same term. Names without a
term are of versions that knew none, and are obeyed whenever they are heard.

Pure.
"""

import math
from dataclasses import dataclass

#: Three heartbeats of calc: who says nothing for longer is not heard any more.
SILENT_S = 15.0
_AGAIN = "+"


def epoch_name(store: str, chance: str, term: int) -> str:
    """Return the name of a new epoch."""
    return ".".join(part for part in (store, chance, str(term)) if part)


def term_of(epoch: str) -> int:
    """Return the term in an epoch's name; 0 where it has none."""
    last = epoch.rstrip(_AGAIN).rpartition(".")[2]
    return int(last) if last.isascii() and last.isdecimal() else 0


def store_of(epoch: str) -> str:
    """Return whose intent an epoch's name speaks of; "" where it does not say."""
    parts = epoch.split(".")
    return parts[0] if len(parts) == 3 else ""


@dataclass(slots=True)
class Succession:
    """What one process has heard of calc's lives, and which it obeys. Times are of one monotonic clock."""

    epoch: str = ""
    revision: int = 0
    heard_at: float = -math.inf
    #: The highest term of all that were heard of.
    highest: int = 0

    def obeys(self, epoch: str, revision: int, now: float) -> bool:
        """Take note of what an epoch says; tell whether it is to be believed.

        One that began before the last is obeyed again only when that has fallen silent, and only if it knows no less.
        """
        term = term_of(epoch)
        self.highest = max(self.highest, term)
        if epoch == self.epoch:
            self.revision = max(self.revision, revision)
        elif not term or self._follows(epoch, term) or self._is_left(revision, now):
            self.epoch, self.revision = epoch, revision
        else:
            return False
        self.heard_at = now
        return True

    def next_term(self, now_ms: int) -> int:
        """Return the term of an epoch that begins now: above all that were heard of, whatever the clock says."""
        self.highest = max(now_ms, self.highest + 1)
        return self.highest

    def _follows(self, epoch: str, term: int) -> bool:
        return (term, epoch) > (term_of(self.epoch), self.epoch)

    def _is_left(self, revision: int, now: float) -> bool:
        return now - self.heard_at > SILENT_S and revision >= self.revision
