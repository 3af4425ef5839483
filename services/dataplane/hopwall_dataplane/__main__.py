"""`hopwall-dataplane`: the agent of one host.

With --build-wall it only closes the workloads' interfaces, as a machine boots; with --cleanup it removes everything
of ours.
"""

import asyncio
import sys

from hopwall_dataplane.cleanup import cleanup
from hopwall_dataplane.iptables.backend import BackendError
from hopwall_dataplane.service import build_wall, open_kernel, serve
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_runtime.config import ConfigError, load_or_exit
from hopwall_runtime.main import run

PROGRAM = "hopwall-dataplane"


class _MainSettings(DataplaneSettings, frozen=True, kw_only=True):
    """What only the command understands."""

    build_wall: bool = False
    cleanup: bool = False
    dry_run: bool = False


def main() -> None:
    """Run until told to stop, or clean up and end."""
    settings = load_or_exit(_MainSettings, PROGRAM)
    try:
        settings.check()
        if settings.build_wall:
            asyncio.run(build_wall(settings))
            return
        if settings.cleanup:
            asyncio.run(_cleanup(settings))
            return
    except (ConfigError, BackendError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(2) from error
    raise SystemExit(run(lambda: serve(settings), settings))


async def _cleanup(settings: _MainSettings) -> None:
    kernel = await open_kernel(settings)
    try:
        for line in await cleanup(kernel, dry_run=settings.dry_run):
            sys.stdout.write(f"{'would remove' if settings.dry_run else 'removed'} {line}\n")
    finally:
        await kernel.close()


if __name__ == "__main__":
    main()
