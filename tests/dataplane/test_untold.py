"""Drift that is found while NATS is away: told later, in order, with the time when it was found."""

from hopwall_dataplane.drift import Found
from hopwall_dataplane.untold import _MOST, Untold
from hopwall_model.status import Drift


class Bus:
    """A bus that is there or not."""

    def __init__(self) -> None:
        self.is_there = False
        self.told: list[tuple[str, Drift]] = []

    async def publish(self, subject: str, note: Drift) -> bool:
        """Take what is told, if there is a bus."""
        if self.is_there:
            self.told.append((subject, note))
        return self.is_there


def found(*names: str) -> list[Found]:
    """Return findings."""
    return [Found("set", name, "destroyed") for name in names]


async def test_what_is_found_while_nats_is_away_is_told_when_it_is_back() -> None:
    """None is lost or told twice, the order stays, and the time is that of the finding."""
    bus = Bus()
    untold = Untold("h1", bus.publish)
    await untold.add(found("a", "b"))
    await untold.add(found("c"))
    assert bus.told == []
    at = [note.at for note in untold._waiting]
    bus.is_there = True
    await untold.tell()
    await untold.add(found("d"))
    assert [note.name for _, note in bus.told] == ["a", "b", "c", "d"]
    assert [note.at for _, note in bus.told][:3] == at
    assert {subject for subject, _ in bus.told} == {"hopwall.drift.h1"}


async def test_of_more_than_can_be_kept_the_oldest_go() -> None:
    """A program that fights over something for days fills no memory."""
    bus = Bus()
    untold = Untold("h1", bus.publish)
    for i in range(_MOST + 5):
        await untold.add(found(str(i)))
    bus.is_there = True
    await untold.tell()
    assert [note.name for _, note in bus.told] == [str(i) for i in range(5, _MOST + 5)]
