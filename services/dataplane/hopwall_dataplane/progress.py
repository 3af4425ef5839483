"""How far a host has come, as its status will say.

A state is reached when it is in the kernel and the flows that it denies are cut: what is looked at them by may take
longer than what writes the tables, and meanwhile other states may be applied.

Pure.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """What is reached, and what is on the way.

    Shape: `_applied` are the states in the kernel whose flows are still looked at, as (how far looking must come,
           epoch, revision); of those that need the same only the last.
    """

    epoch: str = ""
    revision: int = 0
    #: What epoch and revision become once all that was handed on is in the kernel.
    goal: tuple[str, int] = ("", 0)
    #: There is a state to enforce, whoever gave it.
    armed: bool = False
    #: calc has given one in this life of the agent.
    in_sync: bool = False
    n_drift: int = 0
    _applied: deque[tuple[int, str, int]] = field(default_factory=deque)

    def apply(self, n_owed: int) -> None:
        """Note that the goal is in the kernel; it is reached when looking at flows comes as far as this."""
        if self._applied and self._applied[-1][0] == n_owed:
            self._applied.pop()
        self._applied.append((n_owed, *self.goal))

    def look(self, n_done: int) -> None:
        """Note how far looking at flows has come."""
        while self._applied and self._applied[0][0] <= n_done:
            _, self.epoch, self.revision = self._applied.popleft()
