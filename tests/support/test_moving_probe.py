"""For how long a caller had no answer is counted from what it sent, and from no earlier than it is asked."""

from typing import cast

import pytest

from tests.support.moving_probe import Probe, blackout_s


class Said:
    """A caller that has written this: number of a datagram that was answered, and when it was sent."""

    def __init__(self, *answered: tuple[int, float]) -> None:
        self._answered = answered

    def lines(self) -> list[list[str]]:
        """Return the lines as the caller writes them."""
        return [[str(number), f"{at:.4f}"] for number, at in self._answered]


@pytest.mark.parametrize(
    ("answered", "seconds"),
    [
        (((1, 9.0), (2, 9.001), (3, 11.5)), 0.0),
        (((1, 9.9), (401, 10.3), (402, 12.0)), 0.3),
        (((1, 9.3), (601, 9.99), (602, 10.0)), 0.0),
        (((1, 9.3), (601, 10.01), (602, 10.02)), 0.01),
        (((1, 10.1), (200, 10.3), (201, 10.4), (900, 11.2)), 0.8),
        ((), 0.0),
    ],
    ids=[
        "a pause of the sender",
        "begun before",
        "over before",
        "of others",
        "the longest",
        "none",
    ],
)
def test_a_blackout_is_what_was_sent_since_then_and_not_answered(
    answered: tuple[tuple[int, float], ...], seconds: float
) -> None:
    """Neither what was before that moment nor a caller that waits for the machine is one."""
    assert blackout_s(cast(Probe, Said(*answered)), 10.0) == pytest.approx(seconds)
