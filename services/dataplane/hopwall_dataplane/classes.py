"""Policy classes: workloads with the same ordered list of policies share one pair of chains.

A class has a number, which is what the packet mark carries, and the number is part of the names of its
chains. So a process without memory reads the numbering back from the kernel, and a restart changes nothing.

A number is used again only after the kernel has forgotten it: no set element may still map to it.
Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hopwall_dataplane.iptables.identity import Denial
from hopwall_dataplane.iptables.nflog import denial
from hopwall_dataplane.iptables.render_policy import DIRECTIONS, Direction, policy_chain
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import TableName
from hopwall_model.codec import encode
from hopwall_model.names import CHAIN_PREFIX, digest
from hopwall_model.updates import EndpointSet, PolicyId, TierPolicies

_KIND: dict[Direction, str] = {"egress": "cf", "ingress": "ct"}
_HASH_CHARS = 14


@dataclass(frozen=True, slots=True)
class ClassKey:
    """What makes workloads alike: their policies by tier, and their profiles, in order."""

    tiers: tuple[TierPolicies, ...]
    profiles: tuple[PolicyId, ...]

    @property
    def digest(self) -> str:
        """The key as a short hash; the same in every process."""
        return digest(encode([self.tiers, self.profiles]).decode(), _HASH_CHARS)


def class_key(endpoint: EndpointSet) -> ClassKey:
    """Return the class an endpoint belongs to."""
    return ClassKey(endpoint.tiers, endpoint.profiles)


def class_chain(number: int, class_digest: str, direction: Direction) -> str:
    """Name the first chain of a class in one direction."""
    return f"{CHAIN_PREFIX}{_KIND[direction]}{number:x}-{class_digest}"


class PolicyUse(NamedTuple):
    """A form in which a policy stands in the kernel."""

    policy: PolicyId
    direction: Direction
    table: TableName
    #: The form whose allow comes back with a mark.
    marking: bool


@dataclass(frozen=True, slots=True)
class PolicyList:
    """What the packets of one direction are asked, in order: one chain, and stages where Pass leads on.

    Shape: `marking` lets an allowed packet come back with a mark; without it an allow accepts. `end` is what
           becomes of a packet that nobody decides: dropped, or back without a mark.
    """

    name: str
    direction: Direction
    tiers: tuple[TierPolicies, ...]
    profiles: tuple[PolicyId, ...] = ()
    table: TableName = "filter"
    marking: bool = True
    end: Literal["deny", "pass"] = "deny"

    def chain(self, stage: int = 0) -> str:
        """Name the chain, or that of a later stage."""
        return f"{self.name}.{stage}" if stage else self.name

    def uses(self) -> tuple[PolicyUse, ...]:
        """List every policy and profile it refers to, in order, in the form it needs."""
        tiers = (p for tier in self.tiers for p in tier_policies(tier, self.direction))
        return tuple(
            PolicyUse(p, self.direction, self.table, self.marking) for p in (*tiers, *self.profiles)
        )


@dataclass(frozen=True, slots=True)
class PolicyClass:
    """A class that is in use: its number and what it is made of."""

    number: int
    key: ClassKey

    def chain(self, direction: Direction, stage: int = 0) -> str:
        """Name the chain of one direction; later stages are reached by Pass."""
        return self.list_of(direction).chain(stage)

    def list_of(self, direction: Direction) -> PolicyList:
        """Return what is asked in one direction; at egress there may be an ingress to come."""
        return PolicyList(
            class_chain(self.number, self.key.digest, direction),
            direction,
            self.key.tiers,
            self.key.profiles,
            marking=direction == "egress",
        )


def tier_default(tier: TierPolicies, direction: Direction) -> Literal["deny", "pass"]:
    """Return what becomes of a packet that no policy of a tier decides in one direction."""
    return tier.egress_default if direction == "egress" else tier.ingress_default


def tier_policies(tier: TierPolicies, direction: Direction) -> tuple[PolicyId, ...]:
    """Return the policies of a tier in one direction."""
    return tier.egress if direction == "egress" else tier.ingress


def numbers_in(chains: Iterable[str]) -> dict[str, int]:
    """Read the numbering back from chain names: class digest → number."""
    found: dict[str, int] = {}
    for name in chains:
        head, _, rest = name.removeprefix(CHAIN_PREFIX).partition("-")
        if head[:2] in _KIND.values() and len(rest) >= _HASH_CHARS:
            try:
                found[rest[:_HASH_CHARS]] = int(head[2:], 16)
            except ValueError:
                continue
    return found


class NoRoomForClassError(Exception):
    """More classes than the mark has room for."""


@dataclass(slots=True)
class ClassTable:
    """Which classes are in use, by how many endpoints, under which number.

    Shape: `remembered` is the kernel's numbering (digest → number) of classes not in use: such a number is
           taken again only by the same class, until `forget` says that the kernel holds it no more.
    """

    max_class: int
    classes: dict[ClassKey, PolicyClass] = field(default_factory=dict)
    remembered: dict[str, int] = field(default_factory=dict)
    _members: dict[ClassKey, int] = field(default_factory=dict)
    _taken: set[int] = field(default_factory=set)
    _lowest: int = 1

    def remember(self, numbers: dict[str, int]) -> None:
        """Take over a numbering that was read back from the kernel."""
        for class_digest, number in numbers.items():
            if 0 < number <= self.max_class and number not in self._taken:
                self.remembered[class_digest] = number
                self._taken.add(number)

    @property
    def numbers(self) -> dict[str, int]:
        """The whole numbering, in use or remembered."""
        used = {
            policy_class.key.digest: policy_class.number for policy_class in self.classes.values()
        }
        return self.remembered | used

    def join(self, key: ClassKey) -> tuple[PolicyClass, bool]:
        """Count one more member; return the class and whether it is new.

        Errors: NoRoomForClassError.
        """
        known = self.classes.get(key)
        if known is not None:
            self._members[key] += 1
            return known, False
        number = self.remembered.pop(key.digest, 0) or self._free_number()
        made = PolicyClass(number, key)
        self.classes[key] = made
        self._members[key] = 1
        return made, True

    def leave(self, key: ClassKey) -> PolicyClass | None:
        """Count one member less; return the class if that was the last. Its number stays taken."""
        self._members[key] -= 1
        if self._members[key]:
            return None
        del self._members[key]
        gone = self.classes.pop(key)
        self.remembered[key.digest] = gone.number
        return gone

    @property
    def has_room(self) -> bool:
        """Tell whether a number is free."""
        return len(self._taken) < self.max_class

    def forget(self, class_digest: str) -> None:
        """Free the number of a class that is not in use and that the kernel no longer holds."""
        number = self.remembered.pop(class_digest, None)
        if number is not None:
            self._taken.discard(number)
            self._lowest = min(self._lowest, number)

    def _free_number(self) -> int:
        number = self._lowest
        while number in self._taken:
            number += 1
        if number > self.max_class:
            raise NoRoomForClassError
        self._taken.add(number)
        self._lowest = number + 1
        return number


def render_class(
    policy_class: PolicyClass,
    direction: Direction,
    settings: RenderSettings,
    passing: set[tuple[PolicyId, Direction]],
) -> dict[str, tuple[str, ...]]:
    """Return the chains of a class in one direction."""
    return render_list(policy_class.list_of(direction), settings, passing)


def render_list(
    asked: PolicyList, settings: RenderSettings, passing: set[tuple[PolicyId, Direction]]
) -> dict[str, tuple[str, ...]]:
    """Return the chains of a list of policies: more than one where Pass leads on.

    A tier is a run of jumps that ends in a drop, or goes on where the tier's default is pass. A packet that
    a policy passes, or allows with a mark, comes back with it, and the stage goes back with the packet: the
    first chain calls the stages one after the other, as nft allows only 16 chains on a path.

    Shape:  chain → rule bodies; the first chain is always there and, with no policy at all, does what is
            done at the list's end. A packet must not carry the passed bit when it comes, and goes without.
    Source: Calico policy semantics: end-of-tier drop only where a policy of the tier applies; profiles
            only when no tier decided; no profile means deny.
    """
    marks, direction = settings.marks, asked.direction
    allowed = marks.allowed if asked.marking else 0
    stages = [list[str]()]
    for tier in asked.tiers:
        policies = tier_policies(tier, direction)
        may_pass = False
        for policy in policies:
            passed = marks.passed if (policy, direction) in passing else 0
            may_pass = may_pass or bool(passed)
            jump = f"-j {policy_chain(policy, direction, marking=asked.marking)}"
            stages[-1] += (jump, *_back(allowed | passed))
        if policies and tier_default(tier, direction) == "deny":
            stages[-1] += denial(Denial("tier-end", direction, tier=tier.name), settings.log)
            if not may_pass:
                break
        if may_pass:
            stages.append([f"-j MARK --set-xmark 0x0/{marks.passed:#x}"])
    else:
        for profile in asked.profiles:
            jump = f"-j {policy_chain(profile, direction, marking=asked.marking)}"
            stages[-1] += (jump, *_back(allowed))
        if asked.end == "deny":
            stages[-1] += denial(Denial("profiles-end", direction), settings.log)
    if len(stages) == 1:
        return {asked.chain(): tuple(stages[0])}
    names = [asked.chain(number) for number in range(1, len(stages) + 1)]
    root = [line for name in names for line in (f"-j {name}", *_back(allowed))]
    end = denial(Denial("undecided", direction), settings.log) if asked.end == "deny" else ()
    chains = {asked.chain(): (*root, *end)}
    return chains | {name: tuple(lines) for name, lines in zip(names, stages, strict=True)}


def _back(marks: int) -> tuple[str, ...]:
    """Return the line that goes back with a packet that carries any of these marks."""
    return (f"-m mark ! --mark 0x0/{marks:#x} -j RETURN",) if marks else ()


__all__ = [
    "DIRECTIONS",
    "ClassKey",
    "ClassTable",
    "NoRoomForClassError",
    "PolicyClass",
    "PolicyList",
    "PolicyUse",
    "class_chain",
    "class_key",
    "numbers_in",
    "render_class",
    "render_list",
    "tier_policies",
]
