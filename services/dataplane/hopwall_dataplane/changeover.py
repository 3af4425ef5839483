"""How a host gets from what its kernel holds to what is wanted, so that between the two nothing more is open.

Goals, in order:
1. Whatever stands between two ops lets by no packet that neither the old nor the new lets by (decision 30).
2. Whoever is judged the same before and after is not closed between them, where any order of the ops allows that.
3. What needs no order costs nothing.

Pure. It refuses to know what the ops after these are: tables, then whose an address is, then routes (`kernel`).
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.ipsets.elements import AddElements, DelElements, Mark, SetOp
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.routes.route import Route
from hopwall_dataplane.transition import Move, Transition, in_plain_order, plan
from hopwall_model.updates import SetId


@dataclass(frozen=True, slots=True)
class Changeover:
    """What comes before the tables.

    Shape: `closings` let addresses be nobody's, until the ops after the tables say whose they are; `members` make
           and fill sets, then move members between those that stand. `late` are the networks of which that is said
           only when their routes lead to the new owner.
    """

    closings: list[SetOp]
    members: list[SetOp]
    late: frozenset[str]


def change_over(
    desired: Desired, tables: Mapping[tuple[Family, TableName], TableState]
) -> Changeover:
    """Find who must be nobody meanwhile, and in which order members move."""
    moves, rebuilt = _moves(desired)
    named = desired.chains.are_named({move.set_id for move in moves} | rebuilt)
    transition = _transition(desired, moves, rebuilt)
    unsafe = set(transition.unsafe)
    rewritten: set[str] = set()
    going = _going(desired)
    late, leaving = frozenset(route.cidr for route in going), _leaving(desired, going)
    if named or desired.identity.remarks or leaving:
        rewritten = desired.chains.rewritten(tables)
    if rewritten and named:
        unsafe |= _mixed(desired, tables, rewritten)
    everybody = named or bool(rewritten)
    closings = desired.identity.plan_closings(
        _marks(desired, unsafe),
        late,
        leaving if everybody else frozenset(),
        everybody=everybody,
    )
    return Changeover(closings, _in_order(desired, transition.order), late)


def _mixed(
    desired: Desired, tables: Mapping[tuple[Family, TableName], TableState], rewritten: Set[str]
) -> set[PolicyList]:
    """Return the lists that are about to be written otherwise, and would let by a mixture until then.

    What the kernel's chains say is not known, but which sets they name. A list of which none names one that moves is
    the same until it is written. One of which only policies that stay as they are name one lets by what the new list
    lets by, too, if nothing in it denies or passes.
    """
    chains, sets = desired.chains, desired.sets
    moving = {name for name in desired.members.moving() if sets.id_of(name) is not None}
    met = {
        chain
        for state in tables.values()
        for chain in state.chains
        if (names := state.names.get(chain)) is None or not moving.isdisjoint(names)
    }
    found = chains.lists_by_chain(rewritten) & chains.lists_by_chain(met)
    if not chains.set_uses.are_alone(s for name in moving if (s := sets.id_of(name)) is not None):
        return found
    own = chains.lists_by_chain(rewritten & met)
    return {asked for asked in found if asked in own or not chains.only_allows(asked)}


def in_time(ops: Iterable[SetOp], late: Set[str]) -> list[SetOp]:
    """Keep of the ops that say whose addresses are what need not wait for a route."""
    found: list[SetOp] = []
    for op in ops:
        if isinstance(op, AddElements):
            elements = {e: mark for e, mark in op.elements.items() if e.cidr not in late}
            if elements:
                found.append(AddElements(op.spec, elements))
        else:
            found.append(op)
    return found


def _going(desired: Desired) -> tuple[Route, ...]:
    """Return the routes that stand and are about to be replaced or removed."""
    routes = desired.routes
    if not routes:
        return ()
    replaced = (routes.actual[key] for key, _ in routes.pending_sets() if key in routes.actual)
    return (*replaced, *(route for _, route in routes.pending_removals()))


def _leaving(desired: Desired, going: Iterable[Route]) -> frozenset[str]:
    """Return the networks of these routes whose packets still go to an interface that has them no more.

    Also where their next owner is judged alike: what policy says by now is not said of that interface.
    """
    found = [route for route in going if route.kind == "link"]
    if not found:
        return frozenset()
    coming = {(route.cidr, route.interface) for _, route in desired.routes.pending_sets()}
    return frozenset(route.cidr for route in found if (route.cidr, route.interface) not in coming)


def _moves(desired: Desired) -> tuple[dict[Move, frozenset[str]], frozenset[SetId]]:
    """Return what moves in sets that stand, of both families, and the sets of which all moves at once."""
    moves: dict[Move, frozenset[str]] = {}
    rebuilt = set()
    for name, (comes, goes) in desired.members.moving().items():
        set_id = desired.sets.id_of(name)
        if set_id is None:
            continue
        if not desired.members.stands(name):
            rebuilt.add(set_id)
            continue
        for cidrs, coming in ((comes, True), (goes, False)):
            if cidrs:
                move = Move(set_id, coming)
                moves[move] = moves.get(move, frozenset()) | cidrs
    return moves, frozenset(rebuilt)


def _transition(
    desired: Desired, moves: Mapping[Move, frozenset[str]], rebuilt: frozenset[SetId]
) -> Transition:
    alone = sum(len(cidrs) for cidrs in moves.values()) < 2
    uses = desired.chains.set_uses
    if not rebuilt and (alone or uses.is_plain(moves)):
        return Transition(in_plain_order(moves))
    lists = desired.chains.lists_naming({move.set_id for move in moves} | rebuilt)
    return plan(moves, rebuilt, lists, uses)


def _marks(desired: Desired, unsafe: Iterable[PolicyList]) -> set[Mark]:
    """Return the marks that lead to these lists. Those of host endpoints are led to by no mark."""
    marks, found = desired.settings.marks, set()
    for asked in unsafe:
        policy_class = desired.chains.class_of(asked)
        if policy_class is not None:
            bits = marks.source if asked.direction == "egress" else marks.destination
            found.add(Mark(bits.place(policy_class.number), bits.mask))
    return found


def _in_order(desired: Desired, order: Iterable[Move]) -> list[SetOp]:
    """Return the ops that make and rebuild sets, then those that move members, as ordered."""
    members = desired.members
    ops: list[SetOp] = []
    moving: dict[tuple[str, bool], SetOp] = {}
    for op in members.plan_additions():
        if isinstance(op, AddElements) and members.stands(op.spec.name):
            moving[op.spec.name, True] = op
        else:
            ops.append(op)
    for op in members.plan_removals():
        if isinstance(op, DelElements):
            moving[op.spec.name, False] = op
    for move in order:
        names = [(name, move.comes) for name in desired.sets.names_of(move.set_id)]
        ops += [moving.pop(name) for name in names if name in moving]
    return [*ops, *moving.values()]
