"""The tables of docs/guides/security.md, made from what they speak of. `python -m tests.security.tables` prints them."""

import sys

from hopwall_api.access.roles import SHARED_KINDS, TABLE, Place, Verb
from hopwall_api.access.roles import Role as RestRole
from hopwall_model import topics
from hopwall_model.permissions import User, permissions
from hopwall_model.topics import Role

_PLACES = {Place.NAMESPACE: "namespaced", Place.SHARED: "shared", Place.SITE: "site"}


def roles() -> str:
    """Return role by verb, and the places where it holds."""
    head = "| role | " + " | ".join(verb.value for verb in Verb) + " |"
    rows = [head, "|" + "---|" * (len(Verb) + 1)]
    for role in RestRole:
        cells = (_cell(TABLE[role].get(verb, frozenset())) for verb in Verb)
        rows.append(f"| `{role}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(places: frozenset[Place]) -> str:
    if places == frozenset(Place):
        return "all"
    return ", ".join(_PLACES[place] for place in Place if place in places) or "no"


def shared_kinds() -> str:
    """Return the kinds that a caller of one namespace also reads."""
    return ", ".join(sorted(SHARED_KINDS))


def subjects() -> str:
    """Return who publishes, hears and reads each subject."""
    rows = ["| subject | published by | heard by | read from its stream by |", "|---|---|---|---|"]
    for topic in topics.TOPICS:
        cells = (
            ", ".join(roles) or "no" for roles in (topic.senders, topic.receivers, topic.readers)
        )
        rows.append(f"| `{topic.pattern}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def host() -> str:
    """Return all that the credential of host h1 may do."""
    allowed = permissions(User(Role.HOST, "h1"))
    lines = [f"publish    {one}" for one in allowed.publish]
    lines += [f"subscribe  {one}" for one in allowed.subscribe]
    return "\n".join([*lines, "answer     what it was asked on hopwall.rules.h1"])


if __name__ == "__main__":
    sys.stdout.write("\n\n".join([roles(), shared_kinds(), subjects(), host()]) + "\n")
