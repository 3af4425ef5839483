"""Which iptables this host uses: nft where it works, legacy where it must be.

Owns the search for the tools and the trial of them. Refuses to guess silently: what was found
missing or not working is said with what to do.
"""

import asyncio
import shutil
from collections.abc import Sequence
from typing import Literal

from hopwall_dataplane.iptables.driver import Backend, Ran, run_tool
from hopwall_dataplane.iptables.parse import classify
from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.outcome import Family
from hopwall_model.names import CHAIN_PREFIX, COMMENT_PREFIX

Mode = Literal["auto", "nft", "legacy"]
Kind = Literal["nft", "legacy"]

_TOOL = {Family.V4: "iptables", Family.V6: "ip6tables"}
_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_TRIAL = "*filter\nCOMMIT\n"
_TRIAL_TIMEOUT_S = 10.0
_TRIAL_CHAIN = f"{CHAIN_PREFIX}trial"
_LOG_LINE = f'-j NFLOG --nflog-prefix "{COMMENT_PREFIX}'
_LOG = f'-m limit --limit 1/second --limit-burst 1 {_LOG_LINE}"'

_PROGRAM = '-m bpf --bytecode "'


class BackendError(Exception):
    """No usable iptables; the text says what was tried and what to do."""


async def choose(
    mode: Mode = "auto",
    *,
    families: Sequence[Family] = (Family.V4, Family.V6),
    command_prefix: tuple[str, ...] = (),
    folders: str = _FOLDERS,
) -> Backend:
    """Find the tools and try each with an empty transaction that changes nothing.

    Legacy is only tried when asked for or when nft does not work: a trial loads its kernel modules.

    Errors: BackendError with one sentence per backend tried.
    """
    kinds: tuple[Kind, ...] = ("nft", "legacy") if mode == "auto" else (mode,)
    troubles = []
    for kind in kinds:
        try:
            return await asyncio.to_thread(_try, kind, families, command_prefix, folders)
        except BackendError as error:
            troubles.append(str(error))
    raise BackendError(" ".join(troubles))


async def why_no_log(
    backend: Backend, families: Sequence[Family], *, command_prefix: tuple[str, ...] = ()
) -> str:
    """Return why this kernel cannot log packets, "" when it can.

    Only the kernel itself can tell: a chain that nothing leads to is made and removed again. Where a log
    line of ours stands already nothing is written.
    """
    return await asyncio.to_thread(_why_not, backend, families, command_prefix, _LOG, _LOG_LINE)


async def why_no_flow_limit(backend: Backend, families: Sequence[Family]) -> str:
    """Return why this kernel cannot limit the flows of an address, "" when it can; as `why_no_log`."""
    line = "-m connlimit --connlimit-above 1 --connlimit-saddr -j RETURN"
    return await asyncio.to_thread(_why_not, backend, families, (), line, "-m connlimit", "filter")


async def why_no_bpf(
    backend: Backend, families: Sequence[Family], *, command_prefix: tuple[str, ...] = ()
) -> str:
    """Return why this kernel cannot run a program over a packet, "" when it can; as `why_no_log`."""
    return await asyncio.to_thread(
        _why_not, backend, families, command_prefix, f'{_PROGRAM}1,6 0 0 0" -j RETURN', _PROGRAM
    )


def _why_not(
    backend: Backend,
    families: Sequence[Family],
    command_prefix: tuple[str, ...],
    line: str,
    stands: str,
    where: TableName = "raw",
) -> str:
    for family in families:
        saved = _run((*command_prefix, backend.save_path[family], "-t", where), "")
        if stands in saved.stdout:
            continue
        restore = (*command_prefix, *backend.restore_argv(family))
        made = _run(restore, f"*raw\n:{_TRIAL_CHAIN} - [0:0]\n-A {_TRIAL_CHAIN} {line}\nCOMMIT\n")
        if made.returncode != 0:
            return classify(made.stderr, made.returncode).message
        _run(restore, f"*raw\n:{_TRIAL_CHAIN} - [0:0]\n-X {_TRIAL_CHAIN}\nCOMMIT\n")
    return ""


def _try(
    kind: Kind, families: Sequence[Family], command_prefix: tuple[str, ...], folders: str
) -> Backend:
    restore_path = {f: _find(f"{_TOOL[f]}-{kind}-restore", folders) for f in families}
    save_path = {f: _find(f"{_TOOL[f]}-{kind}-save", folders) for f in families}
    options: tuple[str, ...] = ()
    # Only legacy has a lock to wait for, and versions before 1.6.2 know no such option.
    if kind == "legacy" and all(
        "--wait" in _run((*command_prefix, path, "--help"), "").stderr
        for path in restore_path.values()
    ):
        # Without a limit of its own: the alarm of `--wait=5` ends a long-lived process 5 s after a transaction.
        options = ("--wait",)
    backend = Backend(kind, restore_path, save_path, options)
    for family in families:
        argv = backend.restore_argv(family, "--test")
        ran = _run((*command_prefix, *argv), _TRIAL)
        if ran.returncode != 0:
            raise BackendError(
                f"{argv[0]} does not work: {classify(ran.stderr, ran.returncode).message} "
                "(it needs CAP_NET_ADMIN, CAP_NET_RAW and a kernel with netfilter)."
            )
    return backend


def _find(tool: str, folders: str) -> str:
    path = shutil.which(tool, path=folders)
    if path is None:
        raise BackendError(
            f"{tool} is not in {folders}: install the Debian package iptables "
            "(its name is iptables elsewhere too)."
        )
    return path


def _run(argv: tuple[str, ...], text: str) -> Ran:
    try:
        return run_tool(argv, text=text, timeout_s=_TRIAL_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        raise BackendError(f"{argv[0]} does not run: {error}.") from error
