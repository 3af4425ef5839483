"""Failure modes that tests of their own produce: they are run and counted here, so that the table has them all."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.faults.table import BROKER_ALONE, TESTS_JUDGE, Mode, Result, Trial

ROOT = Path(__file__).parents[2]


def tested(*paths: str) -> Callable[[Trial], Awaitable[Result]]:
    """Return how a mode is run that is a choice of tests: each that passes is a try."""

    async def run(trial: Trial) -> Result:
        report = trial.folder / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
        process = await asyncio.create_subprocess_exec(
            *argv,
            f"--junitxml={report}",
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)  # it cleans up
                await process.wait()
        return _read(report)

    return run


def _read(report: Path) -> Result:
    result = Result()
    if not report.exists():
        result.faults.append("the tests did not run to their end")
        return result
    for case in ElementTree.parse(report).iter("testcase"):  # our own report
        if case.find("failure") is None and case.find("error") is None:
            result.tries += 1
        else:
            result.faults.append(f"{case.get('name')} failed")
    result.note = f"{result.tries} tests"
    return result


def _mode(
    name: str,
    what: str,
    covers: tuple[str, ...],
    takes_s: float,
    *paths: str,
    packets: str = TESTS_JUDGE,
) -> Mode:
    where = paths[0].partition("::")[0]
    return Mode(name, what, tested(*paths), covers, packets, weight=0, where=where, takes_s=takes_s)


MODES = (
    _mode("drift", "one of each kind of damage, both backends", ("K2", "K3", "K4", "K11"), 35, "tests/faults/drift/test_drift.py"),
    _mode("hostile workloads", "the quick form", ("K9",), 140, "tests/faults/hostile/test_hostile.py"),
    _mode("one bad object", "lines and members that the kernel refuses", ("K6", "K8"), 18, "tests/dataplane/test_one_bad_object.py", "tests/dataplane/test_agent_faults.py", "tests/dataplane/ipsets/test_driver.py"),
    _mode("boot", "before anything is known, with and without the last-good file", ("K13",), 50, "tests/dataplane/test_agent_boot.py"),
    _mode("held snapshots", "what a host must not obey at once", ("B8",), 35, "tests/dataplane/test_agent_hold.py"),
    _mode("kills under flows", "no tracked flow is exchanged, none let by", ("P1", "K1"), 60, "tests/e2e/test_kills.py"),
    _mode("reflectors die", "one of two, and the only one", ("N2",), 60, "tests/e2e/test_bgp.py", "-k", "reflector"),
    _mode("moves", "every variant, with direct routing and a reflector", ("N4",), 110, "tests/e2e/test_migration.py"),
    _mode("rogue peers", "and other daemons", ("N3",), 20, "tests/interop"),
    _mode("calc against its twin", "any order of events: duplicates of addresses, poison", ("N5", "C5"), 55, "tests/calc", "tests/properties", packets="pure: no data path"),
    _mode("large documents", "a huge policy, and what is too large for a message", ("B10", "C4"), 15, "tests/api/test_large.py", "tests/dataplane/test_big_policy.py"),
    _mode("replicas of the API", "race, restart, restore", ("C1",), 22, "tests/api/test_writes.py", "tests/api/test_upkeep.py", "tests/api/test_restore.py", packets=BROKER_ALONE),
    _mode("API abused", "slow, large and many", ("C8",), 100, "tests/security/test_load.py", packets=BROKER_ALONE),
    _mode("messages of other versions", "fields that are not known, files of earlier ones", ("C6",), 5, "tests/wire", "tests/model/test_codec.py", packets="pure: no data path"),
)  # fmt: skip
