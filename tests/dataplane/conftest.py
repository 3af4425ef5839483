"""Fixtures of the tests of the dataplane."""

import pytest


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    """Name both backends of iptables in turn."""
    return str(request.param)
