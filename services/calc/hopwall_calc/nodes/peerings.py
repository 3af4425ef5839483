"""peerings: whom each BGP peer's selectors mean now, by the labels of hosts."""

from collections.abc import Iterable

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import NodeInput
from hopwall_calc.intake_bgp import BgpPeerInput
from hopwall_model.selectors import Selector


class Peering(Struct, frozen=True):
    """The hosts that get the session, and those it is with; none where the peer is an address."""

    locals: frozenset[str]
    remotes: frozenset[str]

    def hosts(self) -> frozenset[str]:
        """Return the hosts of both sides."""
        return self.locals | self.remotes


class Peerings(KeyedNode[str, Peering]):
    """BGP peer → the hosts of both sides."""

    name = "peerings"

    def __init__(
        self, peers: KeyedNode[str, BgpPeerInput], declared: KeyedNode[str, NodeInput]
    ) -> None:
        super().__init__()
        self._peers = peers.out
        self._declared = declared.out

    def on_peers(self) -> Answer:
        """Mark the changed peers."""
        return self.mark(self._peers.changed)

    def on_declared(self) -> Answer:
        """Mark what looks at hosts when a host came, went or changed its labels."""
        for name, old in self._declared.changed.items():
            new = self._declared.get(name)
            if old is None or new is None or old.labels != new.labels:
                peers = self._peers.values.items()
                return self.mark(name for name, peer in peers if not peer.node or peer.peers)
        return Answer.UNAFFECTED

    def keys(self) -> Iterable[str]:
        """Return every BGP peer."""
        return self._peers

    def compute(self, key: str) -> Peering | None:
        """Return whom the peer means. Cost: the number of hosts."""
        peer = self._peers.get(key)
        if peer is None:
            return None
        if peer.node:
            locals_ = frozenset((peer.node,))
        elif peer.nodes is not None:
            locals_ = self._matching(peer.nodes)
        else:
            locals_ = frozenset(self._declared)
        remotes = frozenset[str]() if peer.peers is None else self._matching(peer.peers)
        return Peering(locals_, remotes)

    def _matching(self, selector: Selector) -> frozenset[str]:
        hosts = self._declared.values.items()
        return frozenset(name for name, host in hosts if selector.matches(host.labels))
