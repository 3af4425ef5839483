"""From what a caller wants, and what is held, to what has to be written.

Pure: preconditions, merge patch, and the metadata that the server sets. Refuses to write what changes
nothing.

Source: RFC 9110, 13.1 (If-Match, If-None-Match); RFC 7396 (merge patch).
"""

import uuid
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hopwall_api import problems
from hopwall_api.store import Held
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Metadata, Resource

Word = Literal["created", "configured", "unchanged", "removed"]


class Expectation(Struct, frozen=True, kw_only=True):
    """What the caller supposes to be stored now; all given fields must hold."""

    #: Revisions of If-Match; ("*",) means that it exists. Empty: not asked.
    if_match: tuple[str, ...] = ()
    #: If-None-Match: * means that it must not exist.
    absent: bool = False
    #: `metadata.resourceVersion` of the body.
    version: str | None = None
    #: POST creates, and nothing else.
    create: bool = False


class Stamp(Struct, frozen=True, kw_only=True):
    """What the shell adds to new resources. `uid` is one request's; each resource gets one of its own."""

    uid: str
    at: str

    def uid_of(self, key: Key) -> str:
        """Return the uid of a resource made by this request. Source: RFC 9562, version 5."""
        return str(uuid.uuid5(uuid.UUID(self.uid), str(key)))


class Condition(Struct, frozen=True, kw_only=True):
    """That the last message of all these subjects is this one still."""

    subjects: str
    last: int


class Plan(Struct, frozen=True, kw_only=True):
    """What is to become of one key: the event to write, or None where nothing changes.

    Shape:  `among`: what the write depends on besides; then that is the condition it is stored on, not `expected`.
    """

    key: Key
    word: Word
    expected: int
    event: Event | None
    #: As it will be, or for a removal as it was; without `resourceVersion`.
    resource: Resource
    among: Condition | None = None


def check(key: Key, held: Held, wanted: Expectation) -> None:
    """Refuse when the caller supposes something else than what is held.

    Errors: ApiProblem, 409 or 412.
    """
    stored = held.stored
    now = f"it is at resourceVersion {stored.revision}" if stored else "it does not exist"
    if wanted.absent and stored is not None:
        raise problems.precondition_failed(f"{key} must not exist, but {now}.")
    if wanted.create and stored is not None:
        raise problems.conflict(f"{key} exists already; use PUT to replace it.")
    revision = str(stored.revision) if stored else ""
    if wanted.if_match and not (stored and ("*" in wanted.if_match or revision in wanted.if_match)):
        raise problems.precondition_failed(
            f"If-Match does not hold for {key}: {now}. Read it again and repeat the change."
        )
    if wanted.version is not None and wanted.version != revision:
        raise problems.conflict(
            f"{key} is not at resourceVersion {wanted.version[:32]}: {now}."
            " Read it again and repeat the change."
        )


def plan_set(key: Key, wanted: Resource, held: Held, stamp: Stamp) -> Plan:
    """Return the plan that gives the key this value; of the metadata only the user's part counts."""
    stored = held.stored
    users = users_part(wanted)
    if stored is None:
        metadata = replace(
            users.metadata, uid=stamp.uid_of(key), creation_timestamp=stamp.at, generation=1
        )
        return _written(key, "created", held, replace(users, metadata=metadata))
    if users_part(stored.resource) == users:
        return Plan(
            key=key, word="unchanged", expected=held.last, event=None, resource=stored.resource
        )
    before = stored.resource.metadata
    metadata = replace(
        users.metadata,
        uid=before.uid or stamp.uid_of(key),
        creation_timestamp=before.creation_timestamp or stamp.at,
        generation=(before.generation or 0) + 1,
    )
    return _written(key, "configured", held, replace(users, metadata=metadata))


def plan_restored(key: Key, wanted: Resource, held: Held, stamp: Stamp) -> Plan:
    """Return the plan that gives the key this very value: also what the server set of its metadata then.

    The older of two that claim an address has it, so when a resource was made is a part of intent.
    """
    metadata = replace(
        wanted.metadata,
        resource_version=None,
        uid=wanted.metadata.uid or stamp.uid_of(key),
        creation_timestamp=wanted.metadata.creation_timestamp or stamp.at,
        generation=wanted.metadata.generation or 1,
    )
    restored = replace(wanted, metadata=metadata, status=None)
    if held.stored is None:
        return _written(key, "created", held, restored)
    if bare(held.stored.resource) == restored:
        return Plan(key=key, word="unchanged", expected=held.last, event=None, resource=restored)
    return _written(key, "configured", held, restored)


def bare(resource: Resource) -> Resource:
    """Return the resource without what only this moment of this stream says of it."""
    metadata = replace(resource.metadata, resource_version=None)
    return replace(resource, metadata=metadata, status=None)


def plan_removal(key: Key, held: Held) -> Plan:
    """Return the plan that removes the key.

    Errors: ApiProblem 404 when there is nothing to remove.
    """
    if held.stored is None:
        raise problems.not_found(f"{key} does not exist.")
    return Plan(
        key=key,
        word="removed",
        expected=held.last,
        event=ResourceRemoved(key=key),
        resource=held.stored.resource,
    )


def _written(key: Key, word: Word, held: Held, resource: Resource) -> Plan:
    event = ResourceSet(resource=resource)
    return Plan(key=key, word=word, expected=held.last, event=event, resource=resource)


def users_part(resource: Resource) -> Resource:
    """Return the resource with only what a user declares."""
    metadata: Metadata = replace(
        resource.metadata,
        resource_version=None,
        uid=None,
        generation=None,
        creation_timestamp=None,
    )
    return replace(resource, metadata=metadata, status=None)


def patched(resource: Resource, patch: Any) -> Any:
    """Return the document that the merge patch makes of the resource."""
    return merge(msgspec.to_builtins(users_part(resource)), patch)


def merge(target: Any, patch: Any, depth: int = 0) -> Any:
    """Return RFC 7396's MergePatch(target, patch); null removes, lists replace.

    Errors: ApiProblem 422 for a patch deeper than any resource.
    """
    if not isinstance(patch, Mapping):
        return patch
    if depth > _MAX_DEPTH:
        raise problems.invalid(f"The patch is nested more than {_MAX_DEPTH} levels deep.")
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value, depth + 1)
    return result


_MAX_DEPTH = 32
