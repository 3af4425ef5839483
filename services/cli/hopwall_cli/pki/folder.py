"""The folder of a secured set-up: what is in it, made whole or not at all. Shell.

    ca.crt ca.key                 the authority
    users.json                    who is who, public keys only
    nats/                         server.crt server.key ca.crt security.conf; of several: routes.crt routes.key routes.conf
    api/                          nats.nk ca.crt server.crt server.key tokens.json
    calc/ auditor/ hosts/<host>/  nats.nk ca.crt
    admin/                        token ca.crt

Each folder below it is all that one process needs, and nothing of another's: copy it to its machine, or mount
it into its container. With mutual TLS each also has client.crt and client.key.
Errors: PkiError, one sentence.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from hopwall_api.access.tokens import write_tokens
from hopwall_cli.errors import Failure
from hopwall_cli.pki import certificates, tokens
from hopwall_cli.pki.certificates import Pair
from hopwall_cli.pki.files import write_file
from hopwall_cli.pki.keys import new_seed, public_key
from hopwall_cli.pki.nats_conf import ROUTES_CONF, routes_conf, security_conf
from hopwall_model.permissions import User
from hopwall_model.topics import Role
from hopwall_runtime import clock

DEFAULT = Path("/etc/hopwall/pki")
#: In every certificate: who asks on the machine itself, and the names of compose.yaml.
ALWAYS_NAMES = ("localhost", "nats", "api", "hopwall")
ALWAYS_ADDRESSES = ("127.0.0.1", "::1")

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SECRET, _PUBLIC = 0o600, 0o644
_CENTRAL = (User(Role.API), User(Role.CALC), User(Role.AUDITOR))


class PkiError(Failure):
    """The folder is not as it must be; the text says what to do."""


class _Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What users.json holds."""

    users: tuple[tuple[Role, str, str], ...]
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    mutual: bool = False
    #: The user that api, calc and auditor run as; None: whoever made the folder.
    service_uid: int | None = None


class PkiFolder:
    """One secured set-up."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    # ------------------------------------------------------------ making

    def make(
        self,
        *,
        hosts: Iterable[str] = (),
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
        mutual: bool = False,
        service_uid: int | None = None,
    ) -> None:
        """Make the whole folder, which must not exist.

        Errors: PkiError.
        """
        if self.path.exists():
            raise PkiError(
                f"{self.path} exists: `hopwall pki issue` adds hosts to it, `hopwall pki renew` renews its"
                " certificates."
            )
        final, self.path = self.path, self.path.with_name(f".{self.path.name}.new")
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.path.mkdir(parents=True, mode=0o755)
            authority = certificates.new_authority("hopwall", self._now())
            self._write("ca.crt", authority.certificate, _PUBLIC)
            self._write("ca.key", authority.key, _SECRET)
            known = _Known(
                users=(),
                names=tuple(dict.fromkeys([*ALWAYS_NAMES, *names])),
                addresses=tuple(dict.fromkeys([*ALWAYS_ADDRESSES, *addresses])),
                mutual=mutual,
                service_uid=service_uid,
            )
            self._issue_servers(known)
            known = self._issue_users(known, [*_CENTRAL, *map(_host_user, hosts)])
            (self.path / "admin").mkdir(mode=0o700)
            self._write("admin/ca.crt", authority.certificate, _PUBLIC)
            self._write("api/tokens.json", write_tokens([]), _SECRET)
            token = tokens.create(self.path / "api" / "tokens.json", "admin", "admin")
            self._write("admin/token", f"{token}\n".encode(), _SECRET)
            self._conclude(known, final)
            self.path.rename(final)
        except ValueError as error:
            raise PkiError(f"{error}.") from error
        finally:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path = final

    def issue(self, hosts: Sequence[str]) -> None:
        """Give each host a credential; one it had before is good no more.

        Errors: PkiError.
        """
        known = self._issue_users(self._known(), [_host_user(host) for host in hosts])
        self._conclude(known, self.path)

    def revoke(self, hosts: Sequence[str]) -> None:
        """Take the credentials of hosts away.

        Errors: PkiError when one has none.
        """
        known = self._known()
        users = _by_user(known)
        for host in hosts:
            if users.pop(_host_user(host), None) is None:
                raise PkiError(f"host {host} has no credential in {self.path}.")
            shutil.rmtree(self.path / "hosts" / host, ignore_errors=True)
        self._conclude(_with_users(known, users), self.path)

    def renew(self, *, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> None:
        """Make the servers' certificates anew, with further names.

        Errors: PkiError.
        """
        old = self._known()
        known = msgspec.structs.replace(
            old,
            names=tuple(dict.fromkeys([*old.names, *names])),
            addresses=tuple(dict.fromkeys([*old.addresses, *addresses])),
        )
        try:
            self._issue_servers(known)
        except ValueError as error:
            raise PkiError(f"{error}.") from error
        self._conclude(known, self.path)

    # ------------------------------------------------------------ looking

    def users(self) -> tuple[User, ...]:
        """Return who has a credential.

        Errors: PkiError.
        """
        return tuple(sorted(_by_user(self._known())))

    def folder_of(self, user: User) -> Path:
        """Return the folder of one process."""
        return self.path / _folder(user)

    @property
    def tokens(self) -> Path:
        """The list of REST tokens."""
        return self.path / "api" / "tokens.json"

    @property
    def admin_token(self) -> Path:
        """The file with the first token."""
        return self.path / "admin" / "token"

    @property
    def security_conf(self) -> Path:
        """What nats-server's configuration includes."""
        return self.path / "nats" / "security.conf"

    def flags(self, user: User) -> list[str]:
        """Return the flags of a service that runs with its folder: paths, no secret."""
        folder = self.folder_of(user)
        flags = ["--nats-nkey-file", f"{folder}/nats.nk", "--nats-ca-file", f"{folder}/ca.crt"]
        if (folder / "client.crt").exists():
            flags += ["--nats-cert-file", f"{folder}/client.crt"]
            flags += ["--nats-key-file", f"{folder}/client.key"]
        if user.role is Role.API:
            flags += ["--tokens-file", str(self.tokens)]
            flags += ["--tls-cert-file", f"{folder}/server.crt"]
            flags += ["--tls-key-file", f"{folder}/server.key"]
        return flags

    def _known(self) -> _Known:
        try:
            return msgspec.json.decode((self.path / "users.json").read_bytes(), type=_Known)
        except FileNotFoundError as error:
            raise PkiError(
                f"{self.path} is no secured set-up: `hopwall pki init --folder {self.path}` makes one."
            ) from error
        except (OSError, msgspec.MsgspecError) as error:
            raise PkiError(f"{self.path}/users.json cannot be read: {error}.") from error

    # ------------------------------------------------------------ the parts

    def _issue_servers(self, known: _Known) -> None:
        authority = self._authority()
        for server in ("nats", "api"):
            (self.path / server).mkdir(mode=0o755, exist_ok=True)
            pair = certificates.issue(
                authority, server, self._now(), names=known.names, addresses=known.addresses
            )
            self._write(f"{server}/server.key", pair.key, _SECRET)
            self._write(f"{server}/server.crt", pair.certificate, _PUBLIC)
            self._write(f"{server}/ca.crt", authority.certificate, _PUBLIC)
        self._issue_routes(known, authority)

    def _issue_routes(self, known: _Known, authority: Pair) -> None:
        """Make what several nats-servers know each other by; the key stays, so that old and new ones do."""
        key = self.path / "nats" / "routes.key"
        pair = certificates.issue(
            authority,
            "nats-route",
            self._now(),
            names=known.names,
            addresses=known.addresses,
            peer_key=key.read_bytes() if key.exists() else b"",
        )
        self._write("nats/routes.key", pair.key, _SECRET)
        self._write("nats/routes.crt", pair.certificate, _PUBLIC)

    def _issue_users(self, known: _Known, users: Iterable[User]) -> _Known:
        authority, keys = self._authority(), _by_user(known)
        for user in users:
            folder = _folder(user)
            (self.path / folder).mkdir(parents=True, mode=0o755, exist_ok=True)
            seed = new_seed()
            self._write(f"{folder}/nats.nk", f"{seed}\n".encode(), _SECRET)
            self._write(f"{folder}/ca.crt", authority.certificate, _PUBLIC)
            keys[user] = public_key(seed)
            if known.mutual:
                pair = certificates.issue(authority, user.name, self._now())
                self._write(f"{folder}/client.key", pair.key, _SECRET)
                self._write(f"{folder}/client.crt", pair.certificate, _PUBLIC)
        return _with_users(known, keys)

    def _conclude(self, known: _Known, final: Path) -> None:
        """Write who is who, for ourselves and for the server, which will read it in the final place."""
        nats = final / "nats"
        text = security_conf(
            _by_user(known),
            cert=nats / "server.crt",
            key=nats / "server.key",
            ca=nats / "ca.crt",
            mutual=known.mutual,
        )
        self._write("nats/security.conf", text.encode(), _PUBLIC)
        routes = self.path / "nats" / "routes.crt"
        if routes.exists():  # made since an earlier version's folder was renewed
            text = routes_conf(
                cert=nats / routes.name,
                key=nats / "routes.key",
                ca=nats / "ca.crt",
                pin=certificates.fingerprint(routes.read_bytes()),
            )
            self._write(f"nats/{ROUTES_CONF}", text.encode(), _PUBLIC)
        self._write("users.json", msgspec.json.format(msgspec.json.encode(known)) + b"\n", _PUBLIC)
        if known.service_uid is not None:
            for folder in ("api", "calc", "auditor"):
                for path in (self.path / folder, *(self.path / folder).iterdir()):
                    os.chown(path, known.service_uid, known.service_uid)

    def _authority(self) -> Pair:
        try:
            return Pair((self.path / "ca.crt").read_bytes(), (self.path / "ca.key").read_bytes())
        except OSError as error:
            raise PkiError(
                f"{error.filename} cannot be read: certificates are signed where the authority's key is."
            ) from error

    def _write(self, name: str, data: bytes, mode: int) -> None:
        write_file(self.path / name, data, mode)

    def _now(self) -> datetime:
        return certificates.utc_now(clock.now_text())


def _host_user(host: str) -> User:
    if not _HOST.fullmatch(host):
        raise PkiError(f"host {host[:64]!r}: a name is letters, digits, dots, dashes and _.")
    return User(Role.HOST, host)


def _folder(user: User) -> str:
    return f"hosts/{user.host}" if user.host else str(user.role)


def _by_user(known: _Known) -> dict[User, str]:
    return {User(role, host): key for role, host, key in known.users}


def _with_users(known: _Known, keys: Mapping[User, str]) -> _Known:
    users = tuple((user.role, user.host, keys[user]) for user in sorted(keys))
    return msgspec.structs.replace(known, users=users)
