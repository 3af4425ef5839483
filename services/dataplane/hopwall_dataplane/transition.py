"""In which order the sets that rules name may change, so that no packet meets what neither old nor new says.

The kernel changes one member of one set at a time, so when one change moves an address between sets, packets meet
what is between. A list of policies is safe from that if what closes it comes before what opens it: then whatever is
between lets by no more than the old or the new. Where two moves cannot come together in one verdict, what opens
comes first, so that nothing is closed meanwhile that both sides let by. A list that no order suits is named: who
is judged by it must be nobody meanwhile (decision 30).

Pure. Cost: what the changed sets' policies say, and the lists that name them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.iptables.render_policy import Direction, rules_of
from hopwall_model.updates import Entity, PolicyId, PolicySet, ResolvedRule, SetId

Side = Literal["source", "destination"]
Way = Literal["opens", "closes", "either"]

#: More moves than these at once are not ordered: all who are judged by them are nobody meanwhile.
MAX_MOVES = 400


class Move(NamedTuple):
    """Members that come into a set, or go out of it."""

    set_id: SetId
    comes: bool


Moves = Mapping[Move, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Transition:
    """The moves in a safe order, and the lists for which it is not."""

    order: tuple[Move, ...]
    unsafe: frozenset[PolicyList] = frozenset()


class _Place(NamedTuple):
    """Where a move shows in a list: at which rule, what the rule does, and on which side of the packet."""

    rule: int
    denies: bool
    side: Side
    way: Way


_Places = dict[Move, list[_Place]]
_Edge = tuple[Move, Move]


def plan(
    moves: Moves, rebuilt: frozenset[SetId], lists: Mapping[PolicyList, Sequence[PolicySet]]
) -> Transition:
    """Order the moves.

    Shape: `moves` have the networks they are about; `rebuilt` are sets that change before all moves, at once;
           `lists` have those of their policies that name a set that changes, in order.
    """
    first = in_plain_order(moves)
    if len(moves) > MAX_MOVES:
        return Transition(first, frozenset(lists))
    graph = _Graph(first)
    for move in first:
        graph.must(_same_set(move, moves))
    unsafe = set()
    soft: dict[_Edge, None] = {}
    known: dict[tuple[Direction, tuple[PolicyId, ...]], bool] = {}
    for asked, policies in lists.items():
        key = asked.direction, tuple(policy.id for policy in policies)
        if key not in known:
            judged = _judge(_places(asked.direction, policies, moves, rebuilt), moves, rebuilt)
            known[key] = judged is not None and graph.must(judged.must)
            soft.update(dict.fromkeys(judged.should if judged is not None else ()))
        if not known[key]:
            unsafe.add(asked)
    for edge in soft:
        graph.must((edge,))
    return Transition(graph.order(), frozenset(unsafe))


def is_plain(policies: Iterable[PolicySet], moves: Moves) -> bool:
    """Tell whether these only allow by the sets, and no rule by one that gains and one that loses.

    Then what comes may come before what goes, whatever list the policies are in: most changes are such.
    """
    rules = (rule for policy in policies for rule in (*policy.ingress, *policy.egress))
    return all(_is_plain(rule, moves) for rule in rules if rule.action != "log")


def _is_plain(rule: ResolvedRule, moves: Moves) -> bool:
    ways = set()
    for _, set_id, negated in _named(rule):
        for comes in (True, False):
            if Move(set_id, comes) in moves:
                if negated or rule.action != "allow":
                    return False
                ways.add(comes)
    return len(ways) < 2


def in_plain_order(moves: Iterable[Move]) -> tuple[Move, ...]:
    """Return what comes before what goes."""
    return tuple(sorted(moves, key=lambda move: (not move.comes, move.set_id)))


def _same_set(move: Move, moves: Moves) -> tuple[_Edge, ...]:
    """Let a set's new members come before old ones go, where one holds the other: their common part stays in."""
    other = Move(move.set_id, comes=False)
    if move.comes and other in moves and not _are_apart(moves[move], moves[other]):
        return ((move, other),)
    return ()


# ---------------------------------------------------------------- what a list says of the moves


@dataclass(frozen=True, slots=True)
class _Judged:
    """Which move must come before which, and which should, so that nothing is closed for nothing."""

    must: tuple[_Edge, ...]
    should: tuple[_Edge, ...]


def _places(
    direction: Direction,
    policies: Sequence[PolicySet],
    moves: Moves,
    rebuilt: frozenset[SetId],
) -> _Places:
    places: _Places = {}
    rules = [rule for policy in policies for rule in rules_of(policy, direction)]
    for number, rule in enumerate(rules):
        if rule.action == "log":
            continue
        for side, set_id, negated in _named(rule):
            for comes in (True, False):
                move = Move(set_id, comes)
                if move in moves or set_id in rebuilt:
                    way = _way(rule, gains=comes is not negated)
                    places.setdefault(move, []).append(
                        _Place(number, rule.action == "deny", side, way)
                    )
    return places


def _named(rule: ResolvedRule) -> Iterator[tuple[Side, SetId, bool]]:
    sides: tuple[tuple[Side, Entity], ...] = (
        ("source", rule.source),
        ("destination", rule.destination),
    )
    for side, entity in sides:
        for set_id in (*entity.sets, *entity.port_sets):
            yield side, set_id, False
        for set_id in (*entity.not_sets, *entity.not_port_sets):
            yield side, set_id, True


def _way(rule: ResolvedRule, *, gains: bool) -> Way:
    """Tell what it does to who may pass that a rule meets more packets (gains), or fewer."""
    if rule.action == "pass":
        return "either"
    return "opens" if gains is (rule.action == "allow") else "closes"


def _judge(places: _Places, moves: Moves, rebuilt: frozenset[SetId]) -> _Judged | None:
    """Say what a list asks of the order; None where no order is safe for it."""
    if any(move.set_id in rebuilt for move in places):
        return None if len({move.set_id for move in places}) > 1 else _Judged((), ())
    must: list[_Edge] = []
    should: list[_Edge] = []
    ways = {move: _one_way(found) for move, found in places.items()}
    for move, found in places.items():
        if ways[move] == "either" and _meets_itself(found, moves[move]):
            return None
    for a, b in combinations(places, 2):
        pair = {ways[a], ways[b]}
        if pair == {"opens"} or pair == {"closes"} or not _meet(a, b, places, moves):
            continue
        if pair == {"either"}:
            return None
        first, then = (a, b) if _rank(ways[a]) < _rank(ways[b]) else (b, a)
        if "either" in pair or _depend(places[first], places[then]):
            must.append((first, then))
        else:
            should.append((then, first))
    return _Judged(tuple(must), tuple(should))


def _rank(way: Way) -> int:
    return ("closes", "either", "opens").index(way)


def _one_way(found: Iterable[_Place]) -> Way:
    ways = {place.way for place in found}
    return ways.pop() if len(ways) == 1 else "either"


def _meets_itself(found: Sequence[_Place], cidrs: frozenset[str]) -> bool:
    """Tell whether one packet may meet two members of a move: by its source and by its destination."""
    return len(cidrs) > 1 and len({place.side for place in found}) > 1


def _meet(a: Move, b: Move, places: _Places, moves: Moves) -> bool:
    """Tell whether one packet may meet both moves; of one set and one side it meets one at most."""
    sides = {(x.side, y.side) for x in places[a] for y in places[b]}
    if any(one != other for one, other in sides):
        return True
    return a.set_id != b.set_id and not _are_apart(moves[a], moves[b])


def _are_apart(one: frozenset[str], other: frozenset[str]) -> bool:
    """Tell whether no address is in both; of networks that is not known."""
    return one.isdisjoint(other) and all(map(_is_address, (*one, *other)))


def _is_address(cidr: str) -> bool:
    return cidr.endswith("/128" if ":" in cidr else "/32")


def _depend(closing: Sequence[_Place], opening: Sequence[_Place]) -> bool:
    """Tell whether what opens lets by only what the other closes: then the closing must be there first.

    It is so in one rule that allows, between two that deny, and where a deny comes before an allow.
    """
    for c in closing:
        for o in opening:
            if c.denies and o.denies:
                if c.rule != o.rule:
                    return True
            elif (
                c.rule == o.rule or (c.denies and c.rule < o.rule) or (o.denies and o.rule < c.rule)
            ):
                return True
    return False


# ---------------------------------------------------------------- the order


@dataclass(slots=True)
class _Graph:
    """Which move comes before which; it never has a circle."""

    moves: Sequence[Move]
    _after: dict[Move, dict[Move, None]] = field(default_factory=dict)

    def must(self, edges: Iterable[_Edge]) -> bool:
        """Ask for these; return False, and take none of them, where that makes a circle."""
        taken: list[_Edge] = []
        for before, after in edges:
            if self._leads(after, before):
                for one, other in taken:
                    del self._after[one][other]
                return False
            held = self._after.setdefault(before, {})
            if after not in held:
                held[after] = None
                taken.append((before, after))
        return True

    def _leads(self, start: Move, end: Move) -> bool:
        seen, waiting = {start}, [start]
        while waiting:
            move = waiting.pop()
            if move == end:
                return True
            fresh = self._after.get(move, {}).keys() - seen
            seen |= fresh
            waiting += fresh
        return False

    def order(self) -> tuple[Move, ...]:
        """Return the moves, each behind those that come before it; else as they were given."""
        n_before = dict.fromkeys(self.moves, 0)
        for afters in self._after.values():
            for after in afters:
                n_before[after] += 1
        found: list[Move] = []
        waiting = list(self.moves)
        while waiting:
            move = next(one for one in waiting if not n_before[one])
            waiting.remove(move)
            found.append(move)
            for after in self._after.get(move, ()):
                n_before[after] -= 1
        return tuple(found)
