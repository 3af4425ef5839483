"""needs: which shared scopes each host needs.

The policies and profiles that its endpoints name, the sets that those name, the ranges of the pools while
there are any, and, where no BGP spreads them, the addresses on every other host.
"""

from collections.abc import Iterable
from typing import Any

from hopwall_calc.engine import Answer, KeyedNode, Node
from hopwall_calc.intake import PoolInput
from hopwall_calc.nodes.hosts import Hosts
from hopwall_calc.nodes.policies import Policies
from hopwall_calc.nodes.policy_uses import PolicyUses
from hopwall_calc.nodes.routes import routes_scope
from hopwall_calc.rules import set_scope
from hopwall_model.updates import NAT_POOLS, POOLS, PolicyId, Scope

Pair = tuple[str, PolicyId]

_POOL_SCOPES = (set_scope(POOLS), set_scope(NAT_POOLS))


class Needs(Node):
    """Host → scopes and scope → hosts."""

    name = "needs"

    def __init__(
        self,
        uses: PolicyUses,
        policies: Policies,
        hosts: Hosts,
        pools: KeyedNode[str, PoolInput],
        *,
        routes: bool,
    ) -> None:
        super().__init__()
        self._uses = uses
        self._policies = policies.out
        self._hosts = hosts.out
        self._pools = pools.out
        self._routes = routes
        self._dirty: set[Pair] = set()
        #: Hosts that may begin or cease to need the pools, and those that do.
        self._dirty_hosts: set[str] = set()
        self._pooled: set[str] = set()
        #: (host, policy) → the scopes it makes the host need.
        self._held: dict[Pair, tuple[Scope, ...]] = {}
        #: Host → scope → for how many policies.
        self.by_host: dict[str, dict[Scope, int]] = {}
        self.by_scope: dict[Scope, set[str]] = {}
        #: (host, scope) → whether the host needed it at the last `settle`.
        self.changed: dict[tuple[str, Scope], bool] = {}

    def on_policy_uses(self) -> Answer:
        """Mark the changed uses."""
        self._dirty.update(self._uses.out.changed)
        return Answer.HANDLED

    def on_policies(self) -> Answer:
        """Mark all uses of policies that now name other sets."""
        for policy, old in self._policies.changed.items():
            new = self._policies.get(policy)
            if old is None or new is None or old.scopes != new.scopes:
                hosts = self._uses.hosts.get(policy, ())
                self._dirty.update((host, policy) for host in hosts)
        return Answer.HANDLED if self._dirty else Answer.UNAFFECTED

    def on_hosts(self) -> Answer:
        """Mark the hosts that came or went."""
        for host, old in self._hosts.changed.items():
            if (old is None) != (host not in self._hosts):
                self._dirty_hosts.add(host)
        if self._routes:
            self._link_changed()
        return Answer.HANDLED if self._dirty_hosts else Answer.UNAFFECTED

    def on_pools(self) -> Answer:
        """Mark all hosts when the first pool appeared or the last vanished."""
        if bool(self._pools) != bool(self._pooled):
            self._dirty_hosts.update(self._hosts)
        return Answer.HANDLED if self._dirty_hosts else Answer.UNAFFECTED

    def _link_changed(self) -> None:
        """Let every host need the routes of each new one, and it theirs."""
        come = [h for h, old in self._hosts.changed.items() if old is None]
        gone = [h for h in self._hosts.changed if h not in self._hosts]
        before = (set(self._hosts) - set(come)) | set(gone)
        for host in gone:
            before.discard(host)
            self._link(host, before, -1)
        for host in come:
            self._link(host, before, 1)
            before.add(host)

    def _link(self, host: str, others: Iterable[str], by: int) -> None:
        scope = routes_scope(host)
        for other in others:
            self._count(other, (scope,), by)
            self._count(host, (routes_scope(other),), by)

    def _count(self, host: str, scopes: Iterable[Scope], by: int) -> None:
        counts = self.by_host.setdefault(host, {})
        for scope in scopes:
            count = counts.get(scope, 0)
            if count + by:
                counts[scope] = count + by
            else:
                del counts[scope]
            if count and count + by:
                continue
            self.changed.setdefault((host, scope), bool(count))
            hosts = self.by_scope.setdefault(scope, set())
            if count:
                hosts.discard(host)
                if not hosts:
                    del self.by_scope[scope]
            else:
                hosts.add(host)
        if not counts:
            del self.by_host[host]

    def finish(self) -> None:
        """Count the scopes of the marked uses, and the pools for the marked hosts."""
        for pair in self._dirty:
            host, policy = pair
            old = self._held.pop(pair, ())
            new: tuple[Scope, ...] = ()
            if pair in self._uses.out:
                new = self._held[pair] = self._policies.values[policy].scopes
            self._count(host, new, 1)
            self._count(host, old, -1)
        for host in self._dirty_hosts:
            wanted = host in self._hosts and bool(self._pools)
            if wanted and host not in self._pooled:
                self._pooled.add(host)
                self._count(host, _POOL_SCOPES, 1)
            elif not wanted and host in self._pooled:
                self._pooled.discard(host)
                self._count(host, _POOL_SCOPES, -1)
        self._dirty, self._dirty_hosts = set(), set()

    def recompute(self) -> None:
        """Count everything anew."""
        before = {(host, scope) for host, scopes in self.by_host.items() for scope in scopes}
        was = {**dict.fromkeys(before, True), **self.changed}
        self._held, self.by_host, self.by_scope, self.changed = {}, {}, {}, {}
        self._dirty, self._dirty_hosts, self._pooled = set(self._uses.out), set(self._hosts), set()
        self.finish()
        linked: list[str] = []
        for host in self._hosts if self._routes else ():
            self._link(host, linked, 1)
            linked.append(host)
        now = set(self.changed)
        self.changed = {
            pair: was.get(pair, False)
            for pair in was.keys() | now
            if was.get(pair, False) != (pair in now)
        }

    def has_changes(self) -> bool:
        """Tell whether a need began or ended."""
        return any(was != self.needs(*pair) for pair, was in self.changed.items())

    def needs(self, host: str, scope: Scope) -> bool:
        """Tell whether the host needs the scope."""
        return scope in self.by_host.get(host, ())

    def settle(self) -> None:
        """Forget what changed."""
        self.changed = {}

    def facts(self) -> Any:
        """Return the counts by host and scope."""
        return {host: dict(scopes) for host, scopes in self.by_host.items()}
