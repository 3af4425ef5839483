"""Whether a snapshot may be obeyed: one that takes away much of what the host has, unexplained, may not.

calc may have met an empty, foreign or truncated stream. Within an epoch what goes away goes by events that calc
saw, so only the first snapshot of another epoch is judged. What is missing is explained by the names calc
accounts for: an event removed the resource, or put it elsewhere. The rest is believed only while it is little, or
when an operator releases the snapshot.

Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hopwall_dataplane import remote
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_model.status import HeldSnapshot
from hopwall_model.updates import EndpointSet, HostBatch, HostEndpointSet, PolicySet, TierPolicies

#: Bytes of names in one question to calc; it must fit a message.
_MAX_QUESTION_BYTES = 512 * 1024
#: Of other hosts and of sets, so many are named in the reason.
_MAX_REMOTE = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be missing unexplained: not more than `count` objects of a kind, or `share` of them."""

    share: float = 0.5
    count: int = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a snapshot is not obeyed ("" when it is), and the names that calc may be able to account for."""

    reason: str
    missing: tuple[str, ...] = ()


def judge(
    held: Mirror,
    in_kernel: Iterable[str],
    snapshot: HostBatch,
    limits: Limits,
    *,
    went_back: bool = False,
) -> Verdict:
    """Judge a snapshot by what the host has.

    Shape: `went_back`: it is known that the store is another one or an older copy. `in_kernel` are the bare addresses the kernel has for workloads here; they count where nothing else
           is known of the host's endpoints, as after a restart without a file.
    """
    missing: list[str] = []
    reasons: list[str] = []
    accounted = frozenset(snapshot.accounted)
    for kind, (had, have) in _names(held, in_kernel, snapshot).items():
        gone = had - have
        unexplained = gone - accounted
        if _much(len(unexplained), len(had), limits):
            reasons.append(_lack(unexplained, had, kind))
            missing += sorted(unexplained)
    if went_back or remote.goes_back(held, snapshot):
        reasons += _remote_lacks(remote.losses(held, snapshot), limits)
    if not reasons:
        return Verdict("")
    text = (
        f"The snapshot of epoch {snapshot.epoch} at revision {snapshot.revision} lacks "
        f"{' and '.join(reasons)} that this host has, and no event says why."
    )
    return Verdict(text, _fitting(missing))


def _remote_lacks(losses: Mapping[str, remote.Loss], limits: Limits) -> list[str]:
    """Return what lacks too much of others; of very many the first.

    Shape: what was exchanged for something else is not all gone.
    """
    lacks = [
        _lack(loss.gone, loss.had, kind)
        for kind, loss in sorted(losses.items())
        if loss.gone and (not loss.n_now or _beyond(len(loss.gone), len(loss.had), limits))
    ]
    more = len(lacks) - _MAX_REMOTE
    return [*lacks[:_MAX_REMOTE], f"much of {more} more"] if more > 0 else lacks


def _lack(gone: set[str], had: set[str], kind: str) -> str:
    some = ", ".join(sorted(gone)[:3])
    return f"{len(gone)} of {len(had)} {kind} ({some}{', …' * (len(gone) > 3)})"


def _names(
    held: Mirror, in_kernel: Iterable[str], snapshot: HostBatch
) -> Mapping[str, tuple[set[str], set[str]]]:
    """Return by kind the names the host has and those the snapshot has."""
    endpoints = [u for u in snapshot.updates if isinstance(u, EndpointSet)]
    names = {
        "endpoints": (
            {f"endpoint {e}" for e in held.endpoints},
            {f"endpoint {e.id}" for e in endpoints},
        ),
        "host endpoints": (
            {f"host endpoint {h}" for h in held.host_endpoints},
            {f"host endpoint {u.id}" for u in snapshot.updates if isinstance(u, HostEndpointSet)},
        ),
        "policies": (
            _policies_of(held, snapshot),
            {f"policy {u.id}" for u in snapshot.updates if isinstance(u, PolicySet)},
        ),
    }
    if not held.endpoints:
        names["addresses"] = (
            set(in_kernel),
            {cidr.partition("/")[0] for e in endpoints for cidr in e.addresses},
        )
    return names


def _policies_of(held: Mirror, snapshot: HostBatch) -> set[str]:
    """Return the policies of those endpoints that are here still: others go with their endpoints."""
    found: set[str] = set()
    for update in snapshot.updates:
        if isinstance(update, EndpointSet) and (endpoint := held.endpoints.get(update.id)):
            found.update(_policies_in(endpoint.tiers), endpoint.profiles)
        elif isinstance(update, HostEndpointSet) and (host := held.host_endpoints.get(update.id)):
            lists = (*host.tiers, *host.forward, *host.pre_dnat, *host.untracked)
            found.update(_policies_in(lists), host.profiles)
    return {f"policy {policy}" for policy in found}


def _policies_in(tiers: Iterable[TierPolicies]) -> Iterable[str]:
    return (policy for tier in tiers for policy in (*tier.ingress, *tier.egress))


def _much(n_gone: int, n_had: int, limits: Limits) -> bool:
    """Tell whether too much is gone: all of it, however little that is, or more than both limits."""
    return n_gone > 0 and (n_gone == n_had or _beyond(n_gone, n_had, limits))


def _beyond(n_gone: int, n_had: int, limits: Limits) -> bool:
    return n_gone > limits.count and n_gone > limits.share * n_had


def _fitting(names: Iterable[str]) -> tuple[str, ...]:
    kept, room = [], _MAX_QUESTION_BYTES
    for name in names:
        room -= len(name.encode()) + 3
        if room < 0:
            break
        kept.append(name)
    return tuple(kept)


@dataclass(slots=True)
class Guard:
    """What is held back now, and which epoch an operator has let through."""

    limits: Limits = field(default_factory=Limits)
    held: HeldSnapshot | None = None
    missing: tuple[str, ...] = ()
    _released: str = ""
    #: Since the last snapshot that was obeyed there was one of another or an older store: it may have grown since.
    _went_back: bool = False

    def admits(
        self, known: Mirror, in_kernel: Iterable[str], snapshot: HostBatch, epoch: str
    ) -> bool:
        """Tell whether a snapshot is obeyed; `epoch` is the one of the last that was."""
        verdict = Verdict("")
        if snapshot.epoch not in (epoch, known.epoch, self._released):
            self._went_back |= remote.goes_back(known, snapshot)
            verdict = judge(known, in_kernel, snapshot, self.limits, went_back=self._went_back)
        self.missing = verdict.missing
        if not verdict.reason:
            self.held, self._went_back = None, False
            return True
        self.held = HeldSnapshot(
            epoch=snapshot.epoch, revision=snapshot.revision, reason=verdict.reason
        )
        return False

    def release(self, epoch: str) -> str:
        """Let an epoch's snapshots through; return why not, "" when it is done."""
        if self.held is None:
            return "It holds back no snapshot."
        if epoch not in ("", self.held.epoch):
            return f"It holds back a snapshot of epoch {self.held.epoch}, and not of {epoch}: look again."
        self._released = self.held.epoch
        return ""
