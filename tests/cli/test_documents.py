import json
import time
from pathlib import Path

import pytest

from hopwall_cli.client import Problem
from hopwall_cli.commands.apply import explain
from hopwall_cli.documents import files_of, load_text, read
from hopwall_cli.errors import Failure

TWO = """\
kind: Tier
metadata: {name: one}
---
# nothing here
---
kind: Tier
metadata: {name: two}
"""


def test_documents_come_in_order_and_empty_ones_are_left_out() -> None:
    """Every non-empty document is one resource, numbered as it stands in the file."""
    found = load_text(TWO, "t.yaml")
    assert [(d.number, d.value["metadata"]["name"]) for d in found] == [(1, "one"), (3, "two")]
    assert found[1].where == "t.yaml, document 3"


@pytest.mark.parametrize("kind", ["List", "TierList"])
def test_list_is_taken_apart(kind: str) -> None:
    """A `kind: List` (or `…List`, as the API answers) is its items."""
    text = f"kind: {kind}\nitems:\n- kind: Tier\n- kind: Node\n"
    found = load_text(text, "t.yaml")
    assert [d.value["kind"] for d in found] == ["Tier", "Node"]
    assert found[1].where == "t.yaml, document 1, item 2"


def test_json_is_read_as_json() -> None:
    """A .json file holds one value; a top-level array is its items."""
    assert [d.value for d in load_text('[{"a": 1}, {"b": 2}]', "t.json")] == [{"a": 1}, {"b": 2}]


def test_json_is_known_by_its_first_character() -> None:
    """On standard input too, where YAML would take a minute for what JSON reads in a blink."""
    text = json.dumps({"items": [{"n": n} for n in range(200_000)], "kind": "List"})
    began_at = time.process_time()
    assert len(load_text(text, "standard input")) == 200_000
    assert time.process_time() - began_at < 5
    assert [d.value for d in load_text('{"a": 1}\n---\n{"b": 2}', "t")] == [{"a": 1}, {"b": 2}]
    assert [d.value for d in load_text("{a: 1}", "t")] == [{"a": 1}]
    for file in ("t.json", "t"):
        with pytest.raises(Failure, match=f"{file}: the key 'a' is there twice"):
            load_text('{"b": {"a": 1, "a": 2}}', file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "line 2: the key 'a' is there twice"),
        ("spec:\n  x: 1\n  x: 2\n", "line 3: the key 'x' is there twice"),
        ("a: [1\n", "line 2"),
        ("just text\n", "document 1 is no object, but str"),
        ("a: !!python/object:os.system {}\n", "line 1: could not determine a constructor"),
        ("a: &x [*x]\n", "line 1: found unconstructable recursive node"),
        ("a: !!binary aGk=\n", "holds a value that JSON has not"),
        ("a: .nan\n", "holds a value that JSON has not"),
    ],
)
def test_unreadable_text_is_one_sentence_with_the_place(text: str, said: str) -> None:
    """What cannot be read is refused with file and line, and a doubled key is never dropped."""
    with pytest.raises(Failure) as caught:
        load_text(text, "t.yaml")
    assert said in str(caught.value)
    assert "t.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20:21", "20:21"),
        ("12:34:56:12:34:56", "12:34:56:12:34:56"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("10", 10),
        ("-3", -3),
        ("10.5", 10.5),
        ("1e1", 10.0),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """A port range, a hardware address or a code is never taken for a number in base 60, 8 or 16."""
    (document,) = load_text(f"a: {text}", "x.yaml")
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


def test_dates_stay_text() -> None:
    """YAML's timestamps are text, as JSON has none."""
    assert load_text("a: 2024-01-02\n", "t.yaml")[0].value == {"a": "2024-01-02"}


def test_anchors_and_merges_work() -> None:
    """Anchors, aliases and merge keys are resolved."""
    text = "base: &b {x: 1}\nmine:\n  <<: *b\n  y: 2\n"
    assert load_text(text, "t.yaml")[0].value["mine"] == {"x": 1, "y": 2}


def test_folder_is_read_recursively_in_order(tmp_path: Path) -> None:
    """A folder is its *.yaml, *.yml and *.json files, sorted; others are left alone."""
    for name in ("b.yaml", "a/c.yml", "z.json", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}" if name.endswith("md") else '{"kind": "Tier"}')
    assert [str(p.relative_to(tmp_path)) for p in files_of(tmp_path)] == [
        "a/c.yml",
        "b.yaml",
        "z.json",
    ]
    assert len(read([str(tmp_path)])) == 3


def test_missing_file_and_empty_input_are_failures(tmp_path: Path) -> None:
    """A file that is not there, and files without any resource, are failures."""
    with pytest.raises(Failure, match="cannot be read: No such file"):
        read([str(tmp_path / "no.yaml")])
    (tmp_path / "empty.yaml").write_text("---\n")
    with pytest.raises(Failure, match="There is no resource in"):
        read([str(tmp_path / "empty.yaml")])


def test_fault_names_file_document_and_field() -> None:
    """Each error of a problem becomes a line with file, document and field."""
    found = load_text(TWO, "t.yaml")
    errors = [
        {"pointer": "/items/1/spec/order", "reason": "Expected a number."},
        {"pointer": "/items/0", "reason": "It stands there twice."},
        {"pointer": "/items/0/metadata/labels/a~1b", "reason": "No."},
    ]
    problem = Problem(422, {"detail": "3 things are wrong.", "errors": errors})
    assert explain(problem, found) == [
        "t.yaml, document 3: spec.order: Expected a number.",
        "t.yaml, document 1: It stands there twice.",
        "t.yaml, document 1: metadata.labels.a/b: No.",
    ]
    assert explain(Problem(503, {"detail": "Try again."}), found) == ["Try again."]
