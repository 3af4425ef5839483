"""What a kernel address set is, what is in it, and what can be done to one.

Pure. "IP set" in prose is the kernel's ipset; the model's sets of members are not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from hopwall_dataplane.outcome import Family, Refused
from hopwall_model.names import MAX_SET_NAME, SET_PREFIX_V4, SET_PREFIX_V6, TEMPORARY_SUFFIX

#: Marks a set as ours, for a process with no memory.
NAME_PREFIXES: Final = (SET_PREFIX_V4, SET_PREFIX_V6)
#: With room for the suffix of a set that is being built to take another's place.
MAX_NAME_LENGTH: Final = MAX_SET_NAME - len(TEMPORARY_SUFFIX)

SetType = Literal["hash:net", "hash:ip", "hash:net,iface", "hash:ip,port"]

#: What a set may hold at first; one that outgrows it is rebuilt with twice the room.
START_MAXELEM: Final = 65536
#: The smallest hash the kernel makes; its own choice, 1,024 slots, costs 8 kB a set however few are in it.
START_HASH: Final = 64


class SetSpec(Struct, frozen=True):
    """What a set is, apart from its content; it cannot change while the set lives."""

    name: str
    type: SetType
    family: Family
    skbinfo: bool = False
    maxelem: int = START_MAXELEM
    #: Read only: it has what we give no set (counters, lifetimes, a netmask …), so others made it.
    strange: bool = False


class Element(NamedTuple):
    """A member: a canonical CIDR, always with its prefix length, and what else the type has.

    A set cannot hold a prefix length of 0 (save `hash:net,iface`): two halves say the same.

    Source: ipset(8), hash:net: "prefix size zero cannot be stored in this type of sets".
    """

    cidr: str
    #: hash:net,iface only.
    interface: str = ""
    #: hash:ip,port only: a protocol with ports, and a port from 1.
    protocol: int = 0
    port: int = 0


class Mark(NamedTuple):
    """The packet mark an element stands for (skbinfo). No mark is None, never `Mark(0, 0)`."""

    value: int
    mask: int


#: Read only: an element that others gave a flag we never write (nomatch, physdev …), so that it differs
#: from everything that can be desired and is written anew, or removed.
ALTERED: Final = Mark(0, -1)

Content = Mapping[Element, Mark | None]


class CreateSet(Struct, frozen=True):
    """Make an empty set. One that stands already is read first: it may hold anything.

    `hash_size` is a power of two: the slots to begin with, of up to 12 elements; the kernel doubles them.
    """

    spec: SetSpec
    hash_size: int = START_HASH


class DestroySet(Struct, frozen=True):
    """Remove a set with all that is in it; an absent one will do."""

    name: str


class AddElements(Struct, frozen=True):
    """Put elements into a set, or give those that are there another mark."""

    spec: SetSpec
    elements: Content


class DelElements(Struct, frozen=True):
    """Take elements out of a set; absent ones will do."""

    spec: SetSpec
    elements: tuple[Element, ...]


class SwapSets(Struct, frozen=True):
    """Let two sets exchange names in one step; packets see the one or the other, never neither."""

    name: str
    other: str


SetOp = CreateSet | DestroySet | AddElements | DelElements | SwapSets


@dataclass(frozen=True, slots=True)
class ElementsRefused(Refused):
    """Some elements of an op were refused, each for its reason; all its others are in the kernel."""

    elements: Mapping[Element, str] = field(default_factory=dict)


def is_ours(name: str) -> bool:
    """Say whether a set is ours, by its name."""
    return name.startswith(NAME_PREFIXES)
