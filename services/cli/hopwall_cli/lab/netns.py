"""The lab's only door to the kernel: the `ip` command, run to completion.

Owner:  namespaces that begin with the lab's prefix, and the processes inside them.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Sequence
from pathlib import Path

from hopwall_cli.lab.topology import LabError

_NETNS = Path("/run/netns")


async def together(*work: Awaitable[None]) -> None:
    """Do all at once, wait for all, then raise the first fault: nothing is left half-started."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def run(
    argv: Sequence[str], *, text: str = "", check: bool = True, timeout_s: float = 30.0
) -> str:
    """Run a command and return its output.

    Errors: LabError with what it said, when it fails and `check` is true, or takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(text.encode())
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise LabError(f"{' '.join(argv)} took more than {timeout_s} s.") from error
        raise
    if check and process.returncode:
        said = (err or out).decode(errors="replace").strip()
        raise LabError(f"{' '.join(argv)} ended with {process.returncode}: {said}")
    return out.decode(errors="replace")


async def batch(namespace: str, lines: Sequence[str]) -> None:
    """Run lines of `ip` in a namespace ("" for the caller's own), stopping at the first that fails."""
    place = ["-n", namespace] if namespace else []
    await run(["ip", *place, "-batch", "-"], text="\n".join(lines) + "\n")


def inside(namespace: str, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs `argv` in a namespace."""
    return ["ip", "netns", "exec", namespace, *argv]


def present(prefix: str) -> list[str]:
    """Return the names of the namespaces that begin with a prefix."""
    if not _NETNS.is_dir():
        return []
    return sorted(path.name for path in _NETNS.iterdir() if path.name.startswith(prefix))


async def create(name: str) -> None:
    """Make a namespace with `lo` up, addresses usable at once and no router advertisements."""
    await run(["ip", "netns", "add", name])
    await batch(name, ["link set lo up"])
    settings = {"accept_dad": 0, "accept_ra": 0, "router_solicitations": 0}
    script = "\n".join(
        f"echo {value} > /proc/sys/net/ipv6/conf/{scope}/{key}"
        for scope in ("all", "default")
        for key, value in settings.items()
    )
    await run(inside(name, ["sh", "-c", script]))


async def delete(name: str) -> None:
    """End the processes in a namespace and remove it; one that is gone already is no error."""
    found = await run(["ip", "netns", "pids", name], check=False)
    for pid in found.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    await run(["ip", "netns", "del", name], check=False)
