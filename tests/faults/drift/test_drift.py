"""A quick form of the drift matrix: `python -m tests.faults.drift` does all of it."""

from pathlib import Path

import pytest

from tests.faults.drift.__main__ import rows_of, table

pytestmark = [pytest.mark.kernel, pytest.mark.nats]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_damage_is_put_right_in_time_and_told_and_what_is_foreign_stays(
    backend: str, tmp_path: Path
) -> None:
    """One of each kind of damage, both families: within a second by event, within thirty by audit."""
    rows = list(rows_of(backend, "quick", tmp_path))
    assert {row.kind for row in rows} >= {"table", "set", "route", "sysctl"}
    assert not [row for row in rows if row.fault], table(rows)
