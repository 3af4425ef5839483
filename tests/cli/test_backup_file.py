"""The file of a backup: what is refused, and what a difference is."""

import hashlib
import json
from typing import Any

import pytest

from hopwall_cli.backup_file import (
    BackupError,
    Name,
    difference,
    name_of,
    parts,
    read,
    summary,
)

Doc = dict[str, Any]


def node(name: str, **spec: Any) -> Doc:
    """Return a Node."""
    return {"kind": "Node", "metadata": {"name": name}, "spec": spec}


def policy(name: str) -> Doc:
    """Return a NetworkPolicy of namespace a."""
    return {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "a"}, "spec": {}}


def lines_of(*docs: Doc, **head: Any) -> list[bytes]:
    """Return the lines of a backup of these."""
    lines = [json.dumps(doc).encode() for doc in docs]
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    first = {"kind": "HopwallBackup", "format": 1, "count": len(docs), "sha256": digest, **head}
    return [json.dumps(first).encode(), *lines]


def named(*docs: Doc) -> dict[Name, Doc]:
    """Return the documents by name."""
    return {name: doc for doc in docs if (name := name_of(doc)) is not None}


def test_a_whole_backup_is_read() -> None:
    """What was written is what is read."""
    found = read(lines_of(node("a"), policy("p")), "f")
    assert found.resources == named(node("a"), policy("p"))


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([], "empty"),
        ([b"{"], "no JSON"),
        ([b"[]"], "no object"),
        ([json.dumps(node("a")).encode()], "no backup"),
        (lines_of(node("a"), format=2), "format 2"),
        (lines_of(node("a"), restoring=True), "mixture"),
        (lines_of(node("a"), node("b"))[:-1], "not whole"),
        ([*lines_of(node("a"), count=2), b'{"kind":"Node","metadata":{"name":"b"}}'], "checksum"),
        (lines_of(node("a"), node("a")), "second time"),
        (lines_of({"kind": "Pod", "metadata": {"name": "a"}}), "known here"),
        (lines_of({"kind": "Node", "metadata": {}}), "known here"),
        (lines_of({"kind": 7, "metadata": {"name": "a"}}), "known here"),
    ],
)
def test_what_is_no_whole_backup_is_refused(lines: list[bytes], word: str) -> None:
    """Half a backup, or one that was changed, says so instead of removing what is missing in it."""
    with pytest.raises(BackupError, match=word):
        read(lines, "f")


def test_a_hand_may_have_changed_it() -> None:
    """With leave, count and checksum need not hold; the file is then named by what it now holds."""
    lines = [*lines_of(node("a")), json.dumps(node("b")).encode()]
    found = read(lines, "f", edited=True)
    assert len(found.resources) == 2
    assert found.sha256 != found.head["sha256"]


def test_the_difference_is_only_what_differs() -> None:
    """What the moment says of a resource is no difference; references come first, and go last."""
    kept = {**node("kept"), "status": {"x": 1}}
    now = named(kept, node("old"), node("changed", a=1), policy("gone"))
    wanted = named(node("kept"), policy("new"), node("new"), node("changed", a=2))
    found = difference(now, wanted)
    assert [name_of(one) for one in found.added] == [
        ("Node", "", "new"),
        ("NetworkPolicy", "a", "new"),
    ]
    assert found.changed == [node("changed", a=2)]
    assert found.removed == [("NetworkPolicy", "a", "gone"), ("Node", "", "old")]
    assert not difference(wanted, wanted)
    assert "remove 2: 1 Node, 1 NetworkPolicy" in summary(found)


def test_parts_fit_an_atomic_write() -> None:
    """However much it is, no part holds more than one write takes, and nothing is left out."""
    now = named(*(node(f"o{i}") for i in range(1500)))
    wanted = named(*(node(f"n{i}", text="x" * 20_000) for i in range(1500)))
    done = list(parts(difference(now, wanted)))
    assert all(len(items) + len(gone) <= 1000 for items, gone in done)
    assert all(len(json.dumps(items)) < 16 * 1024 * 1024 for items, _ in done)
    assert sum(len(items) for items, _ in done) == 1500
    assert sum(len(gone) for _, gone in done) == 1500
