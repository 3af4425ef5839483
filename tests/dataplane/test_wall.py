"""The wall of a host that boots: what is kept of host endpoints may add to it, and never costs it."""

import pytest

from hopwall_dataplane import service
from hopwall_dataplane.feed import Step
from hopwall_dataplane.settings import DataplaneSettings


@pytest.mark.parametrize("fault", [OSError("refused"), ValueError("a bug"), KeyError("a bug")])
async def test_a_kept_state_that_fails_costs_no_wall(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Whatever it fails with, reading or building: the wall without memory is built."""
    built: list[Step | None] = []
    kept = Step("e", 1, full=True, updates=())

    async def build(_: DataplaneSettings, step: Step | None) -> None:
        if step is not None:
            raise fault
        built.append(step)

    def read(_: object) -> Step | None:
        raise fault

    monkeypatch.setattr(service, "_build_wall", build)
    for keeps in (lambda _: kept, read):
        monkeypatch.setattr(service, "host_endpoints_of", keeps)
        await service.build_wall(DataplaneSettings())
    assert built == [None, None]
