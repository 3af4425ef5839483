"""The security guide says what the code does."""

from pathlib import Path

import pytest

from tests.security import tables

GUIDE = (Path(__file__).parents[2] / "docs/guides/security.md").read_text()


@pytest.mark.parametrize("table", [tables.roles, tables.shared_kinds, tables.subjects, tables.host])
def test_a_table_of_the_guide_is_that_of_the_code(table: object) -> None:
    """`python -m tests.security.tables` prints what must stand there."""
    assert callable(table)
    assert table() in GUIDE
