"""When a source may yield is found out by asking, again and again, as long as one waits."""

import asyncio
from collections.abc import Iterable

import pytest

from hopwall_dataplane.moves import rivals as asking
from hopwall_dataplane.moves.phases import NORMAL, YIELDING
from hopwall_dataplane.moves.rivals import Rivals
from tests.dataplane.moves.test_routes import FLOAT, SHARED, VM, moving
from tests.dataplane.test_desired import fresh, step


@pytest.mark.parametrize("heard", [0, 3])
def test_a_source_yields_when_nobody_else_is_heard_of(
    monkeypatch: pytest.MonkeyPatch, heard: int
) -> None:
    """It is asked for all that it shares, until the answer is no; then nobody is asked any more."""
    monkeypatch.setattr(asking, "_PAUSE_S", 0.001)
    desired = fresh()
    desired.moves.with_bgp = True
    desired.apply(step(moving("source")))
    asked: list[list[str]] = []

    async def hears_of(addresses: Iterable[str]) -> bool:
        asked.append(list(addresses))
        return len(asked) <= heard

    async def run() -> None:
        news = asyncio.Event()
        rivals = Rivals(desired, hears_of, news.set)
        rivals.look()
        rivals.look()
        await news.wait()
        assert desired.moves.priority(VM, SHARED) == NORMAL
        desired.tick(0.0, rivals.take_gone())
        assert desired.moves.priority(VM, SHARED) == YIELDING
        assert rivals.take_gone() == []
        n_asked = len(asked)
        rivals.look()
        await asyncio.sleep(0.05)
        assert len(asked) == n_asked

    asyncio.run(run())
    assert asked == [sorted((SHARED, FLOAT))] * (heard + 1)
