import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.ipsets.elements import (
    AddElements,
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
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.outcome import Done, Family, Outcome, Refused, Retry

World = dict[str, tuple[SetSpec, dict[Element, Mark | None]]]

NETS = SetSpec("hw4-a", "hash:net", Family.V4)
MARKS = SetSpec("hw4-a", "hash:net", Family.V4, skbinfo=True)
HOSTS = SetSpec("hw4-a", "hash:ip", Family.V4)
ONE = Element("10.0.0.1/32")
TWO = Element("10.0.0.2/32")


class _Kernel:
    """Sets as the kernel keeps them, in memory."""

    def __init__(self, world: World, bad: Element | None = None, busy: str = "") -> None:
        self.world = world
        self.bad = bad
        self.busy = busy

    def apply(self, op: SetOp) -> Outcome:
        """Do one op as the driver would."""
        if isinstance(op, CreateSet):
            if op.spec.name in self.world:
                return Retry("stands already")
            self.world[op.spec.name] = (op.spec, {})
            return Done()
        if isinstance(op, DestroySet):
            if op.name == self.busy:
                return Retry("in use")
            self.world.pop(op.name, None)
            return Done()
        if isinstance(op, SwapSets):
            return self.swap(op)
        return self.change(op)

    def swap(self, op: SwapSets) -> Outcome:
        """Swap, as the kernel does: only sets of one type and family."""
        (one, mine), (other, theirs) = self.world[op.name], self.world[op.other]
        assert (one.type, one.family) == (other.type, other.family)
        self.world[op.name] = (structs.replace(other, name=op.name), theirs)
        self.world[op.other] = (structs.replace(one, name=op.other), mine)
        return Done()

    def change(self, op: AddElements | DelElements) -> Outcome:
        """Add or delete, refusing the one bad element."""
        if op.spec.name not in self.world:
            return Retry("no such set")
        assert self.world[op.spec.name][0] == op.spec
        held = self.world[op.spec.name][1]
        refused = {element: "bad" for element in op.elements if element == self.bad}
        for element in op.elements:
            if isinstance(op, DelElements):
                held.pop(element, None)
            elif element not in refused:
                held[element] = op.elements[element]
        return ElementsRefused("bad", refused) if refused else Done()


def run(sets: AddressSets, kernel: _Kernel) -> list[SetOp]:
    """Plan and apply once, additions and then removals, and return the ops."""
    done: list[SetOp] = []
    for plan in (sets.plan_additions, sets.plan_removals):
        for op in plan():
            sets.record(op, kernel.apply(op))
            done.append(op)
    return done


def reading(kernel: _Kernel) -> World:
    """Return a copy of what the kernel holds."""
    return {name: (spec, dict(content)) for name, (spec, content) in kernel.world.items()}


def test_new_set_is_made_and_then_filled() -> None:
    """Sets come before elements, and a settled world has no ops."""
    sets = AddressSets()
    sets.set_element("hw4-a", ONE)
    assert not sets
    sets.set_desired(NETS)
    kernel = _Kernel({})
    assert run(sets, kernel) == [CreateSet(NETS), AddElements(NETS, {ONE: None})]
    assert not sets
    assert run(sets, kernel) == []


def test_one_member_is_one_op() -> None:
    """A member that joins or leaves costs one op on its own set."""
    sets = AddressSets()
    sets.replace_actual({"hw4-a": (NETS, {ONE: None})})
    sets.set_desired(NETS)
    sets.set_element("hw4-a", TWO)
    assert sets.plan_additions() == [AddElements(NETS, {TWO: None})]
    assert sets.plan_removals() == [DelElements(NETS, (ONE,))]


def test_another_mark_is_an_addition_and_never_a_removal() -> None:
    """An element changes its mark in place, so no packet meets a set without it."""
    sets = AddressSets()
    sets.replace_actual({"hw4-a": (MARKS, {ONE: Mark(1, 255)})})
    sets.set_desired(MARKS)
    sets.set_element("hw4-a", ONE, Mark(2, 255))
    assert sets.plan_additions() == [AddElements(MARKS, {ONE: Mark(2, 255)})]
    assert sets.plan_removals() == []


def test_other_spec_is_built_aside_and_swapped_in() -> None:
    """A set that stands is replaced in one step, whole, and what a crash left behind is cleared."""
    stale = SetSpec("hw4-a-t", "hash:net", Family.V4)
    sets = AddressSets()
    kernel = _Kernel({"hw4-a": (NETS, {TWO: None}), "hw4-a-t": (stale, {TWO: None})})
    sets.replace_actual(reading(kernel))
    sets.set_desired(MARKS)
    sets.set_element("hw4-a", ONE, Mark(1, 255))
    target = SetSpec("hw4-a-t", "hash:net", Family.V4, skbinfo=True)
    assert run(sets, kernel) == [
        DestroySet("hw4-a-t"),
        CreateSet(target),
        AddElements(target, {ONE: Mark(1, 255)}),
        SwapSets("hw4-a", "hw4-a-t"),
        DestroySet("hw4-a-t"),
    ]
    assert kernel.world == {"hw4-a": (MARKS, {ONE: Mark(1, 255)})}
    assert not sets


def test_other_type_cannot_be_swapped_and_is_made_anew() -> None:
    """The kernel swaps only equal types; another type is destroyed first, which a rule may hold up."""
    sets = AddressSets()
    kernel = _Kernel({"hw4-a": (HOSTS, {ONE: None})})
    sets.replace_actual(reading(kernel))
    sets.set_desired(NETS)
    sets.set_element("hw4-a", ONE)
    run(sets, kernel)
    assert kernel.world == {"hw4-a": (NETS, {ONE: None})}
    assert not sets


def test_a_set_that_outgrows_its_room_is_built_aside_twice_as_large() -> None:
    """A full set refuses members; one that was once larger, or was read back larger, stays so."""
    small = structs.replace(NETS, maxelem=1)
    sets = AddressSets()
    kernel = _Kernel({"hw4-a": (small, {ONE: None})})
    sets.replace_actual(reading(kernel))
    sets.set_desired(small)
    sets.set_element("hw4-a", ONE)
    assert run(sets, kernel) == []
    sets.set_element("hw4-a", TWO)
    target = SetSpec("hw4-a-t", "hash:net", Family.V4, maxelem=2)
    assert run(sets, kernel) == [
        CreateSet(target),
        AddElements(target, {ONE: None, TWO: None}),
        SwapSets("hw4-a", "hw4-a-t"),
        DestroySet("hw4-a-t"),
    ]
    sets.remove_element("hw4-a", TWO)
    assert run(sets, kernel) == [DelElements(structs.replace(small, maxelem=2), (TWO,))]
    again = AddressSets()
    again.set_desired(small)
    again.set_element("hw4-a", ONE)
    again.replace_actual(reading(kernel))
    assert run(again, kernel) == []


@pytest.mark.parametrize(("n", "slots"), [(0, 64), (256, 64), (257, 128), (100_000, 32768)])
def test_a_set_begins_with_slots_for_what_it_is_filled_with(n: int, slots: int) -> None:
    """Few members, little memory; many, no doubling on the way."""
    sets = AddressSets()
    sets.set_desired(NETS)
    for i in range(n):
        sets.set_element("hw4-a", Element(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32"))
    (create, *_) = sets.plan_additions()
    assert isinstance(create, CreateSet)
    assert create.hash_size == slots


def test_unwanted_set_goes_without_emptying_it_first() -> None:
    """Destroying a set is one op, whatever it holds, and a set in use stays pending."""
    sets = AddressSets()
    kernel = _Kernel({"hw4-a": (NETS, {ONE: None})}, busy="hw4-a")
    sets.replace_actual(reading(kernel))
    assert run(sets, kernel) == [DestroySet("hw4-a")]
    assert sets
    kernel.busy = ""
    assert run(sets, kernel) == [DestroySet("hw4-a")]
    assert not sets


def test_refused_set_is_not_tried_again() -> None:
    """A set the kernel will not make is parked with its elements, and the rest goes on."""
    sets = AddressSets()
    sets.set_desired(NETS)
    sets.set_element("hw4-a", ONE)
    sets.record(CreateSet(NETS), Refused("no such type"))
    assert sets.plan_additions() == []
    sets.unpark_all()
    assert sets.plan_additions() == [CreateSet(NETS), AddElements(NETS, {ONE: None})]


def test_refused_element_is_parked_alone() -> None:
    """One bad element holds up no other and is not tried again."""
    sets = AddressSets()
    sets.set_desired(NETS)
    sets.set_element("hw4-a", ONE)
    sets.set_element("hw4-a", TWO)
    kernel = _Kernel({}, bad=ONE)
    run(sets, kernel)
    assert kernel.world == {"hw4-a": (NETS, {TWO: None})}
    assert not sets


names = st.sampled_from(["hw4-a", "hw4-b"])
elements = st.sampled_from([ONE, TWO, Element("10.1.0.0/16")])
marks = st.sampled_from([None, Mark(1, 255), Mark(2, 255)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("want"), names, st.sampled_from([NETS, MARKS, HOSTS])),
        st.tuples(st.just("unwant"), names),
        st.tuples(st.just("set"), names, elements, marks),
        st.tuples(st.just("unset"), names, elements),
        st.tuples(st.just("run")),
        st.tuples(st.just("reread")),
        st.tuples(st.just("meddle"), st.integers()),
    ),
    max_size=30,
)


class _Wanted:
    """What is wanted, kept dumbly."""

    def __init__(self) -> None:
        self.specs: dict[str, SetSpec] = {}
        self.content: dict[str, dict[Element, Mark | None]] = {}

    def world(self) -> World:
        """Return the world that is wanted."""
        return {name: (spec, self.content.get(name, {})) for name, spec in self.specs.items()}


def step(
    sets: AddressSets, wanted: _Wanted, kernel: _Kernel, name: str, arguments: list[object]
) -> None:
    """Do one step to the planner and to its dumb twin."""
    match name, arguments:
        case "want", [str(key), SetSpec() as spec]:
            spec = structs.replace(spec, name=key)
            sets.set_desired(spec)
            wanted.specs[key] = spec
        case "unwant", [str(key)]:
            sets.remove_desired(key)
            wanted.specs.pop(key, None)
            wanted.content.pop(key, None)
        case "set", [str(key), Element() as element, Mark() | None as mark]:
            sets.set_element(key, element, mark)
            wanted.content.setdefault(key, {})[element] = mark
        case "unset", [str(key), Element() as element]:
            sets.remove_element(key, element)
            wanted.content.get(key, {}).pop(element, None)
        case "run", _:
            run(sets, kernel)
            sets.replace_actual(reading(kernel))
        case "reread", _:
            sets.replace_actual(reading(kernel))
        case "meddle", [int(seed)]:
            meddle(kernel, random.Random(seed))
            sets.replace_actual(reading(kernel))


def meddle(kernel: _Kernel, chance: random.Random) -> None:
    """Change the kernel behind the planner's back."""
    for name in list(kernel.world):
        if chance.random() < 0.3:
            del kernel.world[name]
        else:
            kernel.world[name][1][Element("10.9.9.9/32")] = None


@given(steps)
def test_every_path_ends_at_what_is_wanted(steps: list[tuple[object, ...]]) -> None:
    """Whatever happened, one more run makes the kernel what is wanted, and a second does nothing."""
    sets, wanted, kernel = AddressSets(), _Wanted(), _Kernel({})
    for name, *arguments in steps:
        step(sets, wanted, kernel, str(name), arguments)
    assert bool(sets) == bool(sets.plan_additions() or sets.plan_removals())
    run(sets, kernel)
    assert kernel.world == wanted.world()
    assert not sets
    assert run(sets, kernel) == []
    sets.replace_actual(reading(kernel))
    assert not sets


@pytest.mark.parametrize("family", list(Family))
def test_plans_do_not_depend_on_the_order_of_arrival(family: Family) -> None:
    """Equal worlds have equal plans."""
    specs = [SetSpec(f"hw4-{c}", "hash:net", family) for c in "abc"]
    plans = []
    for order in (specs, specs[::-1]):
        sets = AddressSets()
        for spec in order:
            for element in (ONE, TWO) if order is specs else (TWO, ONE):
                sets.set_element(spec.name, element)
            sets.set_desired(spec)
        plans.append([repr(op) for op in sets.plan_additions()])
    assert plans[0] == plans[1]
