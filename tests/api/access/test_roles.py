"""The table of roles, cell by cell, against one written by hand."""

from itertools import product

import pytest

from hopwall_api.access.roles import (
    ANONYMOUS,
    SHARED_KINDS,
    TABLE,
    Caller,
    Place,
    Role,
    Verb,
    lacking,
    lacking_any,
    place_of,
)
from hopwall_model.resources import KIND_BY_NAME

#: role → verb → the places where it may: n a namespace, g shared kinds, s the site.
BY_HAND = {
    "admin": {
        "read": "ngs", "watch": "ngs", "write": "ngs", "delete": "ngs",
        "assign": "s", "addresses": "s", "hosts": "s", "rules": "s", "metrics": "s", "operate": "s",
    },
    "editor": {
        "read": "ngs", "watch": "ngs", "write": "n", "delete": "n",
        "assign": "s", "addresses": "s", "hosts": "s", "rules": "s", "metrics": "s", "operate": "",
    },
    "reader": {
        "read": "ngs", "watch": "ngs", "write": "", "delete": "",
        "assign": "", "addresses": "s", "hosts": "s", "rules": "s", "metrics": "s", "operate": "",
    },
    "auditor": {
        "read": "ngs", "watch": "ngs", "write": "", "delete": "",
        "assign": "", "addresses": "", "hosts": "s", "rules": "", "metrics": "s", "operate": "",
    },
}  # fmt: skip
LETTER = {Place.NAMESPACE: "n", Place.SHARED: "g", Place.SITE: "s"}
RESOURCES = (Verb.READ, Verb.WATCH, Verb.WRITE, Verb.DELETE)
CELLS = [
    (role, verb, kind)
    for role, verb in product(Role, Verb)
    for kind in (KIND_BY_NAME if verb in RESOURCES else ("",))
]


def caller(role: Role, *namespaces: str) -> Caller:
    """Return a caller of a role."""
    return Caller(name="x", role=role, namespaces=namespaces, credential="t")


@pytest.mark.parametrize(("role", "verb", "kind"), CELLS)
def test_a_cell(role: Role, verb: Verb, kind: str) -> None:
    """A caller for all namespaces may exactly what the hand-written table says."""
    allowed = LETTER[place_of(kind)] in BY_HAND[role][verb]
    for namespace in (None, "a", "b"):
        assert (lacking(caller(role), verb, kind, namespace) == "") == allowed


@pytest.mark.parametrize(("role", "verb", "kind"), [c for c in CELLS if c[0] is not Role.ADMIN])
def test_a_cell_of_one_namespace(role: Role, verb: Verb, kind: str) -> None:
    """One limited to a namespace may the same there, on shared kinds too, and nothing of the site."""
    place = place_of(kind)
    allowed = LETTER[place] in BY_HAND[role][verb] and place is not Place.SITE
    here, there = (lacking(caller(role, "a"), verb, kind, namespace) for namespace in ("a", "b"))
    assert (here == "") == allowed
    assert (there == "") == (allowed and place is Place.SHARED)


def test_the_table_has_every_role_and_no_cell_but_these() -> None:
    """Every role is in the table; what is not in it is refused."""
    assert set(TABLE) == set(Role)
    assert {(r, v) for r in TABLE for v in TABLE[r]} == {
        (r, v) for r in Role for v in Verb if BY_HAND[r][v]
    }


@pytest.mark.parametrize("kind", KIND_BY_NAME)
def test_global_kinds_are_written_by_admins_alone(kind: str) -> None:
    """Whoever is not an admin writes no kind without a namespace, not even a shared one."""
    if KIND_BY_NAME[kind].NAMESPACED:
        return
    writers = [
        r for r in Role for v in (Verb.WRITE, Verb.DELETE) if not lacking(caller(r), v, kind)
    ]
    assert set(writers) == {Role.ADMIN}


def test_shared_kinds_are_kinds_without_a_namespace() -> None:
    """What an editor of one namespace also reads is a fixed list of global kinds."""
    assert all(not KIND_BY_NAME[kind].NAMESPACED for kind in SHARED_KINDS)
    assert place_of("HostEndpoint") is place_of("Node") is place_of("IPAMBlock") is Place.SITE


def test_a_refusal_names_what_is_lacking() -> None:
    """The sentence says who, what, and which role or namespace it takes."""
    editor = caller(Role.EDITOR, "a", "b")
    assert lacking(editor, Verb.WRITE, "Tier") == (
        "x (editor of a, b) may not write Tier: it takes the role admin."
    )
    assert lacking(editor, Verb.WRITE, "NetworkSet", "c") == (
        "x (editor of a, b) may not write NetworkSet in c: it takes a token for this namespace."
    )
    assert lacking(editor, Verb.HOSTS) == (
        "x (editor of a, b) may not hosts: it takes a token that is not limited to namespaces."
    )
    assert lacking_any(caller(Role.READER), Verb.WRITE) == (
        "x (reader) may not write: it takes the role admin or editor."
    )


def test_without_a_list_of_tokens_everybody_is_admin() -> None:
    """The anonymous caller, who exists on loopback and sockets alone, may all."""
    assert all(not lacking(ANONYMOUS, verb, kind, "a") for role, verb, kind in CELLS)
