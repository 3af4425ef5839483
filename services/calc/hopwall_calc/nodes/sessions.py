"""sessions: with whom each host speaks, and how; what a peer is believed is not in here (`bgp`).

A session is with one address. Where several declarations would make it: a BGPPeer for the host by name,
by selector, for all hosts; the other side of one; the mesh. Among equals the first name wins.

Source: Calico, bgp_processor.go and its documents (mesh, reflectors, reverse peering); RFC 4456.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake_bgp import BgpConfigInput, BgpFilterInput, BgpPeerInput
from hopwall_calc.nodes.peerings import Peerings
from hopwall_calc.nodes.speakers import UNSAID, Speaker, Speakers
from hopwall_model.bgp import FilterRule, Session
from hopwall_model.bgp_specs import BGP_PORT, DEFAULT_CONFIGURATION

FAMILIES: tuple[Literal[4, 6], ...] = (4, 6)


class Sessions(KeyedNode[str, tuple[Session, ...]]):
    """Host → its sessions by name, with nothing entitled yet."""

    name = "sessions"

    def __init__(
        self,
        speakers: Speakers,
        configurations: KeyedNode[str, BgpConfigInput],
        peers: KeyedNode[str, BgpPeerInput],
        peerings: Peerings,
        filters: KeyedNode[str, BgpFilterInput],
    ) -> None:
        super().__init__()
        self._speakers = speakers.out
        self._configurations = configurations.out
        self._peers = peers.out
        self._peerings = peerings.out
        self._filters = filters.out
        #: Who speaks, by name: the order must not be that of arrival, for two may have one address.
        self._names: list[str] = []
        #: Address → the host that speaks there; of several the first by name.
        self._host_at: dict[str, str] = {}

    def on_speakers(self) -> Answer:
        """Mark the changed hosts, and all when one changed what others must know of it."""
        speakers = self._speakers
        for host, old in speakers.changed.items():
            new = speakers.get(host)
            if (old and old.seen()) != (new and new.seen()):
                self._index()
                return self.mark({*speakers, *speakers.changed})
        return self.mark(speakers.changed)

    def on_configurations(self) -> Answer:
        """Mark all hosts when the mesh changed."""
        if DEFAULT_CONFIGURATION not in self._configurations.changed:
            return Answer.UNAFFECTED
        old = self._configurations.changed[DEFAULT_CONFIGURATION] or UNSAID
        if _mesh(old) == _mesh(self._common()):
            return Answer.UNAFFECTED
        return self.mark(self._speakers)

    def on_peers(self) -> Answer:
        """Mark the hosts that have the changed peers; who no longer does is told by `peerings`."""
        return self._mark_users(self._peers.changed)

    def on_peerings(self) -> Answer:
        """Mark the hosts that came into a peering, or left it."""
        dirty: set[str] = set()
        for name, old in self._peerings.changed.items():
            for peering in (old, self._peerings.get(name)):
                if peering is not None:
                    dirty |= peering.hosts()
        return self.mark(dirty)

    def on_filters(self) -> Answer:
        """Mark the hosts whose peers name a changed filter."""
        changed = self._filters.changed.keys()
        peers = self._peers.values.items()
        return self._mark_users(
            name for name, peer in peers if not changed.isdisjoint(peer.filters)
        )

    def _mark_users(self, peers: Iterable[str]) -> Answer:
        found = (self._peerings.get(name) for name in peers)
        return self.mark(host for peering in found if peering for host in peering.hosts())

    def rebuild(self) -> None:
        """Collect the addresses anew."""
        self._index()

    def _index(self) -> None:
        self._names, self._host_at = sorted(self._speakers), {}
        for host in reversed(self._names):
            speaker = self._speakers.values[host]
            for address in (speaker.ipv4, speaker.ipv6):
                self._host_at[address] = host

    def keys(self) -> Iterable[str]:
        """Return every host that speaks."""
        return self._speakers

    def _common(self) -> BgpConfigInput:
        return self._configurations.get(DEFAULT_CONFIGURATION) or UNSAID

    # ------------------------------------------------------------ a host's sessions

    def compute(self, key: str) -> tuple[Session, ...] | None:
        """Return the host's sessions; None if it does not speak. Cost: peers and speakers."""
        me = self._speakers.get(key)
        if me is None:
            return None
        found: dict[str, Session] = {}
        for _, name, remotes in sorted(self._explicit(key), key=lambda entry: entry[:2]):
            for session in self._of_peer(key, me, self._peers.values[name], remotes):
                found.setdefault(session.peer_ip, session)
        for session in self._of_mesh(key, me):
            found.setdefault(session.peer_ip, session)
        return tuple(sorted(found.values(), key=lambda session: session.name))

    def _explicit(self, host: str) -> Iterator[tuple[int, str, frozenset[str]]]:
        """Yield the rank and name of each peering of the host, and the hosts of its other side."""
        for name, peering in self._peerings.values.items():
            peer = self._peers.values[name]
            rank = 0 if peer.node else 2 if peer.nodes is None else 1
            if host in peering.locals:
                yield rank, name, peering.remotes
            if peer.reverse and host in peering.remotes:
                yield rank + 3, name, peering.locals

    def _of_peer(
        self, host: str, me: Speaker, peer: BgpPeerInput, remotes: frozenset[str]
    ) -> Iterator[Session]:
        if peer.peer_ip:
            family: Literal[4, 6] = 6 if ":" in peer.peer_ip else 4
            if me.address(family) and me.address(family) != peer.peer_ip:
                yield self._to_address(me, peer, family)
            return
        for other in sorted(remotes):
            it = self._speakers.get(other)
            if it is None or other == host:
                continue
            for family in FAMILIES:
                mine, its = me.address(family), it.address(family)
                if mine and its and mine != its:
                    yield self._to_host(me, peer, family, other, it)

    def _to_address(self, me: Speaker, peer: BgpPeerInput, family: Literal[4, 6]) -> Session:
        host = self._host_at.get(peer.peer_ip, "")
        it = self._speakers.get(host)
        local_as = peer.local_as or me.as_number
        imports = self._rules(peer, family, inward=True)
        if it is None:
            # What no rule accepts is not taken from a machine that is none of ours.
            imports = (*imports, FilterRule(action="reject", family=family))
        return Session(
            name=f"peer/{peer.name}/{peer.peer_ip}",
            family=family,
            peer_ip=peer.peer_ip,
            peer_port=peer.peer_port or (BGP_PORT if it is None else it.listen_port),
            peer_as=peer.peer_as,
            local_as=local_as,
            peer_host=host,
            reflector_client=_is_client(me, it, local_as, peer.peer_as),
            password=peer.password,
            source_ip=me.address(family) if peer.from_node_ip else "",
            next_hop=peer.next_hop,
            restart_s=peer.restart_s,
            keepalive_s=peer.keepalive_s,
            allow_local_as=peer.allow_local_as,
            ttl_security=peer.ttl_security,
            reachable_by=peer.reachable_by,
            bfd=peer.bfd,
            direct=_is_direct(peer, me, peer.peer_ip, it),
            imports=imports,
            exports=self._rules(peer, family, inward=False),
        )

    def _to_host(
        self, me: Speaker, peer: BgpPeerInput, family: Literal[4, 6], other: str, it: Speaker
    ) -> Session:
        mine, its = me.address(family), it.address(family)
        return Session(
            name=f"peer/{peer.name}/{its}",
            family=family,
            peer_ip=its,
            peer_port=it.listen_port,
            peer_as=it.as_number,
            local_as=me.as_number,
            peer_host=other,
            reflector_client=_is_client(me, it, me.as_number, it.as_number),
            # Where only one side is told of the session, that side opens it.
            passive=peer.reverse and its > mine,
            password=peer.password,
            source_ip=mine if peer.from_node_ip else "",
            next_hop=peer.next_hop,
            restart_s=peer.restart_s,
            keepalive_s=peer.keepalive_s,
            allow_local_as=peer.allow_local_as,
            ttl_security=peer.ttl_security,
            bfd=peer.bfd,
            direct=_is_direct(peer, me, its, it),
            imports=self._rules(peer, family, inward=True),
            exports=self._rules(peer, family, inward=False),
        )

    def _of_mesh(self, host: str, me: Speaker) -> Iterator[Session]:
        """Yield a session with every host of the mesh; reflectors are not in it."""
        common = self._common()
        if common.mesh is False or me.cluster_id:
            return
        for other in self._names:
            it = self._speakers.values[other]
            if other == host or it.cluster_id:
                continue
            for family in FAMILIES:
                mine, its = me.address(family), it.address(family)
                if mine and its and mine != its:
                    yield Session(
                        name=f"mesh/{other}/{its}",
                        family=family,
                        peer_ip=its,
                        peer_port=it.listen_port,
                        peer_as=it.as_number,
                        local_as=me.as_number,
                        peer_host=other,
                        passive=its > mine,
                        password=common.mesh_password,
                        source_ip=mine,
                        restart_s=common.mesh_restart_s,
                    )

    def _rules(
        self, peer: BgpPeerInput, family: Literal[4, 6], *, inward: bool
    ) -> tuple[FilterRule, ...]:
        """Return the rules of the peer's filters, in order; one that is absent rejects everything."""
        rules: list[FilterRule] = []
        for name in peer.filters:
            given = self._filters.get(name)
            if given is None:
                return (*rules, FilterRule(action="reject", family=family))
            rules += (given.imports if inward else given.exports)[family]
        return tuple(rules)


def _mesh(common: BgpConfigInput) -> tuple[bool, object, int]:
    return common.mesh is not False, common.mesh_password, common.mesh_restart_s


def _is_direct(peer: BgpPeerInput, me: Speaker, its: str, it: Speaker | None) -> bool:
    """Tell whether BFD is to be that of one hop, as routers speak it with a neighbour on the link.

    Of two hosts each must be on a link of the other, as both are told by themselves and must speak the same.
    """
    if not peer.bfd or peer.ttl_security or peer.reachable_by or not me.reaches(its):
        return False
    return it is None or it.reaches(me.address(6 if ":" in its else 4))


def _is_client(me: Speaker, it: Speaker | None, local_as: int, peer_as: int) -> bool:
    """Tell whether we reflect to the peer: internal, and no reflector of our cluster (RFC 4456)."""
    if not me.cluster_id or local_as != peer_as:
        return False
    return it is None or it.cluster_id != me.cluster_id
