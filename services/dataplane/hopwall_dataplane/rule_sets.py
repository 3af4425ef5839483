"""The sets that rules name: pieces in, kernel sets wanted, and which of them rules may rely on.

A set that is not whole, whose members make no sense, or that the kernel does not hold whole, is not known:
rules that name it are closed.

Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.chains import ChainBook
from hopwall_dataplane.faults import members_fault
from hopwall_dataplane.ipsets.elements import SetSpec, SetType
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.lookup import SetLookup
from hopwall_dataplane.members import BucketedMembers, member_element
from hopwall_dataplane.outcome import Family
from hopwall_model.names import SetName, set_name
from hopwall_model.updates import Scope, SetBucket, SetId, SetKind

_SET_TYPES: Mapping[SetKind, SetType] = {"net": "hash:net", "port": "hash:ip,port"}


@dataclass(slots=True)
class RuleSets:
    """What is held of each set, and what the kernel should hold of it.

    Shape: `faults` are shared with the rest of the desired state: object → why it is not as wanted.
    """

    families: tuple[Family, ...]
    chains: ChainBook
    faults: dict[str, str]
    wanted: AddressSets = field(default_factory=AddressSets)
    #: Asks the sets that rules may rely on, without the kernel.
    lookup: SetLookup = field(init=False)
    _held: dict[SetId, BucketedMembers] = field(default_factory=dict)
    _ids: dict[str, SetId] = field(default_factory=dict)
    _distrusted: set[SetId] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Let questions be answered from what is held."""
        self.lookup = SetLookup(self._held, self.chains.known_sets)

    def __contains__(self, set_id: SetId) -> bool:
        return set_id in self._held

    @property
    def ids(self) -> Iterable[SetId]:
        """The sets that are held."""
        return self._held.keys()

    def id_of(self, name: str) -> SetId | None:
        """Return the set behind a kernel set's name."""
        return self._ids.get(name)

    def names_of(self, set_id: SetId) -> Iterable[str]:
        """Return the kernel sets of a set that is held, one for each family."""
        return self._names(set_id, self._held[set_id].kind).values()

    def is_known(self, set_id: SetId) -> bool:
        """Tell whether rules may rely on the set."""
        return set_id in self.chains.known_sets

    def put(self, piece: SetBucket) -> None:
        """Take one bucket of a set; what is no member closes the set, until that bucket is right."""
        state = self._state(piece.id, piece.type)
        if fault := members_fault(
            piece.type, state.news(piece.n_buckets, piece.bucket, piece.members)
        ):
            self.faults[f"set {piece.id}"] = fault
            state.miss(piece.n_buckets, piece.bucket)
        else:
            state.put(piece.n_buckets, piece.bucket, piece.members)

    def void(self, set_id: SetId) -> None:
        """Take nothing for granted that is held of a set."""
        self._held[set_id].void()

    def drop(self, set_id: SetId) -> None:
        """Take a set for gone, unless something is put before `settle`."""
        self._held[set_id].drop()

    def settle(self, set_id: SetId) -> None:
        """Want in the kernel what the pieces now say of a set."""
        state = self._held[set_id]
        added, removed = state.settle()
        self.lookup.change(set_id, added, removed)
        if added or removed:
            self.chains.touch_set(set_id)
        names = self._names(set_id, state.kind)
        for members, change in (
            (removed, self.wanted.remove_element),
            (added, self.wanted.set_element),
        ):
            for member in members:
                element = member_element(state.kind, member)
                family = Family.of(element.cidr)
                if (name := names.get(family)) is not None:
                    change(name, element)
        if state.dropped:
            self._forget(set_id)
        self._judge(set_id)

    def distrust(self, names: Iterable[str]) -> bool:
        """Let rules rely on none of these kernel sets, and again on all others; return whether that is news."""
        now = {self._ids[name] for name in names if name in self._ids}
        if now == self._distrusted:
            return False
        changed, self._distrusted = now ^ self._distrusted, now
        for set_id in changed:
            self._judge(set_id)
        return True

    def _state(self, set_id: SetId, kind: SetKind) -> BucketedMembers:
        state = self._held.get(set_id)
        if state is not None and state.kind != kind:
            self._forget(set_id)
            state = None
        if state is None:
            state = self._held[set_id] = BucketedMembers(kind)
            for family, name in self._names(set_id, kind).items():
                self._ids[name] = set_id
                self.wanted.set_desired(SetSpec(name, _SET_TYPES[kind], family))
        return state

    def _forget(self, set_id: SetId) -> None:
        """Want a set's halves gone from the kernel."""
        state = self._held.pop(set_id)
        self.lookup.drop(set_id)
        self._distrusted.discard(set_id)
        for name in self._names(set_id, state.kind).values():
            del self._ids[name]
            self.wanted.remove_desired(name)

    def _names(self, set_id: SetId, kind: SetKind) -> dict[Family, SetName]:
        return {family: set_name(family.value, set_id, kind) for family in self.families}

    def _judge(self, set_id: SetId) -> None:
        """Say whether rules may rely on a set: all of it has come, and the kernel holds all of it."""
        state = self._held.get(set_id)
        if state is None or not state.is_whole:
            self.chains.know_set(set_id, None)
            return
        self.faults.pop(f"set {set_id}", None)
        self.chains.know_set(set_id, None if set_id in self._distrusted else state.kind)


def object_of(scope: Scope) -> str:
    """Return what people know a scope by: "policy gnp/a"."""
    return scope.replace("/", " ", 1)
