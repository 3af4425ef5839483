"""The certificate REST is served with: from files, read again when they change. No restart, no cut connection."""

import asyncio
import logging
import ssl
from pathlib import Path

from hopwall_runtime.config import ConfigError

log = logging.getLogger(__name__)

LOOK_S = 2.0


class ServerCertificate:
    """A TLS context whose certificate follows its files."""

    def __init__(self, cert_file: str, key_file: str, client_ca_file: str = "") -> None:
        """Load the pair; with `client_ca_file` only clients with a certificate of that authority are heard.

        Errors: ConfigError.
        """
        self._pair = (cert_file, key_file)
        self.context = _fresh()
        self._stamp = self._stamps()
        try:
            self.context.load_cert_chain(*self._pair)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"tls_cert_file: {cert_file} with {key_file} cannot be used: {error}."
            ) from error
        if client_ca_file:
            self._demand(client_ca_file)

    def _demand(self, client_ca_file: str) -> None:
        try:
            self.context.load_verify_locations(client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"tls_client_ca_file: {client_ca_file} cannot be used: {error}."
            ) from error
        self.context.verify_mode = ssl.CERT_REQUIRED

    async def follow(self) -> None:
        """Load the pair again whenever it has changed, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            stamp = self._stamps()
            if stamp != self._stamp and self._load():
                self._stamp = stamp

    def _load(self) -> bool:
        try:
            # First on the side: the context in use must never hold a certificate without its key.
            _fresh().load_cert_chain(*self._pair)
            self.context.load_cert_chain(*self._pair)
        except (OSError, ssl.SSLError) as error:
            log.error("the new certificate cannot be used, the old one stays: %s", error)
            return False
        log.info("the certificate was read again")
        return True

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(Path(name)) for name in self._pair)


def _fresh() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
