"""The wall of a host that boots: what is kept of host endpoints may add to it, and never costs it."""

import pytest

from hopwall_dataplane import service
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.backend import BackendError
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


@pytest.mark.parametrize(("asked", "wall"), [("legacy", "auto"), ("nft", "nft"), ("auto", "auto")])
async def test_a_backend_that_does_not_work_costs_no_wall(
    monkeypatch: pytest.MonkeyPatch, asked: str, wall: str
) -> None:
    """A wall by another backend than was asked for is better than none: the agent says what it lacks."""
    built: list[str] = []

    async def build(settings: DataplaneSettings, _: Step | None) -> None:
        built.append(settings.backend)

    async def no_legacy(mode: str, **_: object) -> None:
        if mode == "legacy":
            raise BackendError("iptables-legacy-restore is not installed")

    monkeypatch.setattr(service, "_build_wall", build)
    monkeypatch.setattr(service, "choose", no_legacy)
    await service.build_wall(DataplaneSettings(backend=asked))
    assert built == [wall]


async def test_where_no_backend_works_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be closed must not look as if it were."""

    async def nothing(_: str, **__: object) -> None:
        raise BackendError("no iptables")

    monkeypatch.setattr(service, "choose", nothing)
    for backend in ("auto", "legacy"):
        with pytest.raises(BackendError, match="no iptables"):
            await service.build_wall(DataplaneSettings(backend=backend))
