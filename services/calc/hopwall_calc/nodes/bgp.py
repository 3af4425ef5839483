"""bgp: what each host's BGP daemon is to do: its sessions, each with what the peer may announce.

- One of our hosts: its own blocks and strays (`trust`), and what any host may (`Bgp.unclaimed`).
- A reflector of ours: what all hosts may, as it passes on what others announced.
- Anybody else: what an import rule accepts, and nothing inside our pools.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.nodes import ranges, trust
from hopwall_calc.nodes.hosts import Hosts
from hopwall_calc.nodes.ranges import AllRanges, Ranges
from hopwall_calc.nodes.sessions import Sessions
from hopwall_calc.nodes.speakers import Speakers
from hopwall_calc.nodes.trust import Entitled, Trust
from hopwall_calc.prefixes import LONGEST, accepted, family_of, of_family, without
from hopwall_model.bgp import Bgp, PrefixRange, Session
from hopwall_model.bgp_specs import DEFAULT_AS

#: A host that takes no part: its daemon has nothing to do. The router id is nobody's (RFC 5737).
NOTHING = Bgp(router_id="192.0.2.1", as_number=DEFAULT_AS)


class Daemons(KeyedNode[str, Bgp]):
    """Host → what its daemon is to do; every known host has a value."""

    name = "bgp"

    def __init__(
        self,
        hosts: Hosts,
        speakers: Speakers,
        sessions: Sessions,
        trusted: Trust,
        all_ranges: AllRanges,
    ) -> None:
        super().__init__()
        self._hosts = hosts.out
        self._speakers = speakers.out
        self._sessions = sessions.out
        self._trust = trusted.out
        self._ranges = all_ranges.out

    def on_hosts(self) -> Answer:
        """Mark the hosts that came or went."""
        return self.mark(self._hosts.changed)

    def on_speakers(self) -> Answer:
        """Mark the changed hosts, and all when one became a reflector or ceased to be one."""
        speakers = self._speakers
        for host, old in speakers.changed.items():
            new = speakers.get(host)
            if bool(old and old.cluster_id) != bool(new and new.cluster_id):
                return self.mark({*speakers, *speakers.changed})
        return self.mark(speakers.changed)

    def on_sessions(self) -> Answer:
        """Mark the hosts whose sessions changed."""
        return self.mark(self._sessions.changed)

    def on_trust(self) -> Answer:
        """Mark the hosts that may announce other things, and whoever speaks with them."""
        changed = self._trust.changed
        sessions = self._sessions.values.items()
        return self.mark(
            host
            for host, its in sessions
            if host in changed or any(session.peer_host in changed for session in its)
        )

    def on_ranges(self) -> Answer:
        """Mark all hosts that speak."""
        return self.mark(self._speakers)

    def keys(self) -> Iterable[str]:
        """Return every known host."""
        return self._hosts

    def compute(self, key: str) -> Bgp | None:
        """Return what the host's daemon is to do; None if nobody knows the host."""
        if key not in self._hosts:
            return None
        me = self._speakers.get(key)
        if me is None:
            return NOTHING
        common = self._ranges.get(ranges.ALL) or ranges.NOTHING
        own = self._trust.get(key) or trust.NOTHING
        sessions = self._sessions.get(key) or ()
        return Bgp(
            router_id=me.router_id,
            as_number=me.as_number,
            listen_port=me.listen_port,
            cluster_id=me.cluster_id,
            log_severity=me.severity,
            ignored_interfaces=me.ignored_interfaces,
            sessions=tuple(
                replace(session, entitled=self._entitled(session, common)) for session in sessions
            ),
            blocks=own.blocks,
            pools=common.exported,
            # Large, and it changes with every block: only for those who need it.
            unclaimed=common.unclaimed if any(map(self._is_ordinary, sessions)) else (),
            advertisements=me.advertisements,
        )

    def _is_ordinary(self, session: Session) -> bool:
        """Tell whether the peer is one of our hosts and no reflector."""
        peer = self._speakers.get(session.peer_host)
        return peer is not None and not peer.cluster_id

    def _entitled(self, session: Session, common: Ranges) -> tuple[PrefixRange, ...]:
        peer = self._speakers.get(session.peer_host)
        if peer is None:
            pools = of_family(common.pools, session.family)
            return _without(accepted(session.imports, session.family), pools)
        if peer.cluster_id:
            return tuple(r for r in common.reflected if family_of(r.cidr) == session.family)
        its = self._trust.get(session.peer_host) or trust.NOTHING
        return tuple(_ranges(its, session.family))


def _ranges(its: Entitled, family: int) -> Iterator[PrefixRange]:
    for network in (*its.blocks, *its.strays):
        if family_of(network) == family:
            length = int(network.partition("/")[2])
            yield PrefixRange(network, length, LONGEST[family])


def _without(given: tuple[PrefixRange, ...], pools: Iterable[str]) -> tuple[PrefixRange, ...]:
    for pool in pools:
        given = tuple(part for range_ in given for part in without(range_, pool))
    return given
