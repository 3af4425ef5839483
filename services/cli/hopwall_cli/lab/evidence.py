"""What a lab that does not come up leaves to be read: nothing else of it stays."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from hopwall_cli.lab.birds import Birds
from hopwall_cli.lab.run_folder import RunFolder
from hopwall_cli.lab.services import Services
from hopwall_dataplane.bgp.control import Control, Unreachable

_TAIL = 25


@asynccontextmanager
async def noted(folder: RunFolder, services: Services, birds: Birds) -> AsyncIterator[None]:
    """Add to what goes wrong in the block how the processes are, what they said last, and each BIRD's sessions."""
    try:
        yield
    except Exception as error:
        for line in (*_processes(services), *_tails(folder), *[s async for s in _sessions(birds)]):
            error.add_note(line)
        raise


def _processes(services: Services) -> Iterator[str]:
    for name, child in services.children.items():
        runs = f"runs as {child.pid}" if child.pid else "does not run"
        yield f"{name}: {runs}, started {child.starts} times"


def _tails(folder: RunFolder) -> Iterator[str]:
    for log in sorted((folder.path / "log").glob("*")):
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
            yield "\n".join([f"--- the end of {log.name}", *lines])


async def _sessions(birds: Birds) -> AsyncIterator[str]:
    for machine in birds.machines():
        try:
            async with Control(birds.socket(machine)) as bird:
                said = (await bird.ask("show protocols")).text
        except Unreachable as error:
            said = str(error)
        yield f"--- sessions of {machine}\n{said}"
