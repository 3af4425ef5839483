"""Short forms of what the store must survive."""

from pathlib import Path

import pytest

from tests.faults.modes_store import MODES
from tests.faults.table import Mode, quick

pytestmark = [pytest.mark.nats, pytest.mark.kernel]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_nothing_acknowledged_is_lost(mode: Mode, tmp_path: Path) -> None:
    """Whatever is killed or cut, what was acknowledged is stored; the known-bad one is caught."""
    await quick(mode, tmp_path, tries=1 if "power" in mode.name else 3)
