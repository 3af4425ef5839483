"""Imported by Python at the start of each service of a lab that `tests.bench.timeline` makes: stamps what it does.

It changes no service's code: it wraps some functions in the processes that find this folder in their PYTHONPATH.

Shape: `HOPWALL_STAMPS` is a folder; each process appends lines `<monotonic ns> <where> <what>` to a file of its own.
"""

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_FOLDER = os.environ.get("HOPWALL_STAMPS", "")


def _stamper(where: str) -> Callable[[str], None]:
    path = f"{_FOLDER}/{where}-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def stamp(what: str) -> None:
        os.write(fd, f"{time.monotonic_ns()} {where} {what}\n".encode())

    return stamp


def _wrap(
    owner: Any, name: str, label: str | Callable[..., str], stamp: Callable[[str], None]
) -> None:
    """Stamp the begin and the end of each call; a label may be made of the arguments, "" is none."""
    inner = getattr(owner, name)

    def text(args: tuple[Any, ...]) -> str:
        return label if isinstance(label, str) else label(*args)

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def waited(*args: Any, **named: Any) -> Any:
            what = text(args)
            if what:
                stamp(f"{what} begins")
            try:
                return await inner(*args, **named)
            finally:
                if what:
                    stamp(f"{what} ends")

        setattr(owner, name, waited)
        return

    @functools.wraps(inner)
    def called(*args: Any, **named: Any) -> Any:
        what = text(args)
        if what:
            stamp(f"{what} begins")
        try:
            return inner(*args, **named)
        finally:
            if what:
                stamp(f"{what} ends")

    setattr(owner, name, called)


def _api(stamp: Callable[[str], None]) -> None:
    from hopwall_api import answers
    from hopwall_api.agent import Api
    from hopwall_api.writer import Writer
    from hopwall_runtime.appender import Appender

    _wrap(Writer, "write", "write", stamp)
    _wrap(Appender, "append", "append", stamp)
    _wrap(Api, "_on_calc", "hears calc", stamp)
    _wrap(Api, "_on_host", lambda _self, status, _subject: f"hears {status.host}", stamp)
    _wrap(answers, "_render", "answer", stamp)


def _calc(stamp: Callable[[str], None]) -> None:
    from hopwall_calc.service import CalcService

    _wrap(CalcService, "_take", "take", stamp)
    _wrap(CalcService, "_flush", "flush", stamp)


def _dataplane(stamp: Callable[[str], None]) -> None:
    from nats.aio.transport import TcpTransport

    from hopwall_dataplane import kernel
    from hopwall_dataplane.agent import Agent
    from hopwall_dataplane.conntrack.driver import ConntrackDriver
    from hopwall_dataplane.conntrack.revocation import Revocation
    from hopwall_dataplane.ipsets.driver import IpsetDriver
    from hopwall_dataplane.iptables.driver import Restore

    _wrap(Agent, "_on_message", lambda _s, m, *_: f"hears {type(m).__name__}", stamp)
    _wrap(Agent, "_turn", "turn", stamp)
    _wrap(Agent, "_fold", "fold", stamp)
    _wrap(Agent, "_read_again", "read again", stamp)
    _wrap(Agent, "_report", "report", stamp)
    _wrap(kernel.Kernel, "apply", "apply", stamp)
    _wrap(kernel.Kernel, "sweep", "sweep", stamp)
    _wrap(kernel.Kernel, "_apply_tables", "tables", stamp)
    _wrap(kernel, "change_over", "changeover", stamp)
    _wrap(Restore, "apply", lambda s, tx: f"restore {s.family.value} {tx.table}", stamp)
    _wrap(IpsetDriver, "apply", lambda _s, ops: f"ipset {len(ops)}" if ops else "", stamp)
    _wrap(Revocation, "step", "flows", stamp)
    _wrap(ConntrackDriver, "host_addresses", "host addresses", stamp)
    _wrap(ConntrackDriver, "ways", "ways", stamp)
    _wrap(TcpTransport, "writelines", "send", stamp)


if _FOLDER and "-m" in sys.orig_argv:
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    _hook = {"hopwall_api": _api, "hopwall_calc": _calc, "hopwall_dataplane": _dataplane}.get(
        _module
    )
    if _hook is not None:
        _host = sys.argv[sys.argv.index("--host") + 1] if "--host" in sys.argv else ""
        if not _host and "--host" in sys.orig_argv:
            _host = sys.orig_argv[sys.orig_argv.index("--host") + 1]
        _hook(_stamper(_host or _module.removeprefix("hopwall_")))
