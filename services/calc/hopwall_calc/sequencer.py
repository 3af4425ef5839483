"""Turns what changed into messages: each shared piece once, and for each host what is its own.

Order, so that nothing names what is not there yet: shared pieces (sets, policies, routes), then each
host's batch: pieces it newly needs, needs, endpoints, BGP; removals the other way round.

Versions come from one counter. Giving a scope a version leaves room for its buckets: the full value of a
scope at version v is a chain of pieces `v - n_buckets + 1 … v`, the first with `previous` 0, so whoever
receives it need not know whether it was sent whole or came about piece by piece.

Refuses: time, encoding, sending. Cost: what changed times the hosts that need it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from hopwall_calc.engine import Table
from hopwall_calc.nodes import bgp as daemons
from hopwall_calc.nodes.endpoints import Placed
from hopwall_calc.nodes.needs import Needs
from hopwall_model.bgp import Bgp
from hopwall_model.resources import Key
from hopwall_model.updates import (
    BgpSet,
    EndpointRemoved,
    EndpointSet,
    HostBatch,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    Scope,
    SharedPiece,
    SharedUpdate,
    Update,
)


class Content(Protocol):
    """A node whose facts travel as scopes."""

    def dirty_buckets(self) -> Mapping[Scope, Sequence[int]]:
        """Return the changed buckets by scope."""

    def n_buckets(self, scope: Scope) -> int:
        """Return how many buckets the scope is cut into."""

    def piece(self, scope: Scope, *, bucket: int, version: int, previous: int) -> SharedPiece:
        """Return one bucket as it travels."""


class Output(Struct, frozen=True, kw_only=True):
    """What one flush sends, in order: the shared updates, the batches, then word of it.

    `first..revision` are the events it includes; `hosts` are those whose state changed.
    """

    shared: tuple[SharedUpdate, ...] = ()
    batches: tuple[HostBatch, ...] = ()
    first: int
    revision: int
    hosts: tuple[str, ...] = ()


class _HostChange:
    """What a flush has for one host."""

    __slots__ = ("bgp", "endpoints", "lost", "needs", "pieces", "removed")

    def __init__(self) -> None:
        self.pieces: dict[Scope, None] = {}
        self.needs: dict[Scope, None] = {}
        self.endpoints: dict[Key, EndpointSet | HostEndpointSet] = {}
        self.removed: dict[Key, EndpointRemoved | HostEndpointRemoved] = {}
        self.lost: dict[Scope, None] = {}
        self.bgp: Bgp | None = None


class Sequencer:
    """Knows what has been sent: the scopes' versions and each host's last number."""

    def __init__(
        self,
        epoch: str,
        *,
        endpoints: Table[Key, Placed],
        needs: Needs,
        contents: Mapping[str, Content],
        bgp: Table[str, Bgp] | None = None,
    ) -> None:
        self.epoch = epoch
        self._endpoints = endpoints
        self._needs = needs
        #: Absent where calc itself spreads the routes.
        self._bgp = bgp
        #: By the first word of the scope; shared pieces are sent in this order.
        self._contents = contents
        self._rank = {kind: rank for rank, kind in enumerate(contents)}
        self._counter = 0
        self._versions: dict[Scope, int] = {}
        self._numbers: dict[str, int] = {}
        self._endpoints_on: dict[str, dict[Key, None]] = {}
        self._revision = -1

    # ------------------------------------------------------------ flush

    def flush(self, revision: int, hosts: Iterable[str]) -> Output:
        """Return what changed since the last flush. `hosts` are the known ones.

        The first of an epoch only tells each host that the epoch has begun: a host holds nothing of it
        yet, so it asks for its snapshot.
        """
        changes: dict[str, _HostChange] = {}
        shared: list[SharedUpdate] = []
        if self._revision < 0:
            self._open()
            changes = {host: _HostChange() for host in hosts}
        else:
            shared = self._flush_scopes(revision, changes)
            self._flush_needs(changes)
            self._flush_endpoints(changes)
            for host in self._bgp.changed if self._bgp is not None else ():
                changes.setdefault(host, _HostChange()).bgp = self._bgp_of(host)
        batches = tuple(self._batch(host, revision, changes[host]) for host in sorted(changes))
        # Without a new event the range is empty: whom the last one concerned has been said.
        first, self._revision = self._revision + 1, revision
        return Output(
            shared=tuple(shared),
            batches=batches,
            first=first,
            revision=revision,
            hosts=tuple(batch.host for batch in batches),
        )

    @property
    def revision(self) -> int:
        """The revision of the last flush; -1 before the first."""
        return self._revision

    def _open(self) -> None:
        """Take the state as it is for what the epoch begins with."""
        for content in self._contents.values():
            content.dirty_buckets()
        for scope in self._needs.by_scope:
            self._version(scope)
        for key, (host, _) in self._endpoints.values.items():
            self._endpoints_on.setdefault(host, {})[key] = None

    def _flush_scopes(self, revision: int, changes: dict[str, _HostChange]) -> list[SharedUpdate]:
        shared: list[SharedUpdate] = []
        gained = {pair for pair, was in self._needs.changed.items() if not was}
        for content in self._contents.values():
            for scope, numbers in sorted(content.dirty_buckets().items()):
                hosts = self._needs.by_scope.get(scope, set())
                holders = {host for host in hosts if (host, scope) not in gained}
                if not holders:
                    # Whoever needs it gets it whole; a new version, since the value is new.
                    self._versions.pop(scope, None)
                    continue
                shared += [
                    SharedUpdate(epoch=self.epoch, revision=revision, piece=piece)
                    for piece in self._new_pieces(scope, numbers)
                ]
                for host in holders:
                    changes.setdefault(host, _HostChange()).needs[scope] = None
        return shared

    def _new_pieces(self, scope: Scope, numbers: Sequence[int]) -> list[SharedPiece]:
        content = self._content(scope)
        previous = self._versions[scope]
        # Room for the chain of a full value that ends in the last of these versions.
        self._counter += max(0, content.n_buckets(scope) - len(numbers))
        pieces = []
        for number in numbers:
            self._counter += 1
            pieces.append(
                content.piece(scope, bucket=number, version=self._counter, previous=previous)
            )
            previous = self._counter
        self._versions[scope] = self._counter
        return pieces

    def _flush_needs(self, changes: dict[str, _HostChange]) -> None:
        for (host, scope), was in self._needs.changed.items():
            if was == self._needs.needs(host, scope):
                continue
            change = changes.setdefault(host, _HostChange())
            if was:
                change.lost[scope] = None
                if scope not in self._needs.by_scope:
                    self._versions.pop(scope, None)
            else:
                self._version(scope)
                change.pieces[scope] = None
                change.needs[scope] = None

    def _version(self, scope: Scope) -> int:
        """Return the scope's version; give it one if it has none."""
        version = self._versions.get(scope)
        if version is None:
            self._counter += self._content(scope).n_buckets(scope)
            version = self._versions[scope] = self._counter
        return version

    def _flush_endpoints(self, changes: dict[str, _HostChange]) -> None:
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            if old is not None and (new is None or new[0] != old[0]):
                host, endpoint = old
                del self._endpoints_on[host][key]
                changes.setdefault(host, _HostChange()).removed[key] = _removed(endpoint)
            if new is not None:
                host, endpoint = new
                self._endpoints_on.setdefault(host, {})[key] = None
                changes.setdefault(host, _HostChange()).endpoints[key] = endpoint

    def _bgp_of(self, host: str) -> Bgp | None:
        """Return what the host's daemon is to do: nothing, if nobody knows the host."""
        return None if self._bgp is None else self._bgp.get(host) or daemons.NOTHING

    def _batch(self, host: str, revision: int, change: _HostChange) -> HostBatch:
        number = self._numbers[host] = self._numbers.get(host, 0) + 1
        return HostBatch(
            host=host,
            epoch=self.epoch,
            number=number,
            revision=revision,
            updates=self._updates(change),
        )

    def _updates(self, change: _HostChange) -> tuple[Update, ...]:
        updates: list[Update] = []
        for scope in sorted(change.pieces, key=self._order):
            updates += self._full_pieces(scope)
        updates += [
            NeedSet(scope=scope, version=self._versions[scope])
            for scope in sorted(change.needs, key=self._order)
        ]
        updates += [change.endpoints[key] for key in sorted(change.endpoints)]
        if change.bgp is not None:
            updates.append(BgpSet(bgp=change.bgp))
        updates += [change.removed[key] for key in sorted(change.removed, reverse=True)]
        lost = sorted(change.lost, key=self._order, reverse=True)
        updates += [NeedRemoved(scope=scope) for scope in lost]
        return tuple(updates)

    def _full_pieces(self, scope: Scope) -> list[SharedPiece]:
        content, version = self._content(scope), self._versions[scope]
        n_buckets = content.n_buckets(scope)
        first = version - n_buckets + 1
        return [
            content.piece(
                scope,
                bucket=number,
                version=first + number,
                previous=first + number - 1 if number else 0,
            )
            for number in range(n_buckets)
        ]

    def _content(self, scope: Scope) -> Content:
        return self._contents[scope.partition("/")[0]]

    def _order(self, scope: Scope) -> tuple[int, str]:
        return self._rank[scope.partition("/")[0]], scope

    # ------------------------------------------------------------ snapshots and heartbeats

    def snapshot(self, host: str) -> HostBatch:
        """Return everything the host needs as of the last flush, under its last number."""
        change = _HostChange()
        for scope in self._needs.by_host.get(host, {}):
            change.pieces[scope] = change.needs[scope] = None
        for key in self._endpoints_on.get(host, {}):
            change.endpoints[key] = self._endpoints.values[key][1]
        change.bgp = self._bgp_of(host)
        return HostBatch(
            host=host,
            epoch=self.epoch,
            number=self._numbers.get(host, 0),
            revision=max(self._revision, 0),
            full=True,
            updates=self._updates(change),
        )

    def hosts(self) -> list[str]:
        """Return every host that was ever sent anything in this epoch."""
        return sorted(self._numbers)

    def heartbeat(self, host: str) -> HostBatch:
        """Return the host's last number (0: nothing was sent yet), and no updates."""
        return HostBatch(
            host=host,
            epoch=self.epoch,
            number=self._numbers.get(host, 0),
            revision=max(self._revision, 0),
        )

    def skip(self, host: str) -> HostBatch:
        """Return a heartbeat that leaves a gap: the host asks for what cannot be sent as one message."""
        self._numbers[host] = self._numbers.get(host, 0) + 1
        return self.heartbeat(host)


def _removed(endpoint: EndpointSet | HostEndpointSet) -> EndpointRemoved | HostEndpointRemoved:
    if isinstance(endpoint, EndpointSet):
        return EndpointRemoved(id=endpoint.id)
    return HostEndpointRemoved(id=endpoint.id)
