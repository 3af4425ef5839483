"""What becomes of an op: driver → agent. Shared by every driver, so that siblings look alike."""

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """An IP family. A parameter, never a copied function."""

    V4 = "v4"
    V6 = "v6"

    @classmethod
    def of(cls, cidr: str) -> "Family":
        """Return the family of an address or network as text."""
        return cls.V6 if ":" in cidr else cls.V4


@dataclass(frozen=True, slots=True)
class Done:
    """The kernel holds it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It did not work now and may work later (a device is missing, the kernel was busy).

    After a retry the driver's picture of actual is in doubt: the agent reads it again.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The kernel will not have it, however often it is tried; parked until the desired value changes."""

    reason: str


Outcome = Done | Retry | Refused


@dataclass(slots=True)
class Turn:
    """What one turn of the loop did."""

    n_ops: int = 0
    #: Why not all of it could be done now; it is tried again. "" when all is done.
    held_by: str = ""
