"""Other BGP daemons as the peer of ours: one way to start, tell and ask each.

with BirdHosts("interop", folder, 3) as hosts:
    peer = KINDS["frr"](hosts[2])
    peer.start(Link(family=4, ...))
    peer.announce(Said("10.65.2.0/24"))
    until(lambda: "10.65.1.0/24" in peer.learnt(4))
"""

from tests.support.peers.bird import BirdPeer
from tests.support.peers.exabgp import ExaBgpPeer
from tests.support.peers.frr import FrrPeer
from tests.support.peers.gobgp import GoBgpPeer
from tests.support.peers.peer import Peer

#: By short name, in the order of the tables.
KINDS: dict[str, type[Peer]] = {
    kind.kind: kind for kind in (BirdPeer, FrrPeer, GoBgpPeer, ExaBgpPeer)
}
