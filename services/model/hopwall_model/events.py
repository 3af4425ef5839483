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


Event = ResourceSet | ResourceRemoved
