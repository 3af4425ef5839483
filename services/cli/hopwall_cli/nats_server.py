"""The embedded nats-server: one real server as a child process, set up so that acknowledged means stored.

What it is told is `nats_config`'s; how much it may store follows from the disk it stands on.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hopwall_cli import nats_config
from hopwall_cli.child import bound
from hopwall_cli.nats_config import Cluster, Storage
from hopwall_cli.pki.nats_conf import ROUTES_CONF
from hopwall_runtime import clock

_READY = "Server is ready"
#: It takes a tenth of a second, and far longer where it reads a large store on a busy machine.
_START_S = 60.0
#: With so much free a stuck server may go on.
ROOM_BYTES = 32 * 1024 * 1024


class NatsServerError(RuntimeError):
    """The embedded server did not start; the text says why and what to do."""


def binary() -> str:
    """Return the path of the nats-server that came with the Python environment, or else of PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise NatsServerError("nats-server is not installed: install the extra hopwall[cli].")
    return found


def command(
    *,
    listen: str,
    folder: Path,
    name: str = "hopwall",
    http: str = "",
    cluster: Cluster | None = None,
    security: Path | None = None,
) -> list[str]:
    """Write the server's configuration into the folder and return the command line that runs it.

    `security` is a file to include that says who may do what (`pki.nats_conf`); without it everybody may all. Beside
    it stands what says who is one of several servers.

    Errors: NatsServerError when there is no server to run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store"
    storage = Storage(folder=str(store), file_bytes=nats_config.bytes_for(*_room(store)))
    config = folder / "nats-server.conf"
    if security is not None and cluster is not None:
        routes = os.path.relpath(security.with_name(ROUTES_CONF), folder)
        cluster = replace(cluster, security=routes)
    text = nats_config.render(listen=listen, storage=storage, name=name, http=http, cluster=cluster)
    if security is not None:
        # The server takes paths of includes from the file they stand in, absolute ones too.
        text += f"include {json.dumps(os.path.relpath(security, folder))}\n"
    config.write_text(text)
    return [binary(), "-c", str(config)]


def _room(store: Path) -> tuple[int, int]:
    """Return the bytes that are free where the store is, and those it has."""
    used = sum(p.stat().st_size for p in store.rglob("*") if p.is_file()) if store.exists() else 0
    return shutil.disk_usage(store.parent).free, used


class StuckStore:
    """Whether the server's store is stuck: a write has failed for want of room.

    The server refuses from then on, also when there is room again, until it is started anew.
    """

    def __init__(self) -> None:
        """Begin with a store that is well."""
        self._stuck = False

    def hear(self, line: str) -> None:
        """Take in a line of the server's log."""
        if "no space left on device" in line or "disk quota exceeded" in line:
            self._stuck = True
        elif _READY in line:
            self._stuck = False

    def may_restart(self, free: int) -> bool:
        """Tell whether it is stuck and there is room to go on; it is told once."""
        ready = self._stuck and free >= ROOM_BYTES
        self._stuck = self._stuck and not ready
        return ready


class NatsServer:
    """One server process. It dies with its parent."""

    def __init__(
        self,
        *,
        listen: str,
        folder: Path,
        command_prefix: Sequence[str] = (),
        name: str = "hopwall",
        http: str = "",
        cluster: Cluster | None = None,
        security: Path | None = None,
    ) -> None:
        """Describe the server; `command_prefix` is put before its command line, as `ip netns exec` is."""
        self.listen = listen
        self._command: dict[str, Any] = {
            "listen": listen,
            "folder": folder,
            "name": name,
            "http": http,
        }
        self._cluster = cluster
        self.url = f"nats://{listen}"
        self._folder = folder
        self._prefix = list(command_prefix)
        self._security = security
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it does not run."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Errors: NatsServerError with the last line of its log.
        """
        log_path = self._folder / "nats-server.log"
        process, said_before = self._spawn(log_path)
        self._process = process
        until = clock.monotonic() + _START_S
        while clock.monotonic() < until:
            said = log_path.read_bytes()[said_before:].decode(errors="replace")
            if _READY in said:
                return
            if process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        tail = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        await self.stop()
        raise NatsServerError(f"nats-server does not start on {self.listen}: {' '.join(tail)}")

    def _argv(self) -> list[str]:
        """Write the configuration and return the command line."""
        return command(**self._command, cluster=self._cluster, security=self._security)

    def _spawn(self, log_path: Path) -> tuple[subprocess.Popen[bytes], int]:
        """Start the process; return it and where in the log its own words begin."""
        argv = self._argv()
        with log_path.open("ab") as log:
            said_before = log.tell()
            process = subprocess.Popen(
                bound([*self._prefix, *argv]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            return process, said_before

    def send(self, number: int) -> None:
        """Send the server a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server and wait for it."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        os.kill(process.pid, number)
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
