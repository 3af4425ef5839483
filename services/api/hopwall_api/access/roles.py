"""The table of roles: role by verb by place. Pure; nothing else decides who may do what.

A caller may be limited to namespaces. Then it also loses whatever is in no namespace, save the shared kinds,
which resources of a namespace name and are bound by.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from hopwall_model.resources import KIND_BY_NAME


class Role(StrEnum):
    """What a caller is trusted with."""

    ADMIN = "admin"
    EDITOR = "editor"
    READER = "reader"
    AUDITOR = "auditor"


class Verb(StrEnum):
    """What a request does."""

    READ = "read"
    WATCH = "watch"
    WRITE = "write"
    DELETE = "delete"
    #: Address management: /v1/ipam.
    ASSIGN = "assign"
    ADDRESSES = "addresses"
    #: How far hosts have come; and their rules and counters, a question that costs a host work.
    HOSTS = "hosts"
    RULES = "rules"
    METRICS = "metrics"
    #: What only who runs the site does: let a host obey what it holds back, back up, restore.
    OPERATE = "operate"


class Place(StrEnum):
    """Where a thing is."""

    NAMESPACE = "namespace"
    #: In no namespace, and what those in one need to see.
    SHARED = "shared"
    #: In no namespace: hosts, routing and addresses of the whole site.
    SITE = "site"


SHARED_KINDS = frozenset({"Tier", "Profile", "GlobalNetworkSet", "GlobalNetworkPolicy", "IPPool"})

_EVERYWHERE = frozenset(Place)
_RESOURCES = (Verb.READ, Verb.WATCH, Verb.WRITE, Verb.DELETE)
_SITE = frozenset({Place.SITE})
_OWN = frozenset({Place.NAMESPACE})

TABLE: Mapping[Role, Mapping[Verb, frozenset[Place]]] = {
    Role.ADMIN: {verb: _EVERYWHERE if verb in _RESOURCES else _SITE for verb in Verb},
    Role.EDITOR: {
        Verb.READ: _EVERYWHERE,
        Verb.WATCH: _EVERYWHERE,
        Verb.WRITE: _OWN,
        Verb.DELETE: _OWN,
        Verb.ASSIGN: _SITE,
        Verb.ADDRESSES: _SITE,
        Verb.HOSTS: _SITE,
        Verb.RULES: _SITE,
        Verb.METRICS: _SITE,
    },
    Role.READER: {
        Verb.READ: _EVERYWHERE,
        Verb.WATCH: _EVERYWHERE,
        Verb.ADDRESSES: _SITE,
        Verb.HOSTS: _SITE,
        Verb.RULES: _SITE,
        Verb.METRICS: _SITE,
    },
    Role.AUDITOR: {
        Verb.READ: _EVERYWHERE,
        Verb.WATCH: _EVERYWHERE,
        Verb.HOSTS: _SITE,
        Verb.METRICS: _SITE,
    },
}


class Caller(Struct, frozen=True, kw_only=True):
    """Who sends a request. `namespaces` empty: all of them. `credential` is the id of a token, "" for none."""

    name: str
    role: Role
    namespaces: tuple[str, ...] = ()
    credential: str = ""

    def sees(self, namespace: str) -> bool:
        """Tell whether what is in this namespace is shown to the caller; "" is in none."""
        return not self.namespaces or not namespace or namespace in self.namespaces

    def __str__(self) -> str:
        """Return who it is, for a sentence."""
        where = f" of {', '.join(self.namespaces)}" if self.namespaces else ""
        return f"{self.name} ({self.role}{where})"


ANONYMOUS = Caller(name="anonymous", role=Role.ADMIN)


def place_of(kind: str) -> Place:
    """Return where resources of a kind are; "" stands for what is no resource."""
    if not kind:
        return Place.SITE
    if KIND_BY_NAME[kind].NAMESPACED:
        return Place.NAMESPACE
    return Place.SHARED if kind in SHARED_KINDS else Place.SITE


def lacking(caller: Caller, verb: Verb, kind: str = "", namespace: str | None = None) -> str:
    """Return what the caller lacks to do this, as a sentence; "" when it may.

    Shape:  namespace None: all the caller sees, for lists.
    """
    place = place_of(kind)
    what = f"{verb} {kind}" if kind else str(verb)
    if place not in TABLE[caller.role].get(verb, frozenset()):
        roles = [str(role) for role in Role if place in TABLE[role].get(verb, frozenset())]
        return f"{caller} may not {what}: it takes the role {' or '.join(roles)}."
    if place is Place.SITE and caller.namespaces:
        return f"{caller} may not {what}: it takes a token that is not limited to namespaces."
    if place is Place.NAMESPACE and namespace is not None and not caller.sees(namespace):
        return f"{caller} may not {what} in {namespace}: it takes a token for this namespace."
    return ""


def lacking_any(caller: Caller, verb: Verb) -> str:
    """Return what the caller lacks to do this anywhere at all; "" when there is a place."""
    if TABLE[caller.role].get(verb):
        return ""
    roles = [str(role) for role in Role if TABLE[role].get(verb)]
    return f"{caller} may not {verb}: it takes the role {' or '.join(roles)}."
