"""Two of calc at once: the one that began last speaks; one that slept through changes must not bring them back."""

import asyncio
import signal

from tests.faults.rig import pause
from tests.faults.table import Mode, Trial
from tests.faults.watch import Watch, on_a_cloud

_NAMES = ("calc", "calc-2")
_HERE = "tests/faults/modes_two_calcs.py"


async def two_of_calc(watch: Watch, trial: Trial) -> None:
    """Freeze the calc that speaks, start another in its place, change much, and let the first wake up.

    Now and then the other is taken away for good after that: the one that woke up goes on.
    """
    cloud = watch.cloud
    old, new = _NAMES
    try:
        while trial.goes_on():
            await watch.recovered()
            cloud.services[old].signal(signal.SIGSTOP)
            if new in cloud.services:
                await cloud.take_away(new)
            cloud.beside(new, like="calc")
            await watch.recovered()
            await asyncio.sleep(1.0 if trial.brief else pause(trial.chance, 0.0, 15.0))
            async with watch.changes.standing_still():
                # What is enforced now is all that is legal: whoever wakes up knows less.
                cloud.services[old].signal(signal.SIGCONT)
                await asyncio.sleep(2.0)
            watch.result.tries += 1
            await watch.recovered()
            if not trial.brief and trial.chance.random() < 0.4:
                await cloud.take_away(new)
                await watch.recovered()
            else:
                old, new = new, old
    finally:
        for name in _NAMES:
            if name in cloud.services:
                cloud.services[name].signal(signal.SIGCONT)
        await cloud.take_away(_NAMES[1])
        if _NAMES[0] not in cloud.services:
            cloud.bring_back(_NAMES[0])
    watch.result.note = "who took over by itself waited 15 to 19 s for the one that was gone"


MODES = (
    Mode("two of calc", "one frozen for up to 15 s while another takes its place, and woken up", on_a_cloud(two_of_calc), ("C2",), weight=2, where=_HERE, takes_s=30.0),
)  # fmt: skip
