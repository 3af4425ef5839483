"""Every subject in one table: pattern, type, who sends it to whom, retention.

Publishing and subscribing take a `Topic[T]`, so a type checker knows what arrives. Header names are
here too; the body of a message is only its value. Who may do what on the bus is made from this table
(`permissions`), so a topic cannot be added without saying it.

Names become subject tokens by `token`: what NATS forbids or treats specially is `=XX` (hex of UTF-8).
Source: NATS ADR-6 (naming), ADR-50 (atomic batch), CloudEvents NATS binding (binary mode).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from hopwall_model import codec
from hopwall_model.counts import RulesRequest
from hopwall_model.events import Event
from hopwall_model.flows import FlowsRequest
from hopwall_model.release import ReleaseRequest
from hopwall_model.resources import Key
from hopwall_model.status import CalcStatus, Drift, HostStatus, Moved, Rejected
from hopwall_model.updates import HostBatch, Scope, SharedUpdate, SnapshotRequest

T = TypeVar("T")

EVENTS_STREAM = "HOPWALL_EVENTS"
STATUS_STREAM = "HOPWALL_STATUS"

HDR_EXPECTED_LAST_SUBJECT_SEQ = "Nats-Expected-Last-Subject-Sequence"
#: Of which subjects it is the last, where not of the message's own; may have wildcards.
HDR_EXPECTED_OF = "Nats-Expected-Last-Subject-Sequence-Subject"
HDR_MSG_ID = "Nats-Msg-Id"
HDR_BATCH_ID = "Nats-Batch-Id"
HDR_BATCH_SEQ = "Nats-Batch-Sequence"
HDR_BATCH_COMMIT = "Nats-Batch-Commit"


class Role(StrEnum):
    """What a process is on the bus."""

    API = "api"
    CALC = "calc"
    HOST = "host"
    AUDITOR = "auditor"


class Topic(Struct, Generic[T], frozen=True, kw_only=True):
    """One kind of message: where it travels, what it is, who sends it to whom, how it is kept.

    Shape:  `receivers` subscribe; `readers` read the stream that keeps it, by consumers of their own.
            `varies` says what the pattern's `*` stands for: a host, or the service that sends. A host sends
            and receives with its own name there, and a service sends with its own. "hosts" is who is asked, then
            who asks: a host is asked on its own first name, and asks with its own last.
            `answered`: each message has an answer in chunks, on the asker's inbox.
    """

    #: With `*` and `>` for the parts that vary, as a subscriber writes it.
    pattern: str
    type: type[T]
    decode: Callable[[bytes], T]
    senders: tuple[Role, ...]
    receivers: tuple[Role, ...]
    readers: tuple[Role, ...] = ()
    varies: Literal["", "host", "hosts", "service"] = ""
    answered: bool = False
    stream: str = ""
    retention: str


_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def token(name: str) -> str:
    """Return the name as one subject token. Injective; plain names stay as they are."""
    return "".join(
        c if c in _SAFE else "".join(f"={byte:02X}" for byte in c.encode()) for c in name
    )


EVENT: Topic[Event] = Topic(
    pattern="hopwall.event.>",
    type=Event,  # type: ignore[arg-type]
    decode=codec.decode_event,
    senders=(Role.API,),
    receivers=(Role.AUDITOR,),
    readers=(Role.API, Role.CALC),
    stream=EVENTS_STREAM,
    retention=f"stream {EVENTS_STREAM}: file, last value per subject for ever, 64 older ones",
)
HOST_BATCH: Topic[HostBatch] = Topic(
    pattern="hopwall.update.host.*",
    type=HostBatch,
    decode=codec.decoder(HostBatch),
    senders=(Role.CALC,),
    receivers=(Role.HOST,),
    varies="host",
    retention="none: rebuilt on request",
)
SHARED: Topic[SharedUpdate] = Topic(
    pattern="hopwall.update.shared.>",
    type=SharedUpdate,
    decode=codec.decoder(SharedUpdate),
    senders=(Role.CALC,),
    receivers=(Role.HOST,),
    retention="none: rebuilt on request",
)
SNAPSHOT: Topic[SnapshotRequest] = Topic(
    pattern="hopwall.snapshot.*",
    type=SnapshotRequest,
    decode=codec.decoder(SnapshotRequest),
    senders=(Role.HOST,),
    receivers=(Role.CALC,),
    varies="host",
    answered=True,
    retention="none",
)
RULES: Topic[RulesRequest] = Topic(
    pattern="hopwall.rules.*",
    type=RulesRequest,
    decode=codec.decoder(RulesRequest),
    senders=(Role.API,),
    receivers=(Role.HOST,),
    varies="host",
    answered=True,
    retention="none",
)
RELEASE: Topic[ReleaseRequest] = Topic(
    pattern="hopwall.release.*",
    type=ReleaseRequest,
    decode=codec.decoder(ReleaseRequest),
    senders=(Role.API,),
    receivers=(Role.HOST,),
    varies="host",
    answered=True,
    retention="none: it concerns what the host holds back now",
)
FLOWS: Topic[FlowsRequest] = Topic(
    pattern="hopwall.flows.*.*",
    type=FlowsRequest,
    decode=codec.decoder(FlowsRequest),
    senders=(Role.HOST,),
    receivers=(Role.HOST,),
    varies="hosts",
    answered=True,
    retention="none",
)
HOST_STATUS: Topic[HostStatus] = Topic(
    pattern="hopwall.status.host.*",
    type=HostStatus,
    decode=codec.decoder(HostStatus),
    senders=(Role.HOST,),
    receivers=(Role.API,),
    readers=(Role.API,),
    varies="host",
    stream=STATUS_STREAM,
    retention=f"stream {STATUS_STREAM}: memory, last value",
)
CALC_STATUS: Topic[CalcStatus] = Topic(
    pattern="hopwall.status.calc",
    type=CalcStatus,
    decode=codec.decoder(CalcStatus),
    senders=(Role.CALC,),
    receivers=(Role.API, Role.CALC),
    readers=(Role.API, Role.CALC),
    stream=STATUS_STREAM,
    retention=f"stream {STATUS_STREAM}: memory, last value",
)
MOVED: Topic[Moved] = Topic(
    pattern="hopwall.status.moved.*",
    type=Moved,
    decode=codec.decoder(Moved),
    senders=(Role.HOST,),
    receivers=(Role.CALC,),
    readers=(Role.CALC,),
    varies="host",
    stream=STATUS_STREAM,
    retention=f"stream {STATUS_STREAM}: memory, last value",
)
DRIFT: Topic[Drift] = Topic(
    pattern="hopwall.drift.*",
    type=Drift,
    decode=codec.decoder(Drift),
    senders=(Role.HOST,),
    receivers=(Role.AUDITOR,),
    varies="host",
    retention="none",
)
REJECTED: Topic[Rejected] = Topic(
    pattern="hopwall.rejected.*",
    type=Rejected,
    decode=codec.decoder(Rejected),
    senders=tuple(Role),
    receivers=(Role.AUDITOR,),
    varies="service",
    retention="none",
)

TOPICS = (
    EVENT,
    HOST_BATCH,
    SHARED,
    SNAPSHOT,
    RULES,
    RELEASE,
    FLOWS,
    HOST_STATUS,
    CALC_STATUS,
    MOVED,
    DRIFT,
    REJECTED,
)


def event_subject(key: Key) -> str:
    """Return the one subject of a resource: `hopwall.event.<kind>.<namespace or _>.<name>`."""
    namespace = token(key.namespace) if key.namespace else "_"
    return f"hopwall.event.{key.kind.lower()}.{namespace}.{token(key.name)}"


def event_on(subject: str, body: bytes) -> Event:
    """Return the event that was stored on a subject; one that speaks of another resource is none.

    What is the last word on a resource, and what a write is compared with, goes by the subject.

    Errors: CodecError.
    """
    event = EVENT.decode(body)
    if (right := event_subject(event.key)) != subject:
        raise codec.CodecError(f"it speaks of what belongs on {right}")
    return event


def kind_subjects(kind: str) -> str:
    """Return what the subjects of all resources of a kind match."""
    return f"hopwall.event.{kind.lower()}.>"


def host_batch_subject(host: str) -> str:
    """Return the subject of a host's feed."""
    return f"hopwall.update.host.{token(host)}"


def shared_subject(scope: Scope) -> str:
    """Return the subject of a shared scope: its parts become tokens."""
    kind, _, name = scope.partition("/")
    return f"hopwall.update.shared.{kind}.{token(name)}"


def snapshot_subject(host: str) -> str:
    """Return the subject on which a host asks for its snapshot."""
    return f"hopwall.snapshot.{token(host)}"


def rules_subject(host: str) -> str:
    """Return the subject on which a host is asked for its rules."""
    return f"hopwall.rules.{token(host)}"


def release_subject(host: str) -> str:
    """Return the subject on which a host is told to obey the snapshot it holds back."""
    return f"hopwall.release.{token(host)}"


def flows_subject(source: str, target: str) -> str:
    """Return the subject on which a source's host is asked by a target's; "*" for any of them."""
    return f"hopwall.flows.{token(source)}.{target if target == '*' else token(target)}"


def host_status_subject(host: str) -> str:
    """Return the subject of a host's status."""
    return f"hopwall.status.host.{token(host)}"


def moved_subject(host: str) -> str:
    """Return the subject on which a host says which workloads have arrived."""
    return f"hopwall.status.moved.{token(host)}"


def drift_subject(host: str) -> str:
    """Return the subject of a host's drift events."""
    return f"hopwall.drift.{token(host)}"


def rejected_subject(service: str) -> str:
    """Return the subject on which a service reports messages it could not understand."""
    return f"hopwall.rejected.{token(service)}"


# ---------------------------------------------------------------- who is who on the bus

#: Where every answer goes; nothing else is published below it.
INBOXES = "_INBOX"
HOST_INBOXES = f"{INBOXES}.host.*.>"


def service_name(service: str, host: str = "") -> str:
    """Return what a process is called in its connection's name and its reports."""
    return f"{service}-{host}" if host else service


def inboxes_of_asker(subject: str) -> str:
    """Return what the inbox of who asks on this subject begins with, as far as the subject tells.

    Shape: a host asks on subjects that end in its own token. Another's inbox can be guessed, as clients count them.
    """
    for topic in TOPICS:
        asked_by_hosts = topic.answered and Role.HOST in topic.senders
        if asked_by_hosts and subject.startswith(topic.pattern.partition("*")[0]):
            return f"{INBOXES}.host.{subject.rpartition('.')[2]}."
    return f"{INBOXES}."


def inbox_prefix(service: str, host: str = "") -> str:
    """Return the prefix of a process's own inboxes: nobody else may listen there."""
    return f"{INBOXES}.host.{token(host)}" if host else f"{INBOXES}.{token(service)}"
