"""Tools of this machine that behave oddly, for one process and its children: real ones, behind a script."""

import ctypes
import shutil
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_SBIN = Path("/usr/sbin")


def own_mounts() -> None:
    """Let what this process mounts from now on be seen by itself and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def wrap_iptables(folder: Path, kind: str, through: str) -> None:
    """Let all that the restore tools of a backend ("nft", "legacy") read come through a command.

    Needs `own_mounts`; `through` is shell text.
    """
    # The command must hold none of the tool's output: its end is how the tool's end is seen.
    behind = f'exec -a "$name" "$real" "$@" < <({through} <&3 3<&- 2>/dev/null) 3<&-'
    body = f'case "$name" in *-restore) exec 3<&0; {behind};; esac'
    wrap_tool(folder, f"xtables-{kind}-multi", body)


def wrap_tool(folder: Path, name: str, body: str) -> None:
    """Let a tool run some shell text first; `$name` is what it was called by, `$real` the tool, "$@" its words.

    Needs `own_mounts`.
    """
    real, script = folder / f"{name}.real", folder / f"{name}.script"
    shutil.copy(_SBIN / name, real)
    begins = f'#!/bin/bash\nname="${{0##*/}}" real="{real}"\n'
    script.write_text(f'{begins}{body}\nexec -a "$name" "$real" "$@"\n')
    script.chmod(0o755)
    subprocess.run(["mount", "--bind", str(script), str(_SBIN / name)], check=True)
