"""The only code that changes what BIRD does: secrets in, a configuration applied, or refused and left as it was.

Desired is a rendered text. Actual is asked of BIRD itself: each configuration names its own digest, so a process
with no memory knows what runs, and what runs already is not touched. The file is what a BIRD that starts reads;
it follows what BIRD has taken, never leads it.

Synchronous file work is small: one configuration, one file a secret.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hopwall_dataplane.bgp import parse
from hopwall_dataplane.bgp.control import Control, Unreachable
from hopwall_dataplane.bgp.lint import Suspicious, lint
from hopwall_dataplane.bgp.process import start_file
from hopwall_dataplane.bgp.render import CONFIG_SYMBOL, Rendered, Secret, session_at
from hopwall_dataplane.outcome import Done, Retry
from hopwall_model.bgp import Session
from hopwall_model.status import BgpSession

#: BIRD takes a configuration back that nobody confirms: an agent that dies half-way leaves what was.
_UNDO_S = 60
_SECRET_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_MAX_SECRET_BYTES = 1024
#: BIRD writes a path in quotes, and has no way to write a quote.
SAFE_PATH = re.compile(r"/[A-Za-z0-9/._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """BIRD, or our own last look, will not have the configuration; what ran before runs on."""

    reason: str
    #: The session whose lines are at fault; None when it is what all share.
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What BIRD says of itself and of the sessions that are ours."""

    daemon: parse.Daemon
    sessions: dict[str, BgpSession]


@dataclass(slots=True)
class BirdDriver:
    """One host's BIRD.

    Owner: the one task that owns BGP.
    """

    socket: Path
    config: Path
    secrets: Path
    #: Configurations that BIRD was made to take; for tests and the log.
    n_applied: int = 0

    @property
    def _candidate(self) -> Path:
        return self.config.with_name(f"{self.config.name}.new")

    def read_secrets(self, sessions: Iterable[Session]) -> dict[Secret, str]:
        """Return the passwords that can be read; a session whose password is not here stays closed.

        A file that others than its owner may read is no secret: it is left out.
        """
        found: dict[Secret, str] = {}
        for secret in {s.password for s in sessions if s.password is not None}:
            if not all(_SECRET_PART.fullmatch(part) for part in secret):
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[secret] = _read_secret(self.secrets / secret[0] / secret[1])
        return found

    async def running(self) -> str | None:
        """Return the digest of the configuration that BIRD runs; None when it is not one of ours.

        Errors: `Unreachable`.
        """
        async with Control(self.socket) as bird:
            return await _running(bird)

    async def apply(self, rendered: Rendered) -> Done | Retry | NotAccepted:
        """Make BIRD run a configuration, unless it does."""
        try:
            async with Control(self.socket) as bird:
                if await _running(bird) != rendered.digest:
                    return await self._configure(bird, rendered)
                self._keep_file(rendered)
                return Done()
        except Suspicious as error:
            return NotAccepted(str(error))
        except Unreachable as error:
            return Retry(str(error))
        except OSError as error:
            return Retry(f"BIRD's configuration cannot be written: {error}")

    def lay_start(self, rendered: Rendered | None) -> None:
        """Lay down with what BIRD is to start after a crash; None is what it runs now.

        It is renewed at each look: one that is old is not used, as who was away may be back.

        Errors: `Suspicious`, `OSError`.
        """
        laid = start_file(self.config)
        if rendered is None:
            laid.unlink(missing_ok=True)
            return
        if _holds(laid, rendered.text):
            os.utime(laid)
            return
        self._write_candidate(rendered.text)
        self._candidate.replace(laid)

    async def see(self, rendered: Rendered) -> Seen:
        """Read how BIRD and its sessions are.

        Errors: `Unreachable`.
        """
        async with Control(self.socket) as bird:
            daemon = parse.daemon(await bird.ask("show status"))
            protocols = await bird.ask("show protocols all")
            return Seen(daemon, parse.sessions(protocols, rendered.sessions))

    async def hears_of(self, networks: Iterable[str]) -> bool:
        """Tell whether any peer says that it has one of these very networks.

        Errors: `Unreachable`.
        """
        async with Control(self.socket) as bird:
            for network in networks:
                question = f"show route {network} where source = RTS_BGP"
                if parse.has_routes(await bird.ask(question)):
                    return True
        return False

    async def _configure(self, bird: Control, rendered: Rendered) -> Done | Retry | NotAccepted:
        self._write_candidate(rendered.text)
        try:
            checked = await bird.ask(f'configure check "{self._candidate}"')
            if not checked.ok:
                return _not_accepted(rendered, checked)
            taken = await bird.ask(f'configure "{self._candidate}" timeout {_UNDO_S}')
            if not taken.ok:
                return _not_accepted(rendered, taken)
            if await _running(bird) != rendered.digest:
                # Another reconfiguration is on its way, or BIRD is ending.
                await bird.ask("configure undo")
                return Retry(f"BIRD did not take the configuration: {taken.lines[-1][1]}.")
            confirmed = await bird.ask("configure confirm")
            if not confirmed.ok:
                return Retry(f"BIRD did not keep the configuration: {confirmed.lines[-1][1]}.")
            self._candidate.replace(self.config)
            self.n_applied += 1
            return Done()
        finally:
            self._candidate.unlink(missing_ok=True)

    def _keep_file(self, rendered: Rendered) -> None:
        """Bring the file to what BIRD runs: an agent may have died between the two."""
        if not _holds(self.config, rendered.text):
            self._write_candidate(rendered.text)
            self._candidate.replace(self.config)

    def _write_candidate(self, text: str) -> None:
        """Write the text where only its owner reads it: it holds passwords.

        The owner is that of the file it is to replace, as BIRD may run as a user of its own.

        Errors: `Suspicious`, `OSError`.
        """
        lint(text)
        self._candidate.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(self._candidate, flags, 0o600)
        with os.fdopen(handle, "w") as file:
            like = self.config if self.config.exists() else self.config.parent
            owner = like.stat()
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(handle)


def _holds(path: Path, text: str) -> bool:
    """Tell whether a file holds just this text, for its owner alone."""
    try:
        return path.read_text() == text and path.stat().st_mode & 0o077 == 0
    except (OSError, UnicodeDecodeError):
        return False


async def _running(bird: Control) -> str | None:
    return parse.evaluated(await bird.ask(f"eval {CONFIG_SYMBOL}"))


def _not_accepted(rendered: Rendered, answer: parse.Reply) -> NotAccepted:
    line, reason = parse.config_fault(answer.text)
    where = f" (line {line})" if line else ""
    session = session_at(rendered, line) if line else None
    return NotAccepted(f"BIRD does not take its configuration{where}: {reason}.", session)


def _read_secret(path: Path) -> str:
    """Return the text of a secret's file without its last line end.

    Errors: `OSError` also when others than its owner may read it.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise PermissionError(f"{path} may be read by others than its owner.")
        return file.read(_MAX_SECRET_BYTES).decode().removesuffix("\n")
