"""In which order the sets that rules name may change, so that no packet meets what neither old nor new says.

The kernel changes one member of one set at a time, so when one change moves an address between sets, packets meet
what is between. A list of policies is safe from that if what closes it comes before what opens it: then whatever is
between lets by no more than the old or the new. Where two moves cannot come together in one verdict, what opens
comes first, so that nothing is closed meanwhile that both sides let by. A list that no order suits is named: who
is judged by it must be nobody meanwhile (decision 30).

Pure. Cost: nothing where the sets are only allowed by; else what is said of them in the lists that name them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.iptables.render_policy import DIRECTIONS, Direction, rules_of
from hopwall_model.updates import Entity, PolicyId, PolicySet, ResolvedRule, SetId, Verdict

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


class _Said(NamedTuple):
    """One mention of a set: in which rule of its policy, what the rule does, and on which side of the packet."""

    rule: int
    action: Verdict
    side: Side
    negated: bool


class _Place(NamedTuple):
    """Where a move shows in a list: at which rule, what the rule does, on which side, and whether it meets more then."""

    rule: tuple[int, int]
    action: Verdict
    side: Side
    gains: bool

    @property
    def way(self) -> Way:
        """What it does to who may pass that the rule meets more packets, or fewer."""
        if self.action == "pass":
            return "either"
        return "opens" if self.gains is (self.action == "allow") else "closes"


_Places = dict[Move, list[_Place]]
_Edge = tuple[Move, Move]


@dataclass(slots=True)
class SetUses:
    """What policies say of sets, at hand for whoever orders moves.

    Shape: `_awkward` counts by set the mentions that are not "allow who is in it"; `_joint` those beside another.
    """

    _of: dict[PolicyId, dict[Direction, dict[SetId, list[_Said]]]] = field(default_factory=dict)
    _awkward: Counter[SetId] = field(default_factory=Counter)
    _joint: Counter[SetId] = field(default_factory=Counter)

    def put(self, policy: PolicySet) -> None:
        """Take a policy's new value."""
        self.drop(policy.id)
        said = {direction: _said(rules_of(policy, direction)) for direction in DIRECTIONS}
        self._of[policy.id] = said
        self._count(said, 1)

    def drop(self, policy_id: PolicyId) -> None:
        """Forget a policy."""
        said = self._of.pop(policy_id, None)
        if said is not None:
            self._count(said, -1)

    def _count(self, said: Mapping[Direction, Mapping[SetId, list[_Said]]], n: int) -> None:
        for of_set in said.values():
            beside = Counter(one.rule for mentions in of_set.values() for one in mentions)
            for set_id, mentions in of_set.items():
                awkward = sum(one.negated or one.action != "allow" for one in mentions)
                joint = sum(beside[one.rule] > 1 for one in mentions)
                for counts, found in ((self._awkward, awkward), (self._joint, joint)):
                    if found:
                        counts[set_id] += n * found
                        if not counts[set_id]:
                            del counts[set_id]

    def is_plain(self, moves: Iterable[Move]) -> bool:
        """Tell whether the sets are only allowed by, and no rule by one that gains and one that loses.

        Then what comes may come before what goes, whatever list the policies are in: most changes are such.
        """
        if any(move.set_id in self._awkward for move in moves):
            return False
        return len({move.comes for move in moves if move.set_id in self._joint}) < 2

    def are_alone(self, set_ids: Iterable[SetId]) -> bool:
        """Tell whether no rule asks for one of these sets and another."""
        return not any(set_id in self._joint for set_id in set_ids)

    def of(self, policy_id: PolicyId, direction: Direction) -> Mapping[SetId, Sequence[_Said]]:
        """Return what a policy says of sets in one direction."""
        said = self._of.get(policy_id)
        return {} if said is None else said[direction]


def _said(rules: Iterable[ResolvedRule]) -> dict[SetId, list[_Said]]:
    found: dict[SetId, list[_Said]] = {}
    for number, rule in enumerate(rules):
        if rule.action != "log" and not _meets_nobody(rule):
            for side, set_id, negated in _named(rule):
                found.setdefault(set_id, []).append(_Said(number, rule.action, side, negated))
    return found


def _meets_nobody(rule: ResolvedRule) -> bool:
    """Tell whether a rule asks an end of the packet to be in a set and not in it."""
    return any(
        not set(one.sets).isdisjoint(one.not_sets) for one in (rule.source, rule.destination)
    )


def plan(
    moves: Moves,
    rebuilt: frozenset[SetId],
    lists: Mapping[PolicyList, Sequence[PolicyId]],
    uses: SetUses,
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
    changing = _by_set(moves, rebuilt)
    known: dict[tuple[Direction, tuple[PolicyId, ...]], bool] = {}
    for asked, policies in lists.items():
        key = asked.direction, tuple(policies)
        if key not in known:
            places = _places([uses.of(policy, asked.direction) for policy in policies], changing)
            judged = _judge(places, moves, rebuilt)
            known[key] = judged is not None and graph.must(judged.must)
            soft.update(dict.fromkeys(judged.should if judged is not None else ()))
        if not known[key]:
            unsafe.add(asked)
    for edge in soft:
        graph.must((edge,))
    return Transition(graph.order(), frozenset(unsafe))


def _by_set(moves: Moves, rebuilt: frozenset[SetId]) -> dict[SetId, list[Move]]:
    """Return the moves of each set; one that is rebuilt may gain and lose."""
    found: dict[SetId, list[Move]] = {}
    both = (Move(set_id, comes) for set_id in sorted(rebuilt) for comes in (True, False))
    for move in (*moves, *both):
        found.setdefault(move.set_id, []).append(move)
    return found


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
    policies: Sequence[Mapping[SetId, Sequence[_Said]]], changing: Mapping[SetId, Sequence[Move]]
) -> _Places:
    """Return where each move shows in a list, given what its policies say of sets."""
    places: _Places = {}
    for number, said in enumerate(policies):
        for set_id in changing.keys() & said.keys():
            for one in said[set_id]:
                for move in changing[set_id]:
                    gains = move.comes is not one.negated
                    place = _Place((number, one.rule), one.action, one.side, gains)
                    places.setdefault(move, []).append(place)
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
        if not _meet(a, b, places, moves):
            continue
        needed = [edge for edge in ((a, b), (b, a)) if _needs(*edge, places)]
        covered = _covered(a, b, places) or _covered(b, a, places)
        if covered is not None:
            (must if covered in needed else should).append(covered)
        elif len(needed) > 1:
            return None
        elif needed:
            must += needed
        elif ways[a] != ways[b]:
            should.append((a, b) if _rank(ways[a]) > _rank(ways[b]) else (b, a))
    return _Judged(tuple(must), tuple(should))


def _needs(first: Move, then: Move, places: _Places) -> bool:
    """Tell whether a move must come before another: what that opens is not to be met without what this closes.

    What passes leads where nobody knows: it may close, and it may open whatever was closed.
    """
    closing = [one for one in places[first] if one.way != "opens"]
    opening = [one for one in places[then] if one.way != "closes"]
    if not closing or not opening:
        return False
    return any(one.action == "pass" for one in (*closing, *opening)) or _depend(closing, opening)


def _covered(over: Move, under: Move, places: _Places) -> _Edge | None:
    """Return the order of two moves of which one is in a rule that passes, and the other in what that rule skips.

    While the rule meets a packet, nothing that it skips is asked: in that time the other moves. None where it is not so.
    """
    found = places[over]
    if any(one.action != "pass" for one in found) or len({one.gains for one in found}) > 1:
        return None
    last, first = max(one.rule for one in found), min(one.rule for one in places[under])
    policies = {one.rule[0] for one in (*found, *places[under])}
    if first <= last or len(policies) > 1:
        return None
    return (over, under) if found[0].gains else (under, over)


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
    if len({place.side for move in (a, b) for place in places[move]}) > 1:
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
    denied, allowed = _rules(closing)
    denied_before, allowed_then = _rules(opening)
    return (
        not allowed.isdisjoint(allowed_then)
        or bool(denied and denied_before and len(denied | denied_before) > 1)
        or bool(denied and allowed_then and min(denied) < max(allowed_then))
        or bool(denied_before and allowed and min(denied_before) < max(allowed))
    )


def _rules(places: Iterable[_Place]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Return the rules that deny, and those that allow."""
    denied: set[tuple[int, int]] = set()
    allowed: set[tuple[int, int]] = set()
    for place in places:
        (denied if place.action == "deny" else allowed).add(place.rule)
    return denied, allowed


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
