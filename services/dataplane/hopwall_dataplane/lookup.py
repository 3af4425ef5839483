"""Whether an address is in a set, without asking the kernel: for judging flows that exist already.

Pure. What it says of a set must be what the kernel's set says: a CIDR holds every address in it.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.judge import Packet, Side, number_of, numbered
from hopwall_dataplane.members import BucketedMembers
from hopwall_model.updates import SetId

_BITS = {4: 32, 6: 128}


@dataclass(slots=True)
class _Index:
    """One set's members, ready to be asked.

    Shape: `nets` is (version, bits after the network) → the networks of this length, as numbers; `ports` are
           members of kind "port", as they came.
    """

    nets: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    ports: set[str] = field(default_factory=set)

    def add(self, member: str) -> None:
        if "," in member:
            self.ports.add(member)
            return
        key, network = _place(member)
        self.nets.setdefault(key, set()).add(network)

    def discard(self, member: str) -> None:
        if "," in member:
            self.ports.discard(member)
            return
        key, network = _place(member)
        held = self.nets.get(key, set())
        held.discard(network)
        if not held:
            self.nets.pop(key, None)

    def holds(self, packet: Packet, side: Side) -> bool:
        address = packet.source if side == "source" else packet.destination
        if self.ports:
            port = packet.source_port if side == "source" else packet.destination_port
            return f"{address},{packet.protocol}:{port}" in self.ports
        version, number = numbered(address)
        for (of, shift), networks in self.nets.items():
            if of == version and number >> shift in networks:
                return True
        return False


def _place(cidr: str) -> tuple[tuple[int, int], int]:
    address, _, length = cidr.partition("/")
    version, number = number_of(address)
    shift = _BITS[version] - int(length)
    return (version, shift), number >> shift


@dataclass(slots=True)
class SetLookup:
    """Asks the sets of the desired state; a set is prepared when it is first asked.

    Shape: `known` are the sets rules may rely on.
    Cost:  O(members) for the first question of a set; then O(prefix lengths in it). A change costs what changed.
    """

    members: Mapping[SetId, BucketedMembers]
    known: Container[SetId]
    _indices: dict[SetId, _Index] = field(default_factory=dict)

    def __call__(self, set_id: SetId, packet: Packet, side: Side) -> bool | None:
        """Tell whether the set holds that side of the packet; None when rules may not rely on it."""
        if set_id not in self.known:
            return None
        index = self._indices.get(set_id)
        if index is None:
            index = self._indices[set_id] = _Index()
            for member in self.members[set_id].settled:
                index.add(member)
        return index.holds(packet, side)

    def change(self, set_id: SetId, added: Iterable[str], removed: Iterable[str]) -> None:
        """Take a change of a set's settled members."""
        index = self._indices.get(set_id)
        if index is not None:
            for member in removed:
                index.discard(member)
            for member in added:
                index.add(member)

    def drop(self, set_id: SetId) -> None:
        """Forget a set."""
        self._indices.pop(set_id, None)
