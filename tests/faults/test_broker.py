"""Short forms of a broker in trouble."""

from pathlib import Path

import pytest

from tests.faults.modes_broker import MODES
from tests.faults.table import Mode, quick

pytestmark = [pytest.mark.nats, pytest.mark.kernel]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_trouble_of_the_broker_passes(mode: Mode, tmp_path: Path) -> None:
    """Whatever the broker's trouble: nothing acknowledged is lost, reads go on, and it ends by itself."""
    await quick(mode, tmp_path)
