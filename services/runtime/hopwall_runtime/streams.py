"""The streams: what they are to be, making them so, and keeping them within their size.

Called by `link`, and so an importer of nats. Refuses to make room by deleting: a full store takes no writes
(`discard: new`), because the oldest message may be the last word on a resource. Only values that are not the last
of their resource (its history) are ever dropped, by the limit of messages per subject.
"""

import logging
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nats.js.api import ClusterInfo, DiscardPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError

from hopwall_model import topics
from hopwall_runtime.config import CommonSettings

log = logging.getLogger(__name__)

#: The last value, and 64 older ones.
HISTORY_PER_SUBJECT = 65
#: Under pressure the history shrinks, but a value that somebody's junk covers is kept.
LEAST_HISTORY = 2
STORE_ID = "hopwall-store"
STATUS_BYTES = 128 * 1024 * 1024
#: With less than this no store is made.
_LEAST_BYTES = 16 * 1024 * 1024
_CLUSTER_REPLICAS = 3
#: So recently most of a cluster must have answered its leader, for what it says to be so.
_LEASE_NS = 2_000_000_000
_ERR_EXISTS = 10058
_ERR_NO_ROOM = (10028, 10047)
#: Of a cluster: no peer is fit, for which there are many reasons.
_ERR_NO_PEERS = 10005


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask of the streams."""

    replicas: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How full the events stream is, and how much history each resource may have now."""

    used: int
    limit: int
    history: int


def wanted_of(settings: CommonSettings, *, clustered: bool) -> Wanted:
    """Return what to ask for: three copies of everything where the servers are a cluster."""
    replicas = settings.nats_replicas or (_CLUSTER_REPLICAS if clustered else 1)
    return Wanted(replicas, settings.nats_max_bytes)


def events_config(wanted: Wanted, store: str) -> StreamConfig:
    """Return the stream of intent, with an id that no other store has."""
    return StreamConfig(
        name=topics.EVENTS_STREAM,
        subjects=[topics.EVENT.pattern],
        storage=StorageType.FILE,
        num_replicas=wanted.replicas,
        max_msgs_per_subject=HISTORY_PER_SUBJECT,
        max_bytes=wanted.max_bytes,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        allow_atomic=True,
        duplicate_window=120,
        metadata={STORE_ID: store},
    )


def status_config(wanted: Wanted) -> StreamConfig:
    """Return the stream of last statuses: in memory, since everybody says it again."""
    return StreamConfig(
        name=topics.STATUS_STREAM,
        subjects=["hopwall.status.>"],
        storage=StorageType.MEMORY,
        num_replicas=wanted.replicas,
        max_msgs_per_subject=1,
        max_bytes=min(STATUS_BYTES, wanted.max_bytes),
        allow_direct=True,
        # The server would send its acknowledgement wherever a host's status asks for it: to
        # hopwall.event.>, for one, where 65 of them push the good values out.
        no_ack=True,
    )


def store_of(config: StreamConfig) -> str:
    """Return the id minted with the stream; "" for one of before ids."""
    return str((config.metadata or {}).get(STORE_ID, ""))


def amended(found: StreamInfo, wanted: StreamConfig) -> StreamConfig | None:
    """Return the configuration an existing stream is to have, or None when it is right.

    It is never narrowed below what it holds, and never has fewer copies than somebody gave it.
    """
    now = found.config
    used = found.state.bytes
    changes: dict[str, Any] = {}
    if now.discard != wanted.discard:
        changes["discard"] = wanted.discard
    if now.max_bytes != wanted.max_bytes and (wanted.max_bytes or 0) > used + used // 4:
        changes["max_bytes"] = wanted.max_bytes
    if (now.num_replicas or 1) < (wanted.num_replicas or 1):
        changes["num_replicas"] = wanted.num_replicas
    if wanted.no_ack and not now.no_ack:
        changes["no_ack"] = True
    if wanted.metadata and not store_of(now):
        changes["metadata"] = {**(now.metadata or {}), **wanted.metadata}
    return replace(now, **changes) if changes else None


async def ensure(js: Any, wanted: Wanted, *, amends: bool) -> None:
    """Make the streams that are missing; with `amends` change those that are not as wanted.

    Errors: those of the client.
    """
    await _ensure(js, events_config(wanted, uuid.uuid4().hex), amends=amends)
    await _ensure(js, status_config(wanted), amends=amends)


async def _ensure(js: Any, config: StreamConfig, *, amends: bool) -> None:
    try:
        found = await js.stream_info(config.name)
    except NotFoundError:
        await _add(js, config)
        return
    change = amended(found, config) if amends else None
    if change is None:
        return
    try:
        await js.update_stream(change)
    except APIError as error:
        if not _is_room_wanting(error):
            raise
        log.warning("the stream %s stays as it is: %s", config.name, error.description)


def _is_room_wanting(error: APIError) -> bool:
    if error.err_code == _ERR_NO_PEERS:
        return "insufficient storage" in (error.description or "")
    return error.err_code in _ERR_NO_ROOM


async def _add(js: Any, config: StreamConfig) -> None:
    size = config.max_bytes or 0
    while True:
        try:
            await js.add_stream(replace(config, max_bytes=size))
        except APIError as error:
            if error.err_code == _ERR_EXISTS:
                return  # another service was quicker
            if not _is_room_wanting(error) or size // 2 < _LEAST_BYTES:
                raise
            size //= 2
            log.warning(
                "the server has no room for a stream %s of %d bytes; it gets %d",
                config.name,
                size * 2,
                size,
            )
        else:
            return


# ---------------------------------------------------------------- room


def fitting_history(usage: Usage) -> int:
    """Return how many values each resource may keep: fewer when room is scarce, all when there is plenty."""
    if usage.limit <= 0:
        return usage.history
    if usage.used > usage.limit * 3 // 4:
        return max(LEAST_HISTORY, usage.history // 2)
    if usage.used < usage.limit // 8:
        return HISTORY_PER_SUBJECT
    return usage.history


async def usage(js: Any) -> Usage:
    """Return how full the events stream is.

    Errors: those of the client.
    """
    found = await js.stream_info(topics.EVENTS_STREAM)
    config = found.config
    return Usage(
        used=found.state.bytes, limit=config.max_bytes or 0, history=config.max_msgs_per_subject
    )


async def led(js: Any) -> tuple[str, bool]:
    """Return who answers for the events stream, and whether it surely leads: has not been deposed unheard.

    A leader that is cut off from its cluster answers reads for some 14 s. The others elect another when they have
    not heard it for 4 s at least, so one that most of them have answered within 2 s is the only one.

    Errors: those of the client.
    Source: NATS server, raft.go (minElectionTimeout); measured with 2.15.
    """
    info = await js.stream_info(topics.EVENTS_STREAM)
    cluster = info.cluster or ClusterInfo()
    others = cluster.replicas or []
    heard = [one for one in others if not one.offline and (one.active or 0) <= _LEASE_NS]
    return cluster.leader or "", len(heard) >= (len(others) + 1) // 2


async def set_history(js: Any, n: int) -> None:
    """Keep this many values of each resource from now on; older ones are dropped at once.

    Errors: those of the client.
    """
    found = await js.stream_info(topics.EVENTS_STREAM)
    if found.config.max_msgs_per_subject != n:
        await js.update_stream(replace(found.config, max_msgs_per_subject=n))


# ---------------------------------------------------------------- what was removed


async def stored_at(js: Any, revision: int) -> datetime | None:
    """Return when the server stored a message, by its clock; 0 is the newest. None when there is none.

    Errors: those of the client.
    """
    try:
        if revision:
            message = await js.get_msg(topics.EVENTS_STREAM, revision)
        else:
            message = await js.get_last_msg(topics.EVENTS_STREAM, topics.EVENT.pattern)
    except NotFoundError:
        return None
    found: datetime = message.time
    return found


async def purge_up_to(js: Any, subject: str, revision: int) -> None:
    """Take a subject's messages out of the stream up to this one, and none after it.

    Errors: those of the client.
    """
    await js.purge_stream(topics.EVENTS_STREAM, subject=subject, seq=revision + 1)
