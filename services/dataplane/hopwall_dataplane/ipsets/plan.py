"""Wanted sets against sets in the kernel → the fewest ops, and outcomes → what we now know.

Goals, in order:
1. Additions and removals are separate plans, so that a rule never names a set that is not filled.
2. The cost follows the change: one member of one set is one op, however many sets there are.
3. A set that must be another kind of set, or a larger one, is built aside and swapped in; packets see
   old or new. It never shrinks: room that is not used costs nothing.

Pure. It refuses to know which rules use a set: the agent orders the subsystems.
"""

from collections.abc import Mapping, Sequence, Set

from msgspec import structs

from hopwall_dataplane.delta import ABSENT, Absent, Delta
from hopwall_dataplane.ipsets.elements import (
    START_HASH,
    AddElements,
    Content,
    CreateSet,
    DelElements,
    DestroySet,
    Element,
    ElementsRefused,
    Mark,
    SetOp,
    SetSpec,
    SwapSets,
)
from hopwall_dataplane.outcome import Outcome, Refused, Retry
from hopwall_model.names import TEMPORARY_SUFFIX

ElementDelta = Delta[Element, Mark | None]


class AddressSets:
    """Desired and actual of all our sets.

    Owner: the one task that owns the driver.
    """

    def __init__(self) -> None:
        """Begin with nothing wanted and nothing there."""
        self._specs: Delta[str, SetSpec] = Delta()
        self._contents: dict[str, ElementDelta] = {}
        #: Wanted sets whose content differs: so that nobody has to walk all sets to find them.
        self._unsettled: set[str] = set()
        #: Sets of whose content the kernel refused something.
        self._partial: set[str] = set()

    def __bool__(self) -> bool:
        """Say whether anything is pending, in O(1)."""
        return bool(self._specs or self._unsettled)

    @property
    def specs(self) -> Delta[str, SetSpec]:
        """The sets without their content; to be read, not changed."""
        return self._specs

    @property
    def actual(self) -> dict[str, tuple[SetSpec, Content]]:
        """What the kernel holds, as far as we know."""
        specs = self._specs.actual
        return {name: (spec, dict(self.content(name).actual)) for name, spec in specs.items()}

    @property
    def refused(self) -> dict[str, str]:
        """The wanted sets that the kernel does not hold as they are wanted, as it refuses, and why."""
        wanted = self._specs.desired
        found = {name: reason for name, reason in self._specs.parked.items() if name in wanted}
        for name in self._partial:
            parked = self._contents[name].parked
            first = min(parked)
            found[name] = f"{len(parked)} members are refused, first {first.cidr}: {parked[first]}"
        return found

    def content(self, name: str) -> ElementDelta:
        """Return the content of a set; to be read, not changed."""
        held = self._contents.get(name)
        return Delta() if held is None else held

    def set_desired(self, spec: SetSpec) -> None:
        """Want this set; its content is told by `set_element`."""
        self._specs.set_desired(spec.name, spec)
        self._give_room(spec.name)
        self._touch(spec.name)

    def remove_desired(self, name: str) -> None:
        """Want the set gone, and its content with it.

        Cost: O(n) in the set.
        """
        self._specs.remove_desired(name)
        held = self._contents.pop(name, None)
        self._unsettled.discard(name)
        self._partial.discard(name)
        if held is not None and held.actual:
            self._delta(name).replace_actual(held.actual)

    def set_element(self, name: str, element: Element, mark: Mark | None = None) -> None:
        """Want an element, with this mark, in a set that is wanted (before or after)."""
        self._delta(name).set_desired(element, mark)
        self._touch(name)

    def remove_element(self, name: str, element: Element) -> None:
        """Want an element of a set gone."""
        self._delta(name).remove_desired(element)
        self._touch(name)

    def replace_actual(self, actual: Mapping[str, tuple[SetSpec, Content]]) -> None:
        """Take a fresh reading of the kernel for the whole truth.

        Cost: O(n) in all elements of both sides.
        """
        self._specs.replace_actual({name: spec for name, (spec, _) in actual.items()})
        for name in self._contents.keys() | actual.keys():
            self._delta(name).replace_actual(actual[name][1] if name in actual else {})
            self._give_room(name)
            self._touch(name)

    def replace_one(self, name: str, spec: SetSpec | Absent, content: Content) -> None:
        """Take a fresh reading of one set, which may be gone, for the truth.

        Cost: O(n) in its elements.
        """
        self._note(name, spec, content)
        self._give_room(name)
        self._touch(name)

    def unpark_all(self) -> None:
        """Let everything that was refused be tried once more; for a slow periodic refresh."""
        self._specs.unpark_all()
        for name, held in self._contents.items():
            held.unpark_all()
            self._touch(name)

    def plan_additions(self) -> list[SetOp]:
        """Return the ops that make sets and fill them.

        Shape:  stale or unfit sets destroyed, sets made, elements added, rebuilt sets swapped in, what was
                swapped out destroyed; each by name.
        Errors: never.
        Cost:   O(p log p) in pending sets and elements; 0 when nothing is pending.
        """
        destroys: list[SetOp] = []
        creates: list[SetOp] = []
        adds: list[SetOp] = []
        swaps: list[SetOp] = []
        made: set[str] = set()
        for name in self._unsettled:
            self._give_room(name)
        for name, spec in self._specs.pending_sets():
            made.add(name)
            target = spec
            held = self._specs.actual.get(name)
            if held is not None and (held.type, held.family) == (spec.type, spec.family):
                target = structs.replace(spec, name=name + TEMPORARY_SUFFIX)
                swaps += [SwapSets(name, target.name), DestroySet(target.name)]
            if target.name in self._specs.actual:
                destroys.append(DestroySet(target.name))
            desired = self._delta(name).desired
            creates.append(CreateSet(target, _hash_size(len(desired))))
            if desired:
                adds.append(AddElements(target, {key: desired[key] for key in sorted(desired)}))
        for name in sorted(self._unsettled - made):
            stands = self._specs.actual.get(name)
            if stands is not None and (pending := self._contents[name].pending_sets()):
                adds.append(AddElements(stands, dict(pending)))
        return destroys + creates + adds + swaps

    def moving(self) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        """Return, by set that stands, the networks that are about to come into it, and those to go out of it."""
        found = {}
        for name in self._unsettled & self._specs.actual.keys():
            self._give_room(name)
            held = self._contents[name]
            comes = frozenset(element.cidr for element, _ in held.pending_sets())
            goes = frozenset(element.cidr for element, _ in held.pending_removals())
            found[name] = comes, goes
        return found

    def stands(self, name: str) -> bool:
        """Tell whether a set stands as it is wanted, whatever is in it: its members move one by one."""
        stands = self._specs.actual.get(name)
        return stands is not None and stands == self._specs.desired.get(name)

    @property
    def remarks(self) -> bool:
        """Whether an element that stands is to be marked otherwise."""
        return any(
            element in held.actual
            for name in self._unsettled
            for held in (self._contents[name],)
            for element, _ in held.pending_sets()
        )

    def plan_closings(
        self,
        marks: Set[Mark],
        cidrs: Set[str],
        leaving: Set[str] = frozenset(),
        *,
        everybody: bool,
    ) -> list[SetOp]:
        """Return the ops that let elements mark nobody: those with one of these marks, those that are to be marked
        otherwise and are of these networks, or all of them; and those of networks that leave an interface.

        Shape:  by set; what is wanted of them stays, or becomes, pending.
        Cost:   O(p) in pending elements; with marks O(n) in all elements.
        """
        ops: list[SetOp] = []
        for name in sorted(self._contents if marks or leaving else self._unsettled):
            stands, held = self._specs.actual.get(name), self._contents[name]
            pending = held.pending_sets() if everybody or cidrs else ()
            changing = {element for element, _ in pending if everybody or element.cidr in cidrs}
            if leaving:
                changing |= {element for element in held.actual if element.cidr in leaving}
            found = {
                element: mark._replace(value=0)
                for element in sorted(held.actual if marks else changing & held.actual.keys())
                if (mark := held.actual[element]) is not None
                and (mark in marks or element in changing)
            }
            if stands is not None and found:
                ops.append(AddElements(stands, found))
        return ops

    def plan_removals(self) -> list[SetOp]:
        """Return the ops that take elements out and sets away.

        Shape:  deletions by set, then unwanted sets destroyed, by name.
        Errors: never.
        Cost:   O(p log p) in pending sets and elements; 0 when nothing is pending.
        """
        rebuilt = {name for name, _ in self._specs.pending_sets()}
        ops: list[SetOp] = []
        for name in sorted(self._unsettled - rebuilt):
            stands = self._specs.actual.get(name)
            if stands is not None and (pending := self._contents[name].pending_removals()):
                ops.append(DelElements(stands, tuple(element for element, _ in pending)))
        ops += [DestroySet(name) for name, _ in self._specs.pending_removals()]
        return ops

    def record(self, op: SetOp, outcome: Outcome) -> None:
        """Note what became of an op; a retry changes nothing and calls for a re-read."""
        if isinstance(outcome, Retry):
            return
        if isinstance(op, AddElements | DelElements):
            self._record_elements(op, outcome)
        elif isinstance(outcome, Refused):
            name = op.spec.name if isinstance(op, CreateSet) else op.name
            self._specs.park(name, outcome.reason)
            self._specs.park(name.removesuffix(TEMPORARY_SUFFIX), outcome.reason)
        elif isinstance(op, SwapSets):
            self._record_swap(op)
        elif isinstance(op, CreateSet):
            self._note(op.spec.name, op.spec, {})
        else:
            self._note(op.name, ABSENT, {})

    def _record_elements(self, op: AddElements | DelElements, outcome: Outcome) -> None:
        """Note what became of elements: refused ones are parked, the others hold."""
        name = op.spec.name
        held = self._delta(name)
        refused: Mapping[Element, str] = {}
        if isinstance(outcome, ElementsRefused):
            refused = outcome.elements
        elif isinstance(outcome, Refused):
            refused = dict.fromkeys(op.elements, outcome.reason)
        for element in op.elements:
            if element in refused:
                held.park(element, refused[element])
            elif isinstance(op, AddElements):
                held.mark_actual(element, op.elements[element])
            else:
                held.mark_actual(element, ABSENT)
        self._touch(name)

    def _record_swap(self, op: SwapSets) -> None:
        """Let two sets exchange what they are and hold."""
        specs = self._specs.actual
        sides = (op.name, op.other)
        before = [(specs[side], dict(self._delta(side).actual)) for side in sides if side in specs]
        if len(before) == len(sides):
            for side, (spec, content) in zip(sides, reversed(before), strict=True):
                self._note(side, structs.replace(spec, name=side), content)

    def _note(self, name: str, spec: SetSpec | Absent, content: Content) -> None:
        """Note what a set now is and holds."""
        self._specs.mark_actual(name, spec)
        self._delta(name).replace_actual(content)
        self._touch(name)

    def _give_room(self, name: str) -> None:
        """Want a set as large as its content needs; one that stands and is larger stays as it is."""
        spec = self._specs.desired.get(name)
        if spec is None:
            return
        room, n = spec.maxelem, len(self.content(name).desired)
        while room < n:
            room *= 2
        held = self._specs.actual.get(name)
        if held is not None and held.maxelem > room:
            larger = structs.replace(spec, maxelem=held.maxelem)
            room = held.maxelem if larger == held else room
        if room != spec.maxelem:
            self._specs.set_desired(name, structs.replace(spec, maxelem=room))

    def _delta(self, name: str) -> ElementDelta:
        """Return the content of a set, made when it is new."""
        held = self._contents.get(name)
        if held is None:
            held = self._contents[name] = Delta()
        return held

    def _touch(self, name: str) -> None:
        """Put one set where it belongs, and forget it when nobody knows it any more."""
        wanted = name in self._specs.desired
        held = self._contents.get(name)
        if wanted and held is not None and held.parked:
            self._partial.add(name)
        else:
            self._partial.discard(name)
        if wanted and held:
            self._unsettled.add(name)
            return
        self._unsettled.discard(name)
        forgotten = held is not None and not held.desired and not held.actual
        if forgotten and not wanted and name not in self._specs.actual:
            del self._contents[name]


def standing(ops: Sequence[SetOp]) -> list[SetOp]:
    """Keep what makes sets stand, so that lines can name them; not the building of ones to be swapped in."""
    found: list[SetOp] = []
    for op in ops:
        if isinstance(op, CreateSet | DestroySet):
            name = op.spec.name if isinstance(op, CreateSet) else op.name
            if not name.endswith(TEMPORARY_SUFFIX):
                found.append(op)
    return found


def _hash_size(n_elements: int) -> int:
    """Return the slots for a set that is filled at once: enough that the kernel need not double them on the way."""
    size = START_HASH
    while size * 4 < n_elements:
        size *= 2
    return size
