"""`hopwall-dataplane`: the agent of one host.

With --build-wall it only closes the workloads' interfaces, as a machine boots, also with settings that the agent
refuses; with --cleanup it removes everything
of ours.
"""

import asyncio
import os
import sys

from hopwall_dataplane.cleanup import cleanup
from hopwall_dataplane.iptables.backend import BackendError
from hopwall_dataplane.service import build_wall, open_kernel, render_settings, serve
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_runtime.config import ConfigError, load_or_exit, load_sound
from hopwall_runtime.main import run

PROGRAM = "hopwall-dataplane"
#: Which interfaces the wall closes.
_PREFIXES = "HOPWALL_INTERFACE_PREFIXES"


class _MainSettings(DataplaneSettings, frozen=True, kw_only=True):
    """What only the command understands."""

    build_wall: bool = False
    cleanup: bool = False
    dry_run: bool = False


def main() -> None:
    """Run until told to stop, or build the wall or clean up and end."""
    if "--build-wall" in sys.argv[1:]:
        _build_wall()
        return
    settings = load_or_exit(_MainSettings, PROGRAM)
    try:
        settings.check()
        if settings.cleanup:
            asyncio.run(_cleanup(settings))
            return
    except (ConfigError, BackendError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(2) from error
    raise SystemExit(run(lambda: serve(settings), settings))


def _build_wall() -> None:
    """Build the wall whatever else the settings say: what the agent will refuse must not leave a booting host open."""
    try:
        settings, faults = load_sound(
            _MainSettings, _check, argv=sys.argv[1:], environ=os.environ, program=PROGRAM
        )
        for name, fault in faults.items():
            sys.stderr.write(f"{PROGRAM}: {name} is left out of the wall: {fault}\n")
        asyncio.run(build_wall(settings))
    except (ConfigError, BackendError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(2) from error
    if _PREFIXES in faults:
        sys.stderr.write(
            f"{PROGRAM}: other interfaces than {settings.interface_prefixes} are open.\n"
        )
        raise SystemExit(2)


def _check(settings: _MainSettings) -> None:
    settings.check()
    render_settings(settings)


async def _cleanup(settings: _MainSettings) -> None:
    kernel = await open_kernel(settings)
    try:
        for line in await cleanup(kernel, dry_run=settings.dry_run):
            sys.stdout.write(f"{'would remove' if settings.dry_run else 'removed'} {line}\n")
    finally:
        await kernel.close()


if __name__ == "__main__":
    main()
