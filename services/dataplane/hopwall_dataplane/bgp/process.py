"""Start BIRD as `python -m hopwall_dataplane.bgp.process`: become it, with what the kernel held kept if it crashed.

BIRD removes its PID file when it ends in good order. One that is still there says that it did not, and then it is
started with -R: it takes over the routes it left in the kernel, instead of removing them before its peers are back.
A file on a tmpfs goes with the machine, and so do the routes.

After a crash it starts with the configuration that the agent laid down for that (`absent`), if it is not old: one
that waits only for peers which may still come back. The agent brings it to the right one then.

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
from hopwall_runtime import clock

_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_CHECK_S = 60.0
#: The agent writes the time into it at each look (`speaker.LOOK_S`); older than this, peers may be back.
_FRESH_S = 15.0


def start_file(config: Path) -> Path:
    """Return where the configuration is with which BIRD starts after a crash."""
    return config.with_name(f"{config.name}.start")


def take_start(config: Path, now_s: float) -> None:
    """Put what the agent laid down for a start after a crash in the place of the configuration, if it is fresh.

    Units:  `now_s` is wall-clock time, as files have it.
    """
    laid = start_file(config)
    try:
        if 0 <= now_s - laid.stat().st_mtime <= _FRESH_S:
            laid.replace(config)
    except FileNotFoundError:
        return
    except OSError as error:  # it only saves a wait
        sys.stderr.write(f"{laid} is not used: {error}\n")


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
    recover = asked.pid_file.exists()
    try:
        if recover:
            take_start(asked.config, clock.file_time())
        prepare(bird, asked.config)
    except OSError as error:
        sys.stderr.write(f"{asked.config}: {error}\n")
        return 2
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
