"""What a restore that is under way, or begins beside a write, means for the write.

Pure. A part of a restore is stored on the condition that this restore is the last that has begun; all others are
refused while one is under way, and not acknowledged where they were stored within one.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from hopwall_api import problems
from hopwall_api.intent import Condition, Plan
from hopwall_api.problems import ApiProblem
from hopwall_model import topics
from hopwall_model.events import RESTORE, RestoreBegun

SUBJECT = topics.event_subject(RESTORE)


def check(begun: RestoreBegun | None, file: str) -> None:
    """Refuse a write while a restore is under way, and a part of a restore (of this file) that is not.

    Errors: ApiProblem 409, 503.
    """
    if file:
        if begun is None or begun.file != file:
            raise problems.conflict("No restore of this file is under way; begin it.")
    elif begun is not None:
        raise problems.unavailable(
            f"A restore has begun at {begun.at} and has not ended; nothing is written until then."
            " `hopwall restore` of the same file goes on with it.",
            retry_after_s=5,
        )


def bound(plans: Sequence[Plan], mark: int) -> Sequence[Plan]:
    """Return the plans of a part on the condition that no restore has begun or ended since this mark.

    Shape:  the first that is written bears it, instead of its own resource's: nobody else writes meanwhile.
    """
    for index, plan in enumerate(plans):
        if plan.event is not None:
            among = Condition(subjects=SUBJECT, last=mark)
            return [*plans[:index], replace(plan, among=among), *plans[index + 1 :]]
    return plans


def beside(revision: int) -> ApiProblem:
    """Return what is said of a write that is stored within a restore."""
    return problems.unavailable(
        f"A restore had begun when this was written: it is stored as revision {revision}, and the restore may undo it."
        " When the restore has ended, read the resource, or repeat the request.",
        retry_after_s=5,
    )


def unheard(revision: int) -> ApiProblem:
    """Return what is said of a write of which nobody says whether it stands within a restore."""
    return problems.unavailable(
        f"It is stored as revision {revision}, but NATS does not say whether a restore had begun before, which may"
        " undo it. Read the resource when /readyz is ok again, or repeat the request.",
        retry_after_s=5,
    )
