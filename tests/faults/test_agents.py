"""Short forms of many hosts and one broker."""

from pathlib import Path

import pytest

from tests.faults.modes_agents import RECONNECT_FEW, SLOW
from tests.faults.table import Mode, quick

pytestmark = pytest.mark.nats


@pytest.mark.parametrize("mode", [RECONNECT_FEW, SLOW], ids=lambda mode: mode.name)
async def test_hosts_come_back_by_themselves(mode: Mode, tmp_path: Path) -> None:
    """After a broker's restart, or a pause of their own, hosts have what calc says, in bounded memory."""
    await quick(mode, tmp_path)
