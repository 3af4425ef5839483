"""Short forms of what a cloud must survive while every packet is judged, and of known-bad ways it must show."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults import modes_packets, modes_switches
from tests.faults.cloud import Cloud
from tests.faults.table import Mode, quick

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.nats,
    pytest.mark.asyncio(loop_scope="module"),
]
#: Held in short by others: the lock by the driver's tests, kills by tests/e2e/test_kills.py.
LONG = {"xtables lock held", "kill -9 any process"}
QUICK = [mode for mode in modes_packets.MODES if mode.name not in LONG]
#: Of the known-bad ways those that show on one side each, and on which.
SIDES = {"flush then restore": "closed", "no gate": "closed", "unhook then restore": "opened"}
BAD = [mode for mode in modes_switches.MODES if mode.name in SIDES]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud() -> AsyncIterator[Cloud]:
    """Run one cloud for all that leave it whole."""
    async with Cloud("faultsq") as running:
        yield running


@pytest.mark.parametrize("mode", QUICK, ids=lambda mode: mode.name)
async def test_no_packet_fares_otherwise_than_is_legal(
    mode: Mode, cloud: Cloud, tmp_path: Path
) -> None:
    """Whatever is killed, frozen, cut off or exchanged: none open, none closed, nothing lost, all recovers."""
    await quick(mode, tmp_path, cloud=cloud)


@pytest.mark.parametrize("mode", BAD, ids=lambda mode: mode.name)
async def test_a_known_bad_way_is_caught(mode: Mode, tmp_path: Path) -> None:
    """The prober sees what it is for, open and closed: else its silence would mean nothing."""
    result = await quick(mode, tmp_path)
    assert getattr(result, SIDES[mode.name]) > 0
