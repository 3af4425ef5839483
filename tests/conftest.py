"""Fixtures shared by all tests."""

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hopwall_cli.nats_server import NatsServer
from tests.support import netns
from tests.support.ports import free_port

# No agent that a test starts may find what another kept, unless the test says where.
os.environ["HOPWALL_STATE_DIR"] = ""

# How long an example takes says something of the machine, and the tests share it. The examples are the same in each
# run: what is found by looking on is found by whoever looks (`make test-deep`, profile "search"), and not by the next
# one who changes something else.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("search", settings.get_profile("house"), derandomize=False)
settings.load_profile("house")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Take away what a run that was killed left; other runs that go on keep theirs."""
    if not hasattr(session.config, "workerinput"):
        netns.sweep()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what would be skipped: a test that cannot run has not shown anything."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} could not run: {call.excinfo and call.excinfo.value}"
    return report


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Run a real nats-server on loopback for one test."""
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()
