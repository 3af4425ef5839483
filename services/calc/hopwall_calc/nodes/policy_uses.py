"""policy_uses: which hosts have an endpoint that a policy or profile applies to."""

from typing import Any

from hopwall_calc.engine import Answer, Node, Table
from hopwall_calc.nodes.endpoints import Endpoints, Placed
from hopwall_model.updates import EndpointSet, PolicyId


def used_by(placed: Placed | None) -> set[PolicyId]:
    """Return the policies and profiles that an endpoint names."""
    if placed is None:
        return set()
    endpoint = placed[1]
    found = set(endpoint.profiles)
    lists = [endpoint.tiers]
    if not isinstance(endpoint, EndpointSet):
        lists += [endpoint.forward, endpoint.pre_dnat, endpoint.untracked]
    for tiers in lists:
        for tier in tiers:
            found.update(tier.ingress, tier.egress)
    return found


class PolicyUses(Node):
    """(host, policy) → True while an endpoint there names the policy."""

    name = "policy_uses"

    def __init__(self, endpoints: Endpoints) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self.out: Table[tuple[str, PolicyId], bool] = Table()
        self._counts: dict[tuple[str, PolicyId], int] = {}
        self.hosts: dict[PolicyId, set[str]] = {}

    def on_endpoints(self) -> Answer:
        """Count what the changed endpoints named before, and name now."""
        dirty = False
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            before, after = used_by(old), used_by(new)
            if old and new and old[0] == new[0]:
                before, after = before - after, after - before
            for policy in after:
                assert new is not None
                dirty |= self._count((new[0], policy), 1)
            for policy in before:
                assert old is not None
                dirty |= self._count((old[0], policy), -1)
        return Answer.HANDLED if dirty else Answer.UNAFFECTED

    def _count(self, pair: tuple[str, PolicyId], by: int) -> bool:
        count = self._counts.get(pair, 0) + by
        host, policy = pair
        if count:
            self._counts[pair] = count
            if pair in self.out:
                return False
            self.out.put(pair, True)
            self.hosts.setdefault(policy, set()).add(host)
            return True
        del self._counts[pair]
        self.out.put(pair, None)
        users = self.hosts[policy]
        users.discard(host)
        if not users:
            del self.hosts[policy]
        return True

    def recompute(self) -> None:
        """Count all endpoints anew."""
        self._counts, self.hosts = {}, {}
        before = set(self.out)
        for placed in self._endpoints.values.values():
            for policy in used_by(placed):
                pair = (placed[0], policy)
                self._counts[pair] = self._counts.get(pair, 0) + 1
                self.out.put(pair, True)
                self.hosts.setdefault(policy, set()).add(placed[0])
        for pair in before - self._counts.keys():
            self.out.put(pair, None)

    def has_changes(self) -> bool:
        """Tell whether a use began or ended."""
        return bool(self.out.changed)

    def settle(self) -> None:
        """Forget what changed."""
        self.out.settle()

    def facts(self) -> Any:
        """Return the uses with their counts."""
        return dict(self._counts)
