"""The house rules a number or a name can show, over the whole tree."""

import ast
import re
from pathlib import Path

import pytest

from hopwall_dataplane.settings import DataplaneSettings

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("services/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500


def functions(path: Path) -> list[tuple[str, int]]:
    """Return each function of a file with its length in lines, docstring not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if (doc := ast.get_docstring(node, clean=False)) is not None:
                length -= doc.count("\n") + 1
            found.append((node.name, length))
    return found


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_within_their_budgets(path: Path) -> None:
    """No file over 500 lines, no function over 60: the tail is what hurts."""
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    assert [f for f in functions(path) if f[1] > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_says_its_rule(path: Path) -> None:
    """Each test has a docstring: the rule it holds the product to."""
    tree = ast.parse(path.read_text())
    silent = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_has_a_name_that_means_nothing(path: Path) -> None:
    """A file is named after what it owns."""
    assert path.stem not in {"utils", "common", "helpers", "manager", "handlers", "core", "misc"}


def test_every_link_in_the_documents_leads_somewhere() -> None:
    """A document that names a file of the tree names one that is there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("services/*/*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_decision_is_numbered_once() -> None:
    """Decision records are told apart by their number."""
    numbers = [p.name[:4] for p in ROOT.glob("docs/decisions/*.md")]
    assert len(numbers) == len(set(numbers))


def test_documented_settings_are_the_settings() -> None:
    """The configuration guide names every setting of the dataplane, and no other."""
    guide = (ROOT / "docs/guides/configuration.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", " ".join(re.findall(r"^\| (.*?) \|", guide, re.M))))
    known = set(DataplaneSettings.__struct_fields__)
    assert known - named == set()
