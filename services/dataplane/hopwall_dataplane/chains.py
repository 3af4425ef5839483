"""The desired chains of every table, and which of them changed: policies, classes, trees, static.

Pure. It decides which chains there are; what stands in them is rendered by the modules of `iptables/`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_dataplane.classes import PolicyClass, class_chain, render_class
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
)
from hopwall_dataplane.iptables.static import (
    FROM_TREE,
    TABLES,
    TO_TREE,
    RenderSettings,
    static_chains,
)
from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.marks import mark_tree
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import PolicyId, PolicySet, SetId, SetKind

Bodies = tuple[str, ...]


@dataclass(slots=True)
class TableChains:
    """One table's desired chains, and the names whose content changed since they were last planned."""

    desired: dict[str, Bodies] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)

    def put(self, name: str, bodies: Bodies) -> None:
        """Want this chain."""
        if self.desired.get(name) != bodies:
            self.desired[name] = bodies
            self.dirty.add(name)

    def remove(self, name: str) -> None:
        """Want no such chain."""
        if self.desired.pop(name, None) is not None:
            self.dirty.add(name)


@dataclass(slots=True)
class ChainBook:
    """Every desired chain, by family and table.

    Shape: `_uses` counts the classes that refer to a policy in a direction; a policy nobody refers to has no
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
    _naming: dict[SetId, set[PolicyId]] = field(default_factory=dict)
    _uses: Counter[tuple[PolicyId, Direction]] = field(default_factory=Counter)
    _passing: set[tuple[PolicyId, Direction]] = field(default_factory=set)
    _classes_of: dict[PolicyId, set[PolicyClass]] = field(default_factory=dict)
    _class_chains: dict[PolicyClass, set[str]] = field(default_factory=dict)
    _tree_chains: set[str] = field(default_factory=set)
    _dirty_policies: set[PolicyId] = field(default_factory=set)
    _dirty_classes: set[PolicyClass] = field(default_factory=set)
    _lingering: dict[str, int] = field(default_factory=dict)
    _trees_dirty: bool = True

    def __post_init__(self) -> None:
        """Want the static chains."""
        for family in self.families:
            static = static_chains(family, self.settings)
            for table in TABLES:
                chains = self.tables[family, table] = TableChains()
                for name, bodies in static[table].items():
                    chains.put(name, bodies)
        self.settle(())

    @property
    def objects(self) -> dict[str, tuple[str, Direction]]:
        """Name the policy behind each policy chain, for people."""
        return {policy_chain(p, d): (f"policy {p}", d) for p, d in self._uses}

    # ------------------------------------------------------------ what changes

    def set_policy(self, policy: PolicySet) -> None:
        """Take a policy's new value."""
        before = self.policies.get(policy.id)
        if before is None or (before.ingress, before.egress) != (policy.ingress, policy.egress):
            self.touched.add(policy.id)
        self._unname(policy.id)
        self.policies[policy.id] = policy
        for set_id in policy_sets(policy):
            self._naming.setdefault(set_id, set()).add(policy.id)
        self._dirty_policies.add(policy.id)

    def remove_policy(self, policy_id: str) -> None:
        """Forget a policy; classes that still refer to it find it closed."""
        key = PolicyId(policy_id)
        self._unname(key)
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

    def take_touched(self) -> set[PolicyClass]:
        """Return the classes of which a policy says something else since the last time, and begin anew."""
        touched, self.touched = self.touched, set()
        return {c for policy in touched for c in self._classes_of.get(policy, ())}

    def add_class(self, policy_class: PolicyClass) -> None:
        """Want a class's chains and its leaf in the trees."""
        self._class_chains[policy_class] = set()
        self._dirty_classes.add(policy_class)
        self._trees_dirty = True
        for direction in DIRECTIONS:
            for policy in policy_class.policies(direction):
                self._uses[policy, direction] += 1
                self._classes_of.setdefault(policy, set()).add(policy_class)
                self._dirty_policies.add(policy)

    def remove_class(self, policy_class: PolicyClass) -> None:
        """Want a class's chains no more."""
        for name in self._class_chains.pop(policy_class):
            self._remove(name)
        self._dirty_classes.discard(policy_class)
        self._trees_dirty = True
        for direction in DIRECTIONS:
            for policy in policy_class.policies(direction):
                self._uses[policy, direction] -= 1
                if not self._uses[policy, direction]:
                    del self._uses[policy, direction]
                classes = self._classes_of.get(policy, set())
                classes.discard(policy_class)
                if not classes:
                    self._classes_of.pop(policy, None)
                self._dirty_policies.add(policy)

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
        for policy_class in sorted(self._dirty_classes, key=lambda c: c.number):
            self._render_class(policy_class)
        self._dirty_classes.clear()
        if self._trees_dirty:
            self._render_trees(list(classes))
            self._trees_dirty = False

    def _render_policy(self, policy_id: PolicyId) -> None:
        policy = self.policies.get(policy_id)
        for direction in DIRECTIONS:
            passes = policy is not None and can_pass(policy, direction)
            if passes != ((policy_id, direction) in self._passing):
                self._passing ^= {(policy_id, direction)}
                self._dirty_classes |= self._classes_of.get(policy_id, set())
            name = policy_chain(policy_id, direction)
            for family in self.families:
                chains = self.tables[family, "filter"]
                if (policy_id, direction) not in self._uses:
                    chains.remove(name)
                elif policy is None:
                    chains.put(name, closed_policy(policy_id, direction, self.settings))
                else:
                    known = self.known_sets
                    bodies = render_policy(policy, direction, family, self.settings, known)
                    chains.put(name, bodies)

    def _render_class(self, policy_class: PolicyClass) -> None:
        names: set[str] = set()
        for direction in DIRECTIONS:
            rendered = render_class(policy_class, direction, self.settings, self._passing)
            for name, bodies in rendered.items():
                names.add(name)
                for family in self.families:
                    self.tables[family, "filter"].put(name, bodies)
        for name in self._class_chains[policy_class] - names:
            self._remove(name)
        self._class_chains[policy_class] = names

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
            self._remove(name)
        for name, bodies in trees.items():
            for family in self.families:
                self.tables[family, "filter"].put(name, bodies)
        self._tree_chains = set(trees)

    def _remove(self, name: str) -> None:
        for family in self.families:
            self.tables[family, "filter"].remove(name)
