"""The desired chains of every table, and which of them changed: policies, classes, trees, static.

Pure. It decides which chains there are; what stands in them is rendered by the modules of `iptables/`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from hopwall_dataplane.classes import (
    PolicyClass,
    PolicyList,
    PolicyUse,
    class_chain,
    render_list,
    tier_policies,
)
from hopwall_dataplane.iptables.identity import Denial
from hopwall_dataplane.iptables.nflog import denial
from hopwall_dataplane.iptables.render_policy import (
    DIRECTIONS,
    Direction,
    can_pass,
    closed_policy,
    policy_chain,
    policy_sets,
    render_policy,
    rules_of,
)
from hopwall_dataplane.iptables.static import (
    FROM_TREE,
    HOST_JUMPS,
    JUMPS,
    TABLES,
    TO_TREE,
    RenderSettings,
    static_chains,
)
from hopwall_dataplane.iptables.table import Jump, TableName, TableState, dead_lines, identities_in
from hopwall_dataplane.marks import mark_tree
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.transition import SetUses
from hopwall_model.updates import PolicyId, PolicySet, SetId, SetKind

Bodies = tuple[str, ...]
POLICY_PREFIXES = ("hw-pe-", "hw-pi-", "hw-pm-")

#: Every form a policy may be needed in; at egress there is only the one that marks.
_FORMS: tuple[tuple[Direction, TableName, bool], ...] = (
    ("egress", "filter", True),
    ("ingress", "filter", False),
    ("ingress", "filter", True),
    ("ingress", "mangle", True),
    ("ingress", "raw", True),
    ("egress", "raw", True),
)


@dataclass(slots=True)
class TableChains:
    """One table's desired chains, and the names whose content changed since they were last planned."""

    desired: dict[str, Bodies] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    #: Our lines in kernel chains.
    jumps: tuple[Jump, ...] = ()

    def put_jumps(self, jumps: tuple[Jump, ...]) -> None:
        """Want these lines of ours in kernel chains, and no others."""
        self.dirty |= {jump.builtin for jump in {*self.jumps} ^ {*jumps}}
        self.jumps = jumps

    def put(self, name: str, bodies: Bodies) -> None:
        """Want this chain."""
        if self.desired.get(name) != bodies:
            self.desired[name] = bodies
            self.dirty.add(name)

    def remove(self, name: str) -> None:
        """Want no such chain."""
        if self.desired.pop(name, None) is not None:
            self.dirty.add(name)


@dataclass(frozen=True, slots=True)
class TablePart:
    """Chains of one table, and the jumps that lead to them."""

    chains: Mapping[str, Bodies] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()


@dataclass(slots=True)
class ChainBook:
    """Every desired chain, by family and table.

    Shape: `_uses` counts the lists that refer to a policy in a form; a policy nobody refers to has no
           chain. `_naming` remembers which policies name a set, so that one that comes or goes renders
           them again. `_lingering` (digest → number) are classes no longer in use that packets may still
           be marked with.
    """

    settings: RenderSettings
    families: tuple[Family, ...]
    tables: dict[tuple[Family, TableName], TableChains] = field(default_factory=dict)
    policies: dict[PolicyId, PolicySet] = field(default_factory=dict)
    known_sets: dict[SetId, SetKind] = field(default_factory=dict)
    #: Policies that say something else since `take_touched`.
    touched: set[PolicyId] = field(default_factory=set)
    set_uses: SetUses = field(default_factory=SetUses)
    _naming: dict[SetId, set[PolicyId]] = field(default_factory=dict)
    _uses: Counter[PolicyUse] = field(default_factory=Counter)
    _passing: set[tuple[PolicyId, Direction]] = field(default_factory=set)
    _lists_of: dict[PolicyId, set[PolicyList]] = field(default_factory=dict)
    _policies_in: dict[PolicyList, tuple[PolicyId, ...]] = field(default_factory=dict)
    #: Those of the lists that are a direction of a class.
    _class_of: dict[PolicyList, PolicyClass] = field(default_factory=dict)
    _list_chains: dict[PolicyList, set[str]] = field(default_factory=dict)
    _tree_chains: set[str] = field(default_factory=set)
    #: By owner, what stands beside policies, classes and trees: host endpoints, NAT.
    _parts: dict[str, dict[tuple[Family, TableName], TablePart]] = field(default_factory=dict)
    _dirty_policies: set[PolicyId] = field(default_factory=set)
    _dirty_lists: set[PolicyList] = field(default_factory=set)
    _lingering: dict[str, int] = field(default_factory=dict)
    _trees_dirty: bool = True

    def __post_init__(self) -> None:
        """Want the static chains."""
        for family in self.families:
            for table in TABLES:
                self.tables[family, table] = TableChains()
        self.put_hosts({})
        self.settle(())

    @property
    def objects(self) -> dict[str, tuple[str, Direction]]:
        """Name the policy behind each policy chain, for people."""
        return {
            policy_chain(use.policy, use.direction, marking=use.marking): (
                f"policy {use.policy}",
                use.direction,
            )
            for use in self._uses
        }

    # ------------------------------------------------------------ what changes

    def rewritten(self, actual: Mapping[tuple[Family, TableName], TableState]) -> set[str]:
        """Return the chains of policies that stand and are about to say something else.

        Another version may have spelled what they say otherwise: what it made of the same rules, in their order, says
        the same. Else every list would be written anew after an upgrade, and closed where a set moves meanwhile.

        Cost: O(text of the policies that may have changed).
        """
        return {
            name
            for key, state in actual.items()
            for chains in (self.tables[key],)
            for name in chains.dirty
            if name.startswith(POLICY_PREFIXES)
            and (bodies := chains.desired.get(name)) is not None
            and (stands := state.chains.get(name)) is not None
            and dead_lines(name, bodies, stands) is None
            and state.says.get(name) != identities_in(bodies)
        }

    def are_named(self, set_ids: Iterable[SetId]) -> bool:
        """Tell whether a policy names any of these sets."""
        return any(self._naming.get(set_id) for set_id in set_ids)

    def lists_naming(self, set_ids: Iterable[SetId]) -> dict[PolicyList, list[PolicyId]]:
        """Return the lists that refer to policies that name any of these sets, with those policies in order."""
        named = {policy for set_id in set_ids for policy in self._naming.get(set_id, ())}
        lists = {asked for policy in named for asked in self._lists_of.get(policy, ())}
        return {
            asked: [policy for policy in self._policies_in[asked] if policy in named]
            for asked in sorted(lists, key=lambda one: (one.table, one.name))
        }

    def lists_by_chain(self, names: Set[str]) -> set[PolicyList]:
        """Return the lists that lead to any of these chains of policies.

        Cost: O(uses of policies).
        """
        return {
            asked
            for use in self._uses
            if policy_chain(use.policy, use.direction, marking=use.marking) in names
            for asked in self._lists_of[use.policy]
            if asked.direction == use.direction
        }

    def only_allows(self, asked: PolicyList) -> bool:
        """Tell whether what a list does not allow it just does not allow: nothing denies or passes, now or before.

        With more than one tier, or profiles beside one, a policy that was may have passed to what is not reached now.
        """
        groups = [tier_policies(tier, asked.direction) for tier in asked.tiers]
        if sum(map(bool, [*groups, asked.profiles])) > 1:
            return False
        found = [self.policies.get(policy_id) for policy_id in self._policies_in[asked]]
        return all(
            policy is not None
            and policy_sets(policy) <= self.known_sets.keys()
            and all(rule.action in ("allow", "log") for rule in rules_of(policy, asked.direction))
            for policy in found
        )

    def class_of(self, asked: PolicyList) -> PolicyClass | None:
        """Return the class a list is a direction of; None for lists of host endpoints."""
        return self._class_of.get(asked)

    def set_policy(self, policy: PolicySet) -> None:
        """Take a policy's new value."""
        before = self.policies.get(policy.id)
        if before is None or (before.ingress, before.egress) != (policy.ingress, policy.egress):
            self.touched.add(policy.id)
        self._unname(policy.id)
        self.policies[policy.id] = policy
        self.set_uses.put(policy)
        for set_id in policy_sets(policy):
            self._naming.setdefault(set_id, set()).add(policy.id)
        self._dirty_policies.add(policy.id)

    def remove_policy(self, policy_id: str) -> None:
        """Forget a policy; classes that still refer to it find it closed."""
        key = PolicyId(policy_id)
        self._unname(key)
        self.set_uses.drop(key)
        if self.policies.pop(key, None) is not None:
            self._dirty_policies.add(key)
            self.touched.add(key)

    def _unname(self, policy_id: PolicyId) -> None:
        before = self.policies.get(policy_id)
        for set_id in policy_sets(before) if before else ():
            names = self._naming.get(set_id, set())
            names.discard(policy_id)
            if not names:
                self._naming.pop(set_id, None)

    def know_set(self, set_id: SetId, kind: SetKind | None) -> None:
        """Note the kind of a set that rules may rely on, or None; what names one that is not known is closed."""
        if kind == self.known_sets.get(set_id):
            return
        if kind is None:
            del self.known_sets[set_id]
        else:
            self.known_sets[set_id] = kind
        self._dirty_policies |= self._naming.get(set_id, set())
        self.touch_set(set_id)

    def touch_set(self, set_id: SetId) -> None:
        """Note that the policies that name a set say something else, as its members changed."""
        self.touched |= self._naming.get(set_id, set())

    def take_touched(self) -> tuple[set[PolicyClass], set[PolicyList]]:
        """Return the classes, and the other lists, of which a policy says something else, and begin anew."""
        touched, self.touched = self.touched, set()
        lists = {asked for policy in touched for asked in self._lists_of.get(policy, ())}
        mine = lists & self._class_of.keys()
        return {self._class_of[asked] for asked in mine}, lists - mine

    def add_class(self, policy_class: PolicyClass) -> None:
        """Want a class's chains and its leaf in the trees."""
        self._trees_dirty = True
        for direction in DIRECTIONS:
            asked = policy_class.list_of(direction)
            self._class_of[asked] = policy_class
            self.add_list(asked)

    def remove_class(self, policy_class: PolicyClass) -> None:
        """Want a class's chains no more."""
        self._trees_dirty = True
        for direction in DIRECTIONS:
            asked = policy_class.list_of(direction)
            del self._class_of[asked]
            self.remove_list(asked)

    def add_list(self, asked: PolicyList) -> None:
        """Want a list's chains, and those of its policies in the form it needs."""
        self._list_chains[asked] = set()
        self._dirty_lists.add(asked)
        uses = asked.uses()
        self._policies_in[asked] = tuple(use.policy for use in uses)
        for use in uses:
            self._uses[use] += 1
            self._lists_of.setdefault(use.policy, set()).add(asked)
            self._dirty_policies.add(use.policy)

    def remove_list(self, asked: PolicyList) -> None:
        """Want a list's chains no more. One that takes over its name must be added after it."""
        for name in self._list_chains.pop(asked):
            self._remove(asked.table, name)
        self._dirty_lists.discard(asked)
        self._policies_in.pop(asked)
        for use in asked.uses():
            self._uses[use] -= 1
            if not self._uses[use]:
                del self._uses[use]
            lists = self._lists_of.get(use.policy, set())
            lists.discard(asked)
            if not lists:
                self._lists_of.pop(use.policy, None)
            self._dirty_policies.add(use.policy)

    def put_hosts(self, chains: Mapping[Family, Mapping[TableName, Mapping[str, Bodies]]]) -> None:
        """Want these chains of host endpoints, and no others, and the way to them."""
        parts: dict[tuple[Family, TableName], TablePart] = {}
        for family in self.families:
            mine = chains.get(family, {})
            hosts = {name for held in mine.values() for name in held}
            static = static_chains(family, self.settings, hosts)
            for table in TABLES:
                entries = HOST_JUMPS.get(table, {})
                more = tuple(jump for name, jump in entries.items() if name in hosts)
                parts[family, table] = TablePart(
                    {**static[table], **mine.get(table, {})}, (*JUMPS[table], *more)
                )
        self.put_part("hosts", parts)

    def put_part(self, owner: str, parts: Mapping[tuple[Family, TableName], TablePart]) -> None:
        """Want these chains and jumps of an owner, and no others of it."""
        before, self._parts[owner] = self._parts.get(owner, {}), dict(parts)
        for key, chains in self.tables.items():
            had, has = before.get(key, TablePart()), parts.get(key, TablePart())
            for name in had.chains.keys() - has.chains.keys():
                chains.remove(name)
            for name, bodies in has.chains.items():
                chains.put(name, bodies)
            owners = (held.get(key, TablePart()) for held in self._parts.values())
            chains.put_jumps(tuple(jump for held in owners for jump in held.jumps))

    def linger(self, classes: dict[str, int]) -> bool:
        """Keep the leaves of these classes, whose chains stand in the kernel; return whether that is news."""
        if classes == self._lingering:
            return False
        self._lingering = classes
        self._trees_dirty = True
        return True

    # ------------------------------------------------------------ rendering what changed

    def settle(self, classes: Iterable[PolicyClass]) -> None:
        """Render all that changed since the last time. `classes` are those in use, for the trees."""
        for policy_id in sorted(self._dirty_policies):
            self._render_policy(policy_id)
        self._dirty_policies.clear()
        for asked in sorted(self._dirty_lists, key=lambda one: (one.table, one.name)):
            self._render_list(asked)
        self._dirty_lists.clear()
        if self._trees_dirty:
            self._render_trees(list(classes))
            self._trees_dirty = False

    def _render_policy(self, policy_id: PolicyId) -> None:
        policy = self.policies.get(policy_id)
        for direction in DIRECTIONS:
            passes = policy is not None and can_pass(policy, direction)
            if passes != ((policy_id, direction) in self._passing):
                self._passing ^= {(policy_id, direction)}
                self._dirty_lists |= self._lists_of.get(policy_id, set())
        for direction, table, marking in _FORMS:
            name = policy_chain(policy_id, direction, marking=marking)
            used = PolicyUse(policy_id, direction, table, marking) in self._uses
            for family in self.families:
                chains = self.tables[family, table]
                if not used:
                    chains.remove(name)
                elif policy is None:
                    chains.put(name, closed_policy(policy_id, direction, self.settings))
                else:
                    known = self.known_sets
                    bodies = render_policy(
                        policy, direction, family, self.settings, known, marking=marking
                    )
                    chains.put(name, bodies)

    def _render_list(self, asked: PolicyList) -> None:
        rendered = render_list(asked, self.settings, self._passing)
        for name, bodies in rendered.items():
            for family in self.families:
                self.tables[family, asked.table].put(name, bodies)
        for name in self._list_chains[asked] - rendered.keys():
            self._remove(asked.table, name)
        self._list_chains[asked] = set(rendered)

    def _render_trees(self, classes: list[PolicyClass]) -> None:
        marks = self.settings.marks
        trees: dict[str, Bodies] = {}
        for root, bits, direction in (
            (FROM_TREE, marks.source, DIRECTIONS[0]),
            (TO_TREE, marks.destination, DIRECTIONS[1]),
        ):
            leaves = {n: class_chain(n, d, direction) for d, n in self._lingering.items()}
            leaves |= {c.number: c.chain(direction) for c in classes}
            end = denial(Denial("unknown", direction), self.settings.log)
            trees |= mark_tree(root, bits, leaves, end=end)
        for name in self._tree_chains - trees.keys():
            self._remove("filter", name)
        for name, bodies in trees.items():
            for family in self.families:
                self.tables[family, "filter"].put(name, bodies)
        self._tree_chains = set(trees)

    def _remove(self, table: TableName, name: str) -> None:
        for family in self.families:
            self.tables[family, table].remove(name)
