"""How many flows an address may have begun where nobody says."""

import pytest

from hopwall_dataplane.conntrack.limit import flow_limit


@pytest.mark.parametrize(
    ("setting", "most", "limit"),
    [(-1, "262144", 16384), (-1, None, 4096), (-1, "2000", 1024), (0, "262144", 0), (7, "9", 7)],
)
def test_without_a_word_it_is_a_share_of_the_kernels_table(
    setting: int, most: str | None, limit: int
) -> None:
    """What was said holds, also "none"; the share is never so small that an ordinary workload meets it."""
    assert flow_limit(setting, most) == limit
