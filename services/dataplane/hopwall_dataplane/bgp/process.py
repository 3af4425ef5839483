"""Start BIRD as `python -m hopwall_dataplane.bgp.process`: become it, with what the kernel held kept if it crashed.

BIRD removes its PID file when it ends in good order. One that is still there says that it did not, and then it is
started with -R: it takes over the routes it left in the kernel, instead of removing them before its peers are back.
A file on a tmpfs goes with the machine, and so do the routes.

It refuses to watch over BIRD: whoever runs it (systemd, a container, `hopwall up`) starts it again.

Source: bird(8); RFC 4724.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hopwall_dataplane.bgp.render import IDLE, render

_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_CHECK_S = 60.0


def command(bird: str, *, config: Path, socket: Path, pid_file: Path, recover: bool) -> list[str]:
    """Return the command line of BIRD in the foreground; with `recover` it keeps the kernel's routes."""
    paths = ["-c", str(config), "-s", str(socket), "-P", str(pid_file)]
    return [bird, "-f", *(["-R"] if recover else []), *paths]


def prepare(bird: str, config: Path) -> None:
    """Make sure that BIRD can start: where there is no configuration it takes, write one that does nothing.

    The agent gives it the right one as soon as it answers.

    Errors: `OSError`.
    """
    if config.exists():
        checked = subprocess.run(
            [bird, "-p", "-c", str(config)], capture_output=True, timeout=_CHECK_S, check=False
        )
        if checked.returncode == 0:
            return
        sys.stderr.write(f"{config} is not taken by BIRD; starting with one that does nothing.\n")
    config.unlink(missing_ok=True)
    config.touch(mode=0o600, exist_ok=False)
    config.write_text(render(IDLE, interface_prefixes=("tap",), secrets={}).text)


def main(argv: Sequence[str] | None = None) -> int:
    """Become BIRD; return only when that cannot be."""
    parser = argparse.ArgumentParser(prog="hopwall-bird", description="Run BIRD for the agent.")
    for name in ("config", "socket", "pid-file"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args(argv)
    bird = shutil.which("bird", path=_FOLDERS)
    if bird is None:
        sys.stderr.write("bird is not installed: apt-get install bird2.\n")
        return 2
    try:
        prepare(bird, asked.config)
    except OSError as error:
        sys.stderr.write(f"{asked.config}: {error}\n")
        return 2
    recover = asked.pid_file.exists()
    run = command(
        bird, config=asked.config, socket=asked.socket, pid_file=asked.pid_file, recover=recover
    )
    try:
        os.execv(bird, run)  # noqa: S606 - no shell; the list is ours
    except OSError as error:
        sys.stderr.write(f"{bird} cannot be started: {error.strerror}.\n")
        return 127


if __name__ == "__main__":
    raise SystemExit(main())
