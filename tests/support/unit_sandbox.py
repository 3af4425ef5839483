"""Run a command as systemd would run it by a unit, where no systemd runs.

    python -m tests.support.unit_sandbox '{"unit": …, "uid": …, "stage": …, "lock_gid": …, "binds": {…}}' COMMAND…

`stage` is an empty folder, `binds` says what is seen where: place → folder. In the present network namespace, as root: a mount namespace in which only the unit's folders can be written, then
setpriv for user, capabilities and no_new_privs, then a seccomp filter of the unit's system calls and address
families, then the command.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.unit import Unit

_CLONE_NEWNS = 0x00020000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQ, _MASKED_EQ = 4, 7
_PROT_WRITE, _PROT_EXEC = 2, 4
#: Folders of which the command sees an empty one of its own, with what is bound into it.
_COVERED = {"/root": "755", "/run": "755", "/var/lib": "755", "/tmp": "1777", "/var/tmp": "1777"}


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def main() -> None:
    """Go in, step by step, and become the command."""
    plan = json.loads(sys.argv[1])
    unit = Unit.read(plan["unit"])
    if plan.get("inside"):
        _filter(unit)
        os.umask(int(unit.one("UMask"), 8))
        os.execv(sys.argv[2], sys.argv[2:])
    _mounts(unit, plan["stage"], plan["lock_gid"], plan["binds"])
    again = [sys.executable, "-m", "tests.support.unit_sandbox"]
    again += [json.dumps(plan | {"inside": True}), *sys.argv[2:]]
    os.execvp("setpriv", [*setpriv(unit, plan["uid"]), *again])


def setpriv(unit: Unit, uid: int) -> list[str]:
    """Return what gives a process the unit's user and capabilities, and no way to more."""
    caps = [cap.removeprefix("CAP_").lower() for cap in unit.words("AmbientCapabilities")]
    bound = [cap.removeprefix("CAP_").lower() for cap in unit.words("CapabilityBoundingSet")]
    ambient = ",".join(["-all", *(f"+{cap}" for cap in caps)])
    bounding = ",".join(["-all", *(f"+{cap}" for cap in bound)])
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    argv += [f"--inh-caps={ambient}", f"--ambient-caps={ambient}", f"--bounding-set={bounding}"]
    return argv + ["--no-new-privs"] * unit.is_on("NoNewPrivileges")


def _mounts(unit: Unit, stage_path: str, lock_gid: int, binds: dict[str, str]) -> None:
    """Leave writable what the unit leaves writable; the interpreter must stay readable for a plain user."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("--make-rprivate", "/")
    stage = Path(stage_path)
    # The interpreter and the checkout, wherever they are, stand for what is installed.
    code = {"python": sys.base_prefix, "code": str(Path(__file__).parents[2])}
    kept = {**code, **{str(n): s for n, s in enumerate(binds.values())}}
    for name, source in kept.items():
        (stage / name).mkdir()
        _mount("--rbind", source, str(stage / name))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    Path("/mnt/s").mkdir()
    _mount("--rbind", str(stage), "/mnt/s")
    for folder, mode in _COVERED.items():
        _mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", folder)
    for name, target in (*code.items(), *((str(n), t) for n, t in enumerate(binds))):
        Path(target).mkdir(parents=True, exist_ok=True)
        _mount("--rbind", f"/mnt/s/{name}", target)
    lock = Path("/run/xtables.lock")  # as packaging/tmpfiles.d makes it
    lock.touch()
    lock.chmod(0o660)
    os.chown(lock, 0, lock_gid)
    written = {path.removeprefix("-") for path in unit.words("ReadWritePaths")}
    written |= {f"/var/lib/{name}" for name in unit.words("StateDirectory")}
    written |= {f"/run/{name}" for name in unit.words("RuntimeDirectory")}
    for path in written & {"/run/xtables.lock"}:
        _mount("--bind", path, path)
    if unit.is_on("ProtectKernelTunables"):
        _mount("--bind", "/proc/sys", "/proc/sys")
        _mount("-o", "remount,bind,ro", "/proc/sys")
    if unit.one("ProtectSystem") != "strict":
        return
    own = (*written, "/tmp", "/var/tmp", "/proc", "/dev", "/sys")
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in places:
        if os.path.ismount(place) and not any(
            place == path or place.startswith(f"{path}/") for path in own
        ):
            _mount("-o", "remount,bind,ro", place)


def _filter(unit: Unit) -> None:
    """Allow the unit's system calls, sockets of its families, and no memory to be written and executed."""
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(_ERRNO | 1)))

    def allow(name: str, *comparisons: "_Compare") -> None:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            array = (_Compare * len(comparisons))(*comparisons)
            code = lib.seccomp_rule_add_array(
                context, ctypes.c_uint32(_ALLOW), number, len(comparisons), array
            )
            assert code == 0, (name, code)

    families = [int(getattr(socket, word)) for word in unit.words("RestrictAddressFamilies")]
    both = _PROT_WRITE | _PROT_EXEC
    for name in unit.syscalls:
        if name == "socket":
            for family in families:
                allow(name, _Compare(0, _EQ, family, 0))
        elif name == "mmap" and unit.is_on("MemoryDenyWriteExecute"):
            for protection in (0, _PROT_WRITE, _PROT_EXEC):
                allow(name, _Compare(2, _MASKED_EQ, both, protection))
        elif name in ("mprotect", "pkey_mprotect") and unit.is_on("MemoryDenyWriteExecute"):
            allow(name, _Compare(2, _MASKED_EQ, _PROT_EXEC, 0))
        else:
            allow(name)
    assert lib.seccomp_load(context) == 0


class _Compare(ctypes.Structure):
    """One condition on an argument, as libseccomp wants it."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


if __name__ == "__main__":
    main()
