"""Upgrade and rollback while packets are judged: services of two versions side by side, exchanged one by one.

The other version is an earlier one of this repository, as git has it: the last release, and the oldest that is held
to get on with this one; and one that is still to come: this one, whose messages have fields that nobody knows yet,
and whose agents spell every line otherwise (`to_come.py`).
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.cloud import NotRecovered
from tests.faults.table import Mode, Trial
from tests.faults.watch import Harm, Watch, on_a_cloud

ROOT = Path(__file__).parents[2]
#: What one upgrades from, and goes back to: the last release.
RELEASE = "c1cf164"
#: The oldest version that is held to get on with this one: messages, files on disk, and what stands in kernels.
OLDEST = "aff32bf"
#: What this version does no more (decision 30). Seen of the old version by itself, without any exchange; and where
#: it takes a chain with dead lines, of an agent that was killed as it had just written, for another policy.
_OLD_CLOSES = "its agents close a list that they write while a set moves"
#: Until a change is enforced again after an exchange.
_PATIENCE_S = 30.0
_HERE = "tests/faults/modes_versions.py"

Prefix = Callable[[Watch], Sequence[str]]


def of(commit: str) -> Prefix:
    """Return how the services of a version are taken out of the repository: behind what they run.

    Errors: AssertionError where this clone has no history.
    """

    def prefix(watch: Watch) -> Sequence[str]:
        folder = watch.cloud.folder.path / commit
        if not folder.exists():
            folder.mkdir()
            argv = ["git", "archive", commit, "services"]
            packed = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
            said = packed.stderr.decode()
            assert packed.returncode == 0, (
                f"this clone has no version {commit} (git fetch --unshallow): {said}"
            )
            subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
        services = sorted(one for one in (folder / "services").iterdir() if one.is_dir())
        return ("env", f"PYTHONPATH={':'.join(map(str, services))}")

    return prefix


def to_come(_: Watch) -> Sequence[str]:
    """Return behind what a service speaks as a later version may."""
    return (sys.executable, "-m", "tests.faults.to_come")


def exchanged(prefix: Prefix) -> Harm:
    """Return a harm that exchanges every service for another version, one by one, and back."""

    async def harm(watch: Watch, trial: Trial) -> None:
        cloud = watch.cloud
        other = prefix(watch)
        agents = sorted(name for name in cloud.services if name.startswith("dataplane-"))
        orders = ([*agents, "calc", "api"], ["api", "calc", *agents])
        try:
            while trial.goes_on():
                there, back = trial.chance.choice(orders), trial.chance.choice(orders)
                if trial.brief:
                    there = back = ["calc", agents[0]]
                for name in there:
                    await _exchange(watch, name, *other)
                for name in back:
                    await _exchange(watch, name)
                watch.result.tries += 1
        finally:
            for name in orders[0]:
                if name not in cloud.services:
                    cloud.bring_back(name)
        watch.result.note = f"a try exchanges {len(agents) + 2} services there and back"

    return harm


async def _exchange(watch: Watch, name: str, *prefix: str) -> None:
    await watch.cloud.exchange(name, *prefix)
    try:
        await watch.recovered()
    except NotRecovered as error:
        which = "the other version" if prefix else "this version"
        raise NotRecovered(f"{error}: {name} was made {which}") from error


MODES = (
    Mode("upgrade and rollback", f"with {RELEASE}, service by service, in either order", on_a_cloud(exchanged(of(RELEASE)), patience_s=_PATIENCE_S), ("C9", "C6"), weight=2, where=_HERE),
    Mode("upgrade from an old version", f"with {OLDEST}, and back; {_OLD_CLOSES}", on_a_cloud(exchanged(of(OLDEST)), patience_s=_PATIENCE_S), ("C9", "C6"), closes=_OLD_CLOSES, where=_HERE),
    Mode("a version to come", "whose messages have unknown fields, and whose lines are others, service by service", on_a_cloud(exchanged(to_come), patience_s=_PATIENCE_S), ("C9", "C6"), where=_HERE),
)  # fmt: skip
