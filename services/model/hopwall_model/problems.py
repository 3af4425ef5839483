"""What is wrong with an input: where, why in one sentence, and in a word for programs."""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T", bound=str)

#: More than this tells nobody anything, and costs.
MAX_PROBLEMS = 100


class Code(StrEnum):
    """The kinds of problem."""

    JSON = "json"  # not a JSON document, or one that two readers could understand differently
    SHAPE = "shape"  # a value of the wrong type, or none of the allowed ones
    UNKNOWN_FIELD = "unknown-field"
    MISSING = "missing"
    VALUE = "value"  # the right type, but not a valid value
    CONFLICT = "conflict"  # valid alone, but not beside another field
    LIMIT = "limit"  # too long, too deep or too many
    NOT_IMPLEMENTED = "not-implemented"  # valid in Calico, and not carried out here


class Problem(Struct, frozen=True, kw_only=True):
    """One wrong thing. `pointer` is a JSON pointer (RFC 6901) into the input; "" is all of it."""

    pointer: str
    reason: str
    code: Code


class Invalid(ValueError):
    """An input was refused; `problems` holds all that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{p.pointer or 'document'}: {p.reason}" for p in problems))
        self.problems = problems


def step(pointer: str, key: str | int) -> str:
    """Return the pointer to a member of what `pointer` points to (RFC 6901, 3)."""
    if isinstance(key, int):
        return f"{pointer}/{key}"
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


class Findings:
    """Gathers problems while a document is walked, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, pointer: str, reason: str, code: Code = Code.VALUE) -> None:
        """Note one problem; from `MAX_PROBLEMS` on they are only dropped, never accepted."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(pointer=pointer, reason=reason, code=code))

    def parsed(self, pointer: str, parse: Callable[[str], T], text: str) -> str:
        """Return the canonical text, or the text itself with its problem noted."""
        try:
            return parse(text)
        except ValueError as error:
            self.add(pointer, str(error))
            return text

    def stop(self) -> None:
        """Raise `Invalid` if anything was found."""
        if self.problems:
            raise Invalid(tuple(self.problems))
