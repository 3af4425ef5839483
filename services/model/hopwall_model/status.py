"""dataplane → api and calc → api: how far each has come, and what it could not do.

`revision` is always an intent revision (a sequence number of the events stream).
"""

from msgspec import Struct


class Refusal(Struct, frozen=True, kw_only=True):
    """One object that could not be enforced as wanted, and is closed instead."""

    #: "endpoint default/vm1", "host endpoint h1-eth0", "policy gnp/isolate", "set s:…",
    #: "route 10.65.0.21/32", "nat 192.0.2.10/32 of endpoint default/vm1",
    #: "way to NATS of host endpoint h1-eth0", "rules of policy gnp/late",
    #: "address 10.65.0.21/32 of endpoint default/vm2", "profile absent of endpoint default/vm3".
    object: str
    #: One sentence: what was refused, by whom, and what to do.
    reason: str


class Waiting(Struct, frozen=True, kw_only=True):
    """An endpoint that is known and closed, but whose interface is not there yet."""

    endpoint: str
    reason: str


class BgpSession(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session of a host's BGP daemon, as the daemon sees it."""

    name: str
    #: "Established" and the other states of RFC 4271, "Passive", "Down"; "absent" when the daemon has it not.
    state: str
    #: The daemon's words: a time of day, or a date.
    since: str = ""
    imported: int = 0
    filtered: int = 0
    exported: int = 0
    last_error: str = ""


class BgpStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host's BGP daemon does.

    Shape: `sessions` by name, as many as fit a message; `n_sessions` counts all, `n_established` those up.
    """

    #: Whether the daemon runs what calc wants, save what the host's `refused` names.
    in_sync: bool
    #: Why not; "" when it does.
    reason: str = ""
    #: "" while the daemon cannot be reached; then nothing below is known.
    version: str = ""
    router_id: str = ""
    #: The daemon's clock; for people.
    last_reconfigured: str = ""
    n_sessions: int = 0
    n_established: int = 0
    sessions: tuple[BgpSession, ...] = ()


class LastGood(Struct, frozen=True, kw_only=True):
    """A state that was kept on disk and is enforced until calc is heard."""

    epoch: str
    revision: int
    #: RFC 3339, the host's clock.
    since: str


class HeldSnapshot(Struct, frozen=True, kw_only=True):
    """A snapshot that the host does not obey, as too much of what it has is missing in it.

    It goes on with what it has. Who knows better releases it (`hopwall hosts release`).
    """

    epoch: str
    revision: int
    #: One sentence with numbers.
    reason: str


class HostStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one host's kernel enforces. Published when it changes, and as a heartbeat.

    `epoch` and `revision` name the last state applied whole: everything a batch asked for is in the
    kernel, save what `refused` and `waiting` name. `received` may be ahead of `revision`.
    """

    host: str
    epoch: str
    revision: int
    received: int
    in_sync: bool
    #: RFC 3339, the host's clock; for people, never for ordering.
    at: str
    refused: tuple[Refusal, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    drift_repaired: int = 0
    rejected_messages: int = 0
    version: str = ""
    #: None where the host has no part in BGP.
    bgp: BgpStatus | None = None
    #: None when what is enforced came from calc in this life of the agent.
    last_good: LastGood | None = None
    #: None when the last snapshot was obeyed.
    held: HeldSnapshot | None = None
    #: Why the state is not on disk, or what was there is not used; "" when all is well.
    not_kept: str = ""
    #: Why what was received is not in the kernel yet, and is tried again; "" when nothing hinders.
    held_up: str = ""


#: Of live migrations that move nobody, so many are named.
MAX_MOVES_NOBODY = 200


class MovesNobody(Struct, frozen=True, array_like=True, order=True):
    """A live migration of which there is no pair of endpoints, and why, in one sentence."""

    #: "prod/move-7".
    migration: str
    reason: str


#: Of resources that are not enforced as they say, so many are named.
MAX_LEFT_OUT = 200


class LeftOut(Struct, frozen=True, array_like=True, order=True):
    """A declared resource that calc cannot carry out as it stands, and what it does instead, in sentences."""

    #: "GlobalNetworkPolicy isolate", "WorkloadEndpoint default/vm1".
    resource: str
    reason: str


class CalcStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """calc has resolved every event from `first` to `revision`, and these hosts' state changed by it.

    Published after the updates it speaks of. `first..revision` ranges of one epoch leave no gap; the
    first of an epoch starts at 0 and names every host that has anything. What changes without an event
    is told with an empty range, `first` after `revision`.
    """

    epoch: str
    first: int
    revision: int
    at: str
    hosts: tuple[str, ...] = ()
    #: Bad events that were skipped since the epoch began.
    rejected_messages: int = 0
    #: All that there are now, whichever event made them so.
    moves_nobody: tuple[MovesNobody, ...] = ()
    #: The same of resources that are not understood, or not borne.
    left_out: tuple[LeftOut, ...] = ()
    #: Every host that was told anything in this epoch: no event up to `revision` concerns another. Said in
    #: repeats, for whoever missed reports; None where it is not said.
    all_hosts: tuple[str, ...] | None = None


class MovedHere(Struct, frozen=True, array_like=True, order=True):
    """An endpoint that is the target of a live migration, and whose workload runs here now."""

    endpoint: str
    #: As in the endpoint's `Move`.
    migration: str


class Moved(Struct, frozen=True, kw_only=True):
    """Which workloads have arrived on a host, while their migrations last. A full value; calc follows it."""

    host: str
    arrived: tuple[MovedHere, ...] = ()


class Drift(Struct, frozen=True, kw_only=True):
    """Something of ours was changed by others, and has been repaired."""

    host: str
    #: "route", "set", "chain", "jump", "sysctl".
    object: str
    name: str
    detail: str
    at: str


class Rejected(Struct, frozen=True, kw_only=True):
    """A message that could not be understood: counted, reported here, skipped."""

    service: str
    subject: str
    reason: str
    at: str
