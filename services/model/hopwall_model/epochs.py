"""Which life of calc is obeyed where several speak: the one that began last, as long as it is heard (decision 35).

The name of an epoch is `<store>.<life>.<term>`: whose intent it speaks of, which process speaks, and a number that
grows with each that begins. What calc adds to a name when it begins anew by itself makes a later one of the same
term. Names without a term are of versions that knew none, and are obeyed whenever they are heard.

Pure.
"""

import math
from dataclasses import dataclass

#: Three heartbeats of calc: who says nothing for longer is not heard any more.
SILENT_S = 15.0
_AGAIN = "+"


def epoch_name(store: str, life: str, term: int) -> str:
    """Return the name of a new epoch."""
    return ".".join(part for part in (store, life, str(term)) if part)


def term_of(epoch: str) -> int:
    """Return the term in an epoch's name; 0 where it has none."""
    last = epoch.rstrip(_AGAIN).rpartition(".")[2]
    return int(last) if last.isascii() and last.isdecimal() else 0


@dataclass(slots=True)
class Succession:
    """What one process has heard of calc's lives, and which it obeys. Times are of one monotonic clock."""

    epoch: str = ""
    revision: int = 0
    heard_at: float = -math.inf
    #: The highest term of all that were heard of.
    highest: int = 0
    #: Not heard, but kept from an earlier life of this process.
    is_recalled: bool = False

    def obeys(self, epoch: str, revision: int, now: float) -> bool:
        """Take note of what an epoch says; tell whether it is to be believed.

        One that began before the last is obeyed again only when that has fallen silent, and only if it knows no less.
        Of the same intent, one of another life that knows less than the last is obeyed only when that has fallen
        silent, too: it reads what the other has read.
        """
        term = term_of(epoch)
        self.highest = max(self.highest, term)
        if epoch == self.epoch:
            self.revision = max(self.revision, revision)
        elif not term or self._gives_way(epoch, term, revision, now):
            self.epoch, self.revision = epoch, revision
        else:
            return False
        self.heard_at, self.is_recalled = now, False
        return True

    def recalls(self, epoch: str, revision: int, now: float) -> None:
        """Take who was obeyed before a restart for one that was just heard; who then stays silent is forgotten."""
        self.epoch, self.revision, self.heard_at, self.is_recalled = epoch, revision, now, True

    def begins(self, epoch: str, now: float) -> None:
        """Note that this process begins an epoch itself."""
        self.epoch, self.revision, self.heard_at = epoch, 0, now

    def next_term(self, now_ms: int) -> int:
        """Return the term of an epoch that begins now: above all that were heard of, whatever the clock says."""
        self.highest = max(now_ms, self.highest + 1)
        return self.highest

    def _gives_way(self, epoch: str, term: int, revision: int, now: float) -> bool:
        """Tell whether who was obeyed gives way to another epoch that has a term."""
        is_silent = now - self.heard_at > SILENT_S
        knows_less = revision < self.revision
        if (term, epoch) < (term_of(self.epoch), self.epoch):
            return is_silent and (self.is_recalled or not knows_less)
        return is_silent or not (knows_less and _of_two_lives(epoch, self.epoch))


def _of_two_lives(one: str, other: str) -> bool:
    """Tell whether two epochs are of two processes, and of the same intent."""
    (store, life), (another_store, another_life) = map(_origin_of, (one, other))
    return store == another_store and life != another_life


def _origin_of(epoch: str) -> tuple[str, str]:
    """Return the store and the life in an epoch's name."""
    store, _, life = epoch.rpartition(".")[0].rpartition(".")
    return store, life
