"""Short forms of what several calcs, storms, clocks, other versions and time itself do to a cloud."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults import modes_clocks, modes_long, modes_storm, modes_two_calcs, modes_versions
from tests.faults.cloud import Cloud
from tests.faults.table import Mode, quick

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.nats,
    pytest.mark.asyncio(loop_scope="module"),
]
#: They need the history of the repository, which a clone may not have.
LONG = {"upgrade and rollback", "upgrade from an old version"}
FILES = (modes_two_calcs, modes_storm, modes_clocks, modes_versions, modes_long)
QUICK = [mode for file in FILES for mode in file.MODES if mode.name not in LONG]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud() -> AsyncIterator[Cloud]:
    """Run one cloud for all that leave it whole."""
    async with Cloud("faultso") as running:
        yield running


@pytest.mark.parametrize("mode", QUICK, ids=lambda mode: mode.name)
async def test_no_packet_fares_otherwise_than_is_legal(
    mode: Mode, cloud: Cloud, tmp_path: Path
) -> None:
    """Whoever speaks, however much, by whatever clock and version: none open, none closed, nothing lost or left."""
    await quick(mode, tmp_path, cloud=cloud)
