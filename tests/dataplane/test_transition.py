"""The order in which members move: whatever packets meet meanwhile is no more open than the old or the new."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Literal

import pytest

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.judge import Packet, Side, decide
from hopwall_dataplane.transition import (
    MAX_MOVES,
    Move,
    Moves,
    SetUses,
    Transition,
    in_plain_order,
)
from hopwall_dataplane.transition import plan as plan_by_uses
from hopwall_model.updates import Entity, PolicyId, PolicySet, ResolvedRule, SetId, TierPolicies

SETS = tuple(SetId(f"s:{n}") for n in range(4))
ADDRESSES = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32")
Content = Mapping[SetId, frozenset[str]]
N_SEEDS = 1000


def rule(action: str, **sides: Entity) -> ResolvedRule:
    """Make a rule."""
    return ResolvedRule(id="r", action=action, **sides)  # type: ignore[arg-type]


def from_sets(*sets: SetId, outside: tuple[SetId, ...] = ()) -> Entity:
    """Make a side that is in all of these sets, and in none of those."""
    return Entity(sets=sets, not_sets=outside)


def policy(name: str, *rules: ResolvedRule) -> PolicySet:
    """Make a policy of one direction."""
    return PolicySet(id=PolicyId(name), version=1, ingress=rules)


def asked(
    *policies: PolicySet, tiers: int = 1, end: Literal["deny", "pass"] = "deny"
) -> PolicyList:
    """Make a list of these policies, in so many tiers."""
    ids = tuple(one.id for one in policies)
    cuts = (ids[:1], ids[1:]) if tiers > 1 else (ids,)
    made = tuple(
        TierPolicies(name=f"t{n}", ingress=cut, ingress_default=end) for n, cut in enumerate(cuts)
    )
    return PolicyList("hw-ct1-x", "ingress", made)


def uses_of(policies: Iterable[PolicySet]) -> SetUses:
    """Return what the policies say of sets."""
    uses = SetUses()
    for one in policies:
        uses.put(one)
    return uses


def is_plain(policies: Iterable[PolicySet], moves: Moves) -> bool:
    """Tell whether the moves need no order."""
    return uses_of(policies).is_plain(moves)


def plan(
    moves: Moves, rebuilt: frozenset[SetId], lists: Mapping[PolicyList, Sequence[PolicySet]]
) -> Transition:
    """Order the moves for lists of policies."""
    uses = uses_of({one.id: one for policies in lists.values() for one in policies}.values())
    ids = {asked: [one.id for one in policies] for asked, policies in lists.items()}
    return plan_by_uses(moves, rebuilt, ids, uses)


def order_of(policies: Sequence[PolicySet], *moves: Move) -> tuple[Move, ...] | None:
    """Return the order of moves of one address; None where no order is safe."""
    wanted = asked(*policies)
    found = plan(dict.fromkeys(moves, frozenset(ADDRESSES[:1])), frozenset(), {wanted: policies})
    return None if wanted in found.unsafe else found.order


A, B, C, D = SETS


def test_what_denies_is_there_before_what_allows() -> None:
    """An address comes into a denied set and an allowed one: it is never in the allowed one alone."""
    policies = [policy("p", rule("deny", source=from_sets(A)), rule("allow", source=from_sets(B)))]

    assert order_of(policies, Move(B, True), Move(A, True)) == (Move(A, True), Move(B, True))
    assert order_of(policies, Move(B, False), Move(A, False)) == (Move(B, False), Move(A, False))


def test_who_is_allowed_by_either_stays_allowed() -> None:
    """An address goes from one allowed set to another: it is in both meanwhile, not in none."""
    policies = [policy("p", rule("allow", source=from_sets(A)), rule("allow", source=from_sets(B)))]

    assert order_of(policies, Move(A, False), Move(B, True)) == (Move(B, True), Move(A, False))
    assert is_plain(policies, dict.fromkeys((Move(A, False), Move(B, True)), frozenset()))


def test_a_rule_that_needs_both_is_never_met_by_half_of_each() -> None:
    """One rule allows who is in two sets: what goes out of one goes before what comes into the other."""
    policies = [policy("p", rule("allow", source=from_sets(A, B)))]

    assert order_of(policies, Move(A, False), Move(B, True)) == (Move(A, False), Move(B, True))
    assert not is_plain(policies, dict.fromkeys((Move(A, False), Move(B, True)), frozenset()))


def test_where_no_order_is_safe_the_list_is_named() -> None:
    """Two rules that pass lead where nobody knows: whoever is judged by them is nobody meanwhile."""
    policies = [policy("p", rule("pass", source=from_sets(A, B)))]

    assert order_of(policies, Move(A, False), Move(B, True)) is None


def test_what_a_rule_that_passes_skips_moves_while_it_is_met() -> None:
    """An address goes from an allowed set to one that passes before it, or back: it is in one of them meanwhile."""
    policies = [policy("p", rule("pass", source=from_sets(A)), rule("allow", source=from_sets(B)))]

    assert order_of(policies, Move(B, False), Move(A, True)) == (Move(A, True), Move(B, False))
    assert order_of(policies, Move(A, False), Move(B, True)) == (Move(B, True), Move(A, False))
    assert order_of(policies, Move(B, True), Move(A, True)) == (Move(A, True), Move(B, True))
    assert order_of(policies, Move(A, False), Move(B, False)) == (Move(B, False), Move(A, False))


def test_one_rule_that_passes_follows_another() -> None:
    """An address goes from one set that passes to another behind it, or back: there is always one that passes it."""
    policies = [policy("p", rule("pass", source=from_sets(A)), rule("pass", source=from_sets(B)))]

    assert order_of(policies, Move(A, False), Move(B, True)) == (Move(B, True), Move(A, False))
    assert order_of(policies, Move(B, False), Move(A, True)) == (Move(A, True), Move(B, False))


def test_a_rule_that_passes_skips_nothing_of_another_policy() -> None:
    """What is in the next tier is asked after the pass: it is closed first."""
    policies = [
        policy("p", rule("pass", source=from_sets(A))),
        policy("q", rule("allow", source=from_sets(B))),
    ]

    assert order_of(policies, Move(B, False), Move(A, True)) == (Move(B, False), Move(A, True))


def test_a_rule_that_meets_nobody_asks_for_no_order() -> None:
    """Who is in a set and not in it does not exist: such a rule keeps no other from an order that closes nobody."""
    nobody = rule("deny", source=from_sets(C, outside=(C,)))
    policies = [
        policy("p", nobody, rule("allow", source=Entity(not_sets=(A,)))),
        policy("q", rule("allow", source=from_sets(B))),
    ]
    moves = Move(A, True), Move(B, True), Move(C, False)

    order = order_of(policies, *moves)

    assert order is not None
    assert order.index(Move(B, True)) < order.index(Move(A, True))


def test_what_is_of_other_addresses_needs_no_order() -> None:
    """Two addresses that no packet meets on one side do not wait for each other."""
    policies = [policy("p", rule("deny", source=from_sets(A)), rule("allow", source=from_sets(B)))]
    wanted = asked(*policies)
    moves = {Move(B, True): frozenset(ADDRESSES[:1]), Move(A, True): frozenset(ADDRESSES[1:2])}

    found = plan(moves, frozenset(), {wanted: policies})

    assert found.order == in_plain_order(moves)
    assert not found.unsafe


def test_a_set_that_is_exchanged_whole_goes_with_no_other() -> None:
    """A set built aside changes at once, at a moment of its own: a list that names another too is closed."""
    policies = [policy("p", rule("allow", source=from_sets(A, B)))]
    wanted = asked(*policies)

    found = plan({Move(B, True): frozenset(ADDRESSES[:1])}, frozenset({A}), {wanted: policies})

    assert found.unsafe == {wanted}
    assert not plan({}, frozenset({A}), {wanted: policies}).unsafe


def test_too_many_moves_are_not_ordered() -> None:
    """The cost is bounded: beyond it all who are concerned are closed for that moment."""
    policies = [policy("p", rule("allow", source=from_sets(A)))]
    wanted = asked(*policies)
    moves = {Move(SetId(f"s:{n}"), True): frozenset(ADDRESSES) for n in range(MAX_MOVES + 1)}

    assert plan(moves, frozenset(), {wanted: policies}).unsafe == {wanted}


def test_a_network_that_is_replaced_by_another_comes_before_it_goes() -> None:
    """What both hold stays in the set."""
    policies = [policy("p", rule("deny", source=from_sets(A)))]
    moves = {
        Move(A, False): frozenset({"10.0.0.0/8"}),
        Move(A, True): frozenset({"10.0.0.0/9"}),
    }

    assert plan(moves, frozenset(), {asked(*policies): policies}).order == (
        Move(A, True),
        Move(A, False),
    )


def test_what_is_said_of_sets_goes_with_the_policy() -> None:
    """A policy that is replaced or gone leaves nothing behind."""
    uses = uses_of([policy("p", rule("deny", source=from_sets(A, B)))])
    moves = {Move(A, True): frozenset(ADDRESSES[:1]), Move(B, False): frozenset(ADDRESSES[:1])}
    assert not uses.is_plain(moves)

    uses.put(policy("p", rule("allow", source=from_sets(A))))
    assert uses.is_plain(moves)

    uses.put(policy("p", rule("allow", source=from_sets(A, B))))
    assert not uses.is_plain(moves)

    uses.drop(PolicyId("p"))
    assert uses == SetUses()


# ---------------------------------------------------------------- against all packets


@pytest.mark.parametrize("part", range(3))
def test_no_packet_is_let_by_that_neither_the_old_nor_the_new_lets_by(part: int) -> None:
    """By number: any policies, any moves, each packet at each moment; and seldom is nobody served."""
    n_unsafe = n_safe = n_between = 0
    for number in range(part * N_SEEDS, (part + 1) * N_SEEDS):
        chance = random.Random(number)
        policies = [_policy(chance, f"p{n}") for n in range(chance.randint(1, 3))]
        old, new = _content(chance), _content(chance)
        moves = _moves(old, new)
        end: Literal["deny", "pass"] = chance.choice(("deny", "pass"))
        wanted = asked(*policies, tiers=chance.choice((1, 2)), end=end)
        plain = is_plain(policies, moves)
        found = plan(moves, frozenset(), {wanted: policies})
        if wanted in found.unsafe:
            n_unsafe += 1
            assert not plain, number
            continue
        n_safe += 1
        for order, exact in ((found.order, False), *([(in_plain_order(moves), True)] * plain)):
            for between in _moments(chance, old, moves, order):
                n_between += 1
                _check(number, wanted, policies, (old, between, new), exact=exact)
    assert n_safe > n_unsafe > 0
    assert n_between > N_SEEDS


def _policy(chance: random.Random, name: str) -> PolicySet:
    actions = ("allow", "allow", "allow", "deny", "deny", "pass", "log")
    return policy(
        name, *(_rule(chance, chance.choice(actions)) for _ in range(chance.randint(1, 3)))
    )


def _rule(chance: random.Random, action: str) -> ResolvedRule:
    return rule(
        action,
        source=from_sets(
            *chance.sample(SETS, chance.choice((0, 1, 1, 1, 2))),
            outside=tuple(chance.sample(SETS, chance.choice((0, 0, 0, 1)))),
        ),
        destination=from_sets(*chance.sample(SETS, chance.choice((0, 0, 0, 1)))),
    )


def _content(chance: random.Random) -> Content:
    return {one: frozenset(chance.sample(ADDRESSES, chance.choice((0, 1, 1, 2)))) for one in SETS}


def _moves(old: Content, new: Content) -> dict[Move, frozenset[str]]:
    moves = {}
    for one in SETS:
        for comes, cidrs in ((True, new[one] - old[one]), (False, old[one] - new[one])):
            if cidrs:
                moves[Move(one, comes)] = cidrs
    return moves


def _moments(
    chance: random.Random,
    old: Content,
    moves: Mapping[Move, frozenset[str]],
    order: Sequence[Move],
) -> Iterator[Content]:
    """Yield what stands after each member that moved; those of one move go in any order."""
    held = {one: set(cidrs) for one, cidrs in old.items()}
    assert sorted(order) == sorted(moves)
    for move in order:
        for cidr in chance.sample(sorted(moves[move]), len(moves[move])):
            (held[move.set_id].add if move.comes else held[move.set_id].remove)(cidr)
            yield {one: frozenset(cidrs) for one, cidrs in held.items()}


def _check(
    number: int,
    wanted: PolicyList,
    policies: Sequence[PolicySet],
    contents: tuple[Content, Content, Content],
    *,
    exact: bool,
) -> None:
    for source, destination in product(ADDRESSES, ADDRESSES):
        was, now, will = (_passes(wanted, policies, c, source, destination) for c in contents)
        assert now in ({was, will} if exact else {False, was, will}), (number, policies)


def _passes(
    wanted: PolicyList,
    policies: Sequence[PolicySet],
    content: Content,
    source: str,
    destination: str,
) -> bool:
    packet = Packet(4, 6, source.partition("/")[0], destination.partition("/")[0])

    def holds(set_id: SetId, packet: Packet, side: Side) -> bool:
        address = packet.source if side == "source" else packet.destination
        return f"{address}/32" in content[set_id]

    end = policy("open", rule("allow"))
    known = {one.id: one for one in (*policies, end)}
    return decide(wanted.tiers, (end.id,), "ingress", packet, known, holds) == "allow"
