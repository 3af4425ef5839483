"""The settings of the API service."""

from typing import Annotated

from msgspec import Meta

from hopwall_runtime.config import CommonSettings, ConfigError

#: An Idempotency-Key is good for a day, and with it the last word on what was removed.
_LEAST_HOURS = 25


class ApiSettings(CommonSettings, frozen=True, kw_only=True):
    """What `hopwall-api` understands."""

    #: Where to listen: host:port, or unix:/path. Beyond loopback only with tokens and TLS.
    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    #: Further connections are closed at once.
    max_connections: Annotated[int, Meta(ge=2)] = 4096
    #: A connection that sends no whole request head for so long is closed.
    idle_timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    #: The list `hopwall token` keeps. Without it everybody who reaches the API is an admin.
    tokens_file: str = ""
    #: What TCP is served with; unix sockets are not.
    tls_cert_file: str = ""
    tls_key_file: str = ""
    #: With it TCP clients need a certificate of this authority, beside their token; it is read at the start.
    tls_client_ca_file: str = ""

    #: The monitoring page of the nats-server, as http://127.0.0.1:8222; "" for port 8222 of its host.
    nats_monitor_url: str = ""
    #: What was removed is remembered for so long; never less than a day and an hour.
    tombstone_hours: Annotated[int, Meta(ge=_LEAST_HOURS)] = 168

    def check(self) -> None:
        """Refuse a door that is open by accident.

        Errors: ConfigError.
        """
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ConfigError("Settings tls_cert_file and tls_key_file go together: set both.")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ConfigError("Setting tls_client_ca_file needs tls_cert_file and tls_key_file.")
        for text in self.listen:
            place = parse_listen(text)
            if isinstance(place, str) or place[0] in _LOOPBACK:
                continue
            if not self.tokens_file:
                raise ConfigError(
                    f"Setting listen: {text} is beyond loopback, where nobody may be an admin unasked;"
                    " set tokens_file (`hopwall pki init` makes one)."
                )
            if not self.tls_cert_file:
                raise ConfigError(
                    f"Setting listen: {text} is beyond loopback, where tokens could be read on their way;"
                    " set tls_cert_file and tls_key_file."
                )


_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_listen(text: str) -> tuple[str, int] | str:
    """Return (host, port), or the path of a unix socket.

    Errors: ConfigError.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ConfigError(
                "Setting listen: unix: needs a path, as in unix:/run/hopwall/api.sock."
            )
        return path
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"Setting listen: {text!r} is not host:port or unix:/path.")
    return host.strip("[]"), int(port)
