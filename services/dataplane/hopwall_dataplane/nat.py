"""Which addresses are translated on this host: floating ones, and pools that hide behind the host.

Pure. An address that the host itself lives by, or has, is never translated: it would be cut off from those
who could undo it.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hopwall_dataplane.chains import ChainBook, TablePart
from hopwall_dataplane.faults import is_address
from hopwall_dataplane.iptables.nat_chains import (
    OUT_CHAIN,
    from_chain,
    lowest_externals,
    nat_chains,
    to_chain,
)
from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.outcome import Family
from hopwall_model.status import Refusal
from hopwall_model.updates import EndpointId, EndpointSet, Nat


class Pools(NamedTuple):
    """What one family knows of the pools: all are known and can be relied on; some have natOutgoing."""

    known: bool = False
    outgoing: bool = False


@dataclass(slots=True)
class Translations:
    """The floating addresses of this host's endpoints, and what the nat table holds because of them.

    Shape: an external address of several endpoints is that of the lowest id.
    Owner: the agent's one task.
    """

    chains: ChainBook
    #: Families in which this host gives workloads more than a wall.
    families: tuple[Family, ...]
    _nats: dict[EndpointId, EndpointSet] = field(default_factory=dict)
    _faults: dict[str, str] = field(default_factory=dict)
    #: External address → the endpoint it is translated for, and how.
    _won: dict[str, tuple[EndpointId, Nat]] = field(default_factory=dict)
    _pools: Mapping[Family, Pools] = field(default_factory=dict)
    _dirty: bool = False

    def place(self, endpoint: EndpointSet) -> None:
        """Take an endpoint's floating addresses."""
        self.remove(endpoint.id)
        if endpoint.nats:
            self._nats[endpoint.id] = endpoint
            self._dirty = True

    def remove(self, endpoint_id: EndpointId) -> None:
        """Forget an endpoint's floating addresses."""
        if self._nats.pop(endpoint_id, None) is not None:
            self._dirty = True

    def look_again(self) -> None:
        """Take it that addresses may have become the host's own, or ceased to be."""
        self._dirty = self._dirty or bool(self._nats)

    def settle(self, pools: Mapping[Family, Pools], taken: Callable[[], Container[str]]) -> None:
        """Bring the nat table to what is known. `taken` tells the CIDRs of addresses nobody may translate.

        Cost: O(floating addresses of the host) when one changed, else nothing.
        """
        if not self._dirty and pools == self._pools:
            return
        self._dirty, self._pools = False, dict(pools)
        self._won = self._winners(taken())
        nats = [nat for _, (_, nat) in sorted(self._won.items())]
        parts: dict[tuple[Family, TableName], TablePart] = {}
        for family in self.families:
            mine = [nat for nat in nats if (":" in nat.external) == (family is Family.V6)]
            known, outgoing = pools.get(family, Pools())
            chains, jumps = nat_chains(family, mine, pools=known, outgoing=outgoing)
            parts[family, "nat"] = TablePart(chains, jumps)
        self.chains.put_part("nat", parts)

    def refusals(self) -> Iterable[Refusal]:
        """List the floating addresses that are not translated, and why."""
        return (Refusal(object=o, reason=why) for o, why in sorted(self._faults.items()))

    @property
    def objects(self) -> dict[str, tuple[str, str]]:
        """Name what each chain translates, for people, as `ChainBook.objects` does."""
        found = {OUT_CHAIN: "natOutgoing of the pools"}
        named = {x: _object(nat, endpoint_id) for x, (endpoint_id, nat) in self._won.items()}
        for internal, external in lowest_externals(nat for _, nat in self._won.values()).items():
            found[from_chain(internal)] = named[external]
        found |= {to_chain(external): name for external, name in named.items()}
        return {chain: (name, "") for chain, name in found.items()}

    def _winners(self, taken: Container[str]) -> dict[str, tuple[EndpointId, Nat]]:
        self._faults = {}
        won: dict[str, tuple[EndpointId, Nat]] = {}
        for endpoint_id, endpoint in sorted(self._nats.items()):
            for nat in endpoint.nats:
                if why := _fault(nat, endpoint, taken):
                    self._faults[_object(nat, endpoint_id)] = why
                else:
                    won.setdefault(nat.external, (endpoint_id, nat))
        return won


def _object(nat: Nat, endpoint_id: EndpointId) -> str:
    return f"nat {nat.external} of endpoint {endpoint_id}"


def externals(endpoint: EndpointSet) -> list[str]:
    """List an endpoint's floating addresses: the host itself finds its way to them by a route."""
    return [nat.external for nat in endpoint.nats if not _fault(nat, endpoint)]


def _fault(nat: Nat, endpoint: EndpointSet, taken: Container[str] = ()) -> str:
    for cidr in (nat.external, nat.internal):
        if not is_address(cidr):
            return f"{cidr!r} is not an address."
    if nat.internal not in endpoint.addresses or (":" in nat.internal) != (":" in nat.external):
        return f"{nat.internal} is not an address of the endpoint in the same family."
    if nat.external in taken:
        return f"{nat.external} is an address that hosts have or are reached at."
    return ""
