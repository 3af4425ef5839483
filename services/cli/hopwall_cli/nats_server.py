"""The embedded nats-server: one real server as a child process, set up so that acknowledged means stored.

`sync_interval: always` makes the server fsync before it acknowledges; its default acknowledges first and
loses everything since the last sync in a power cut.
Source: NATS server configuration, JetStream block.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hopwall_cli.child import bound

CONFIG = """\
# Written by hopwall; changed by hand it will be written again.
listen: {listen}
server_name: hopwall
max_payload: 8MB
write_deadline: "10s"
jetstream {{
  store_dir: {store}
  sync_interval: always
  max_file_store: 4GB
  max_memory_store: 256MB
}}
"""
_READY = "Server is ready"


class NatsServerError(RuntimeError):
    """The embedded server did not start; the text says why and what to do."""


def binary() -> str:
    """Return the path of the nats-server that came with the Python environment, or else of PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise NatsServerError("nats-server is not installed: install the extra hopwall[cli].")
    return found


def command(*, listen: str, folder: Path, security: Path | None = None) -> list[str]:
    """Write the server's configuration into the folder and return the command line that runs it.

    `security` is a file to include that says who may do what (`pki.nats_conf`); without it everybody may all.

    Errors: NatsServerError when there is no server to run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nats-server.conf"
    store = json.dumps(str(folder / "store"))
    text = CONFIG.format(listen=json.dumps(listen), store=store)
    if security is not None:
        # The server takes paths of includes from the file they stand in, absolute ones too.
        text += f"include {json.dumps(os.path.relpath(security, folder))}\n"
    config.write_text(text)
    return [binary(), "-c", str(config)]


class NatsServer:
    """One server process. It dies with its parent."""

    def __init__(
        self,
        *,
        listen: str,
        folder: Path,
        command_prefix: Sequence[str] = (),
        security: Path | None = None,
    ) -> None:
        self.listen = listen
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
        for _ in range(500):
            said = log_path.read_bytes()[said_before:].decode(errors="replace")
            if _READY in said:
                return
            if process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        tail = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        await self.stop()
        raise NatsServerError(f"nats-server does not start on {self.listen}: {' '.join(tail)}")

    def _spawn(self, log_path: Path) -> tuple[subprocess.Popen[bytes], int]:
        """Start the process; return it and where in the log its own words begin."""
        argv = command(listen=self.listen, folder=self._folder, security=self._security)
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
