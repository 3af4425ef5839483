"""api → stream: one resource's current value, or its absence, at a revision.

The revision is not in the body: it is the sequence number the stream gave the message, and it is the
only version number of intent (`Metadata.resource_version` shows it to users).
Absence is a type, never a null.
"""

from msgspec import Struct

from hopwall_model.resources import Key, Resource, key_of


class ResourceSet(Struct, frozen=True, kw_only=True, tag_field="event", tag="resource.set"):
    """The resource now has this value."""

    resource: Resource

    @property
    def key(self) -> Key:
        """The key of the resource."""
        return key_of(self.resource)


class ResourceRemoved(Struct, frozen=True, kw_only=True, tag_field="event", tag="resource.removed"):
    """The resource is absent: a tombstone, kept in the stream as the last word on its key."""

    key: Key


class RestoreBegun(Struct, frozen=True, kw_only=True, tag_field="event", tag="restore.begun"):
    """What follows is a restore, and a mixture until it ends: calc takes it in and tells the hosts nothing."""

    #: SHA-256 of the backup: who goes on with a restore names the same.
    file: str
    #: RFC 3339; for people.
    at: str

    @property
    def key(self) -> Key:
        """The key of all events of this kind."""
        return RESTORE


class RestoreEnded(Struct, frozen=True, kw_only=True, tag_field="event", tag="restore.ended"):
    """The restore is whole: the stream says again what is wanted."""

    file: str

    @property
    def key(self) -> Key:
        """The key of all events of this kind."""
        return RESTORE


class TombstonesPurged(
    Struct, frozen=True, kw_only=True, tag_field="event", tag="tombstones.purged"
):
    """Tombstones up to this revision may be missing: whoever knows less begins with a list."""

    revision: int

    @property
    def key(self) -> Key:
        """The key of all events of this kind."""
        return PURGE


#: Not resources: no kind of this name can be declared.
RESTORE = Key("Restore", "", "current")
PURGE = Key("Tombstones", "", "purged")

Event = ResourceSet | ResourceRemoved | RestoreBegun | RestoreEnded | TombstonesPurged
