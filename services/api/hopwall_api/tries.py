"""What a write is planned on, what was sent for it, and what was found of that.

Pure values. A refusal of the server does not say that nothing is stored, so each try is kept until the answer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hopwall_api import restoring
from hopwall_api.intent import Condition, Plan
from hopwall_api.outcomes import Written
from hopwall_api.pools import POOL
from hopwall_api.store import Held
from hopwall_model import topics
from hopwall_model.events import RestoreBegun
from hopwall_model.resources import Key
from hopwall_runtime.link import Append


class Known(NamedTuple):
    """What a write is planned on: what is held of its keys, the last word on any pool, and on restores."""

    held: Mapping[Key, Held]
    last_pool: int
    mark: int
    #: The restore that is under way.
    begun: RestoreBegun | None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What of this a write may be stored on the condition of."""
        return (
            Condition(subjects=topics.kind_subjects(POOL), last=self.last_pool),
            Condition(subjects=restoring.SUBJECT, last=self.mark),
        )


class Sent(NamedTuple):
    """One try of a write: what was meant, the events that were sent for it, as a part of which restore, and in which history."""

    plans: Sequence[Plan]
    appends: Sequence[Append]
    restores: str
    lineage: int

    @property
    def base(self) -> int:
        """What the last of these events was to stand behind, on its subject."""
        writes = [plan for plan in self.plans if plan.event is not None]
        return writes[-1].expected if writes else self.appends[-1].expected


class Looked(NamedTuple):
    """What a look for one's own writes has found, and whether what was not found is sure not to be stored."""

    found: "Found | None"
    sure: bool


class Found(NamedTuple):
    """A try that is stored, by its number, and what was written by it."""

    number: int
    written: tuple[Written, ...]


def is_with_nothing(
    plans: Sequence[Plan], asked: Mapping[Key, Held], conditions: Sequence[Condition] = ()
) -> bool:
    """Tell whether a conflict was met that is not there: the server holds what each write expected."""
    return all(
        plan.expected == asked[plan.key].last and plan.among in (None, *conditions)
        for plan in plans
        if plan.event is not None
    )
