"""Short forms of what three servers must survive."""

from pathlib import Path

import pytest

from tests.faults.modes_cluster import MODES
from tests.faults.table import Mode, quick

pytestmark = [pytest.mark.nats, pytest.mark.kernel]
QUICK = [m for m in MODES if any(w in m.name for w in ("leader killed", "cut off", "power cut"))]


@pytest.mark.parametrize("mode", QUICK, ids=lambda mode: mode.name)
async def test_a_cluster_loses_nothing(mode: Mode, tmp_path: Path) -> None:
    """What a cluster has acknowledged is stored, whichever of its servers is lost."""
    await quick(mode, tmp_path)
