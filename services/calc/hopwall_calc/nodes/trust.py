"""trust: what each host may announce besides what any host may: its blocks, and its strays.

A stray is a single address that an endpoint of the host owns inside another host's block: borrowed, or
moved with its endpoint. While a migration lasts both hosts own the address, so at the switch no filter has to
change anywhere.
"""

from collections.abc import Iterable
from ipaddress import ip_network

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import PoolInput
from hopwall_calc.intake_bgp import BlockInput
from hopwall_calc.nodes.endpoints import Endpoints
from hopwall_calc.nodes.routes import routed
from hopwall_calc.prefixes import PrefixIndex


class Entitled(Struct, frozen=True):
    """Networks in announced pools, sorted."""

    blocks: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


NOTHING = Entitled()


class Trust(KeyedNode[str, Entitled]):
    """Host → what it alone may announce."""

    name = "trust"

    def __init__(
        self,
        endpoints: Endpoints,
        blocks: KeyedNode[str, BlockInput],
        pools: KeyedNode[str, PoolInput],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._blocks = blocks.out
        self._pools = pools.out
        #: Address → the hosts of the endpoints that own it: one, or two while it moves.
        self._homes: dict[str, tuple[str, ...]] = {}
        #: The same, of strays alone; and host → its strays.
        self._stray_at: dict[str, tuple[str, ...]] = {}
        self._strays: dict[str, set[str]] = {}
        #: Networks → the hosts whose block they are.
        self._hosts_of: PrefixIndex[str] = PrefixIndex()
        self._exported: PrefixIndex[str] = PrefixIndex()
        self._by_host: dict[str, dict[str, str]] = {}

    def on_endpoints(self) -> Answer:
        """Move the addresses of the changed endpoints, and mark the hosts whose strays changed."""
        touched: dict[str, None] = {}
        for old in self._endpoints.changed.values():
            for address in () if old is None else routed(old):
                self._leave(address, old[0] if old else "")
                touched[address] = None
        for key in self._endpoints.changed:
            new = self._endpoints.get(key)
            for address in () if new is None else routed(new):
                self._enter(address, new[0] if new else "")
                touched[address] = None
        return self.mark(host for address in touched for host in self._settle(address))

    def _enter(self, address: str, host: str) -> None:
        self._homes[address] = tuple(sorted((*self._homes.get(address, ()), host)))

    def _leave(self, address: str, host: str) -> None:
        rest = list(self._homes.pop(address))
        rest.remove(host)
        if rest:
            self._homes[address] = tuple(rest)

    def on_blocks(self) -> Answer:
        """Move the changed blocks, and mark their hosts and those of the addresses in them.

        Cost: the addresses of the blocks, 4,096 each at most.
        """
        dirty: set[str] = set()
        touched: set[str] = set()
        for name, old in self._blocks.changed.items():
            new = self._blocks.get(name)
            for block in (old, new):
                if block is not None:
                    dirty.add(block.host)
                    touched.add(block.cidr)
            if old is not None:
                self._hosts_of.remove(old.cidr, old.host)
                del self._by_host[old.host][name]
            if new is not None:
                self._put_block(name, new)
        for cidr in touched:
            for address in map(str, ip_network(cidr)):
                dirty.update(self._settle(f"{address}/{128 if ':' in address else 32}"))
        return self.mark(dirty)

    def on_pools(self) -> Answer:
        """Leave it to recompute when a range came, went, or is announced no more: that is rare."""
        for name, old in self._pools.changed.items():
            new = self._pools.get(name)
            if (old and (old.cidr, old.exported)) != (new and (new.cidr, new.exported)):
                return Answer.UNHANDLED
        return Answer.UNAFFECTED

    def _put_block(self, name: str, block: BlockInput) -> None:
        self._hosts_of.add(block.cidr, block.host)
        self._by_host.setdefault(block.host, {})[name] = block.cidr

    def _settle(self, address: str) -> Iterable[str]:
        """Bring the address's place among the strays up to date; return the hosts it concerns."""
        was = self._stray_at.pop(address, ())
        homes = dict.fromkeys(self._homes.get(address, ()))
        now = tuple(host for host in homes if self._is_stray(address, host))
        if now:
            self._stray_at[address] = now
        if was == now:
            return ()
        for host in was:
            self._strays[host].remove(address)
        for host in now:
            self._strays.setdefault(host, set()).add(address)
        return (*was, *now)

    def _is_stray(self, address: str, host: str) -> bool:
        hosts = set(self._hosts_of.covering(address))
        return bool(hosts) and host not in hosts and self._is_exported(address)

    def _is_exported(self, network: str) -> bool:
        return any(True for _ in self._exported.covering(network))

    def rebuild(self) -> None:
        """Collect pools, blocks and addresses anew."""
        self._hosts_of, self._exported, self._by_host = PrefixIndex(), PrefixIndex(), {}
        self._homes, self._stray_at, self._strays = {}, {}, {}
        for pool in self._pools.values.values():
            if pool.exported:
                self._exported.add(pool.cidr, pool.cidr)
        for name, block in self._blocks.values.items():
            self._put_block(name, block)
        for placed in self._endpoints.values.values():
            for address in routed(placed):
                self._enter(address, placed[0])
        for address in self._homes:
            self._settle(address)

    def keys(self) -> Iterable[str]:
        """Return the hosts with blocks or strays."""
        return (*self._by_host, *self._strays)

    def compute(self, key: str) -> Entitled | None:
        """Return the host's blocks and strays; None if it has neither."""
        blocks = self._by_host.get(key, {}).values()
        found = Entitled(
            tuple(sorted(cidr for cidr in set(blocks) if self._is_exported(cidr))),
            tuple(sorted(self._strays.get(key, ()))),
        )
        return None if found == NOTHING else found
