"""Which verdicts are legal at a moment: the model that every probe is held against.

Pure. A change is begun when its write is sent, and settled when the API says that all hosts enforce it. While it is
under way the verdict before it and the one after it are both legal; at any other time exactly one is. What a state
says of a packet is asked of the documents themselves (`tests/proof/semantics.py`), of each end by itself: the two
hosts of a flow do not change at the same moment.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

from hopwall_model.resources import Resource, WorkloadEndpoint, key_of
from tests.proof.cloud import Cloud, Flow
from tests.proof.semantics import Semantics

_BOTH = frozenset({True, False})


@dataclass(slots=True)
class _Excuse:
    endpoints: frozenset[str]
    since: float
    until: float = math.inf


class Legal:
    """The states of a cloud by time. Times are of one monotonic clock, and never go back."""

    def __init__(self, first: Cloud) -> None:
        """Begin with a state that stands."""
        self._states = [Semantics(first)]
        self._begun = [-math.inf]
        self._what = ["the first state"]
        #: When a change was settled, and which: both ascend.
        self._settled_at = [-math.inf]
        self._settled = [0]
        self._excused: list[_Excuse] = []
        self._ends: dict[tuple[Flow, int], tuple[bool, bool]] = {}
        self._answers: dict[tuple[Flow, int, int], frozenset[bool]] = {}

    def begin(self, at: float, state: Cloud, what: str = "") -> int:
        """Note that a write which makes this state is about to be sent; return its number."""
        self._states.append(Semantics(state))
        self._what.append(what)
        self._begun.append(at)
        return len(self._states) - 1

    def settle(self, number: int, at: float) -> None:
        """Note that everybody enforces this state: no earlier one is legal from now on."""
        if number > self._settled[-1]:
            self._settled.append(number)
            self._settled_at.append(at)

    def excuse(self, since: float, *endpoints: str) -> "_Excuse":
        """Judge nothing of endpoints ("namespace/name") whose cables are pulled, until the excuse is given an end."""
        self._excused.append(_Excuse(frozenset(endpoints), since))
        return self._excused[-1]

    def when(self, at: float) -> str:
        """Say where among the changes a moment is, for whoever looks for a fault."""
        begun, settled = bisect_right(self._begun, at) - 1, bisect_right(self._settled_at, at) - 1
        if begun == 0:
            return "before the first change"
        words = f"{at - self._begun[begun]:.3f} s after change {begun} ({self._what[begun]}) began"
        if self._settled[settled] == begun:
            return f"{words}, {at - self._settled_at[settled]:.3f} s after it was settled"
        return f"{words}, which was not settled"

    @property
    def settled(self) -> bool:
        """Whether exactly one state is legal now."""
        return self._settled[-1] == len(self._states) - 1

    def may(self, flow: Flow, since: float, until: float) -> frozenset[bool]:
        """Return what may become of a packet that is under way between two moments: True is that it comes through."""
        if self._is_excused(flow, since, until):
            return _BOTH
        low = self._settled[bisect_right(self._settled_at, since) - 1]
        high = bisect_right(self._begun, until) - 1
        key = (flow, low, high)
        found = self._answers.get(key)
        if found is None:
            ends = [self._at_ends(flow, number) for number in range(low, high + 1)]
            found = frozenset(e and i for e, _ in ends for _, i in ends)
            self._answers[key] = found
        return found

    def _is_excused(self, flow: Flow, since: float, until: float) -> bool:
        if not self._excused:
            return False
        touched = {flow.sender, self._owner(flow)}
        return any(
            one.since <= until and since <= one.until and touched & one.endpoints
            for one in self._excused
        )

    def _owner(self, flow: Flow) -> str:
        owners = (state.owners.get(flow.destination) for state in self._states)
        return next((_name(owner) for owner in owners if owner is not None), "")

    def _at_ends(self, flow: Flow, number: int) -> tuple[bool, bool]:
        """Return whether it leaves the sender, and whether it comes to the receiver."""
        key = (flow, number)
        found = self._ends.get(key)
        if found is None:
            found = self._ends[key] = _ends(self._states[number], flow)
        return found


def _ends(state: Semantics, flow: Flow) -> tuple[bool, bool]:
    # Who is not declared is closed at both ends.
    sender, receiver = state.endpoints.get(flow.sender), state.owners.get(flow.destination)
    leaves = sender is not None and state.leaving(sender, flow).verdict == "allow"
    comes = receiver is not None and state.decide(receiver, flow, "Ingress").verdict == "allow"
    return leaves, comes


def _name(endpoint: WorkloadEndpoint) -> str:
    return f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"


def with_resource(state: Cloud, *resources: Resource) -> Cloud:
    """Return a state with resources put in, each in the place of the one of its name."""
    new = {key_of(one): one for one in resources}
    return (*(one for one in state if key_of(one) not in new), *new.values())


def without_resource(state: Cloud, resource: Resource) -> Cloud:
    """Return a state with a resource taken out."""
    return tuple(one for one in state if key_of(one) != key_of(resource))
