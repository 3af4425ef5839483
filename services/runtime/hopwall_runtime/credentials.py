"""What a process shows to NATS, and what it demands of it: an NKEY, a CA, a certificate. Only from files.

With a CA, TLS comes before the first byte of the protocol: a server in between cannot talk a client out of it,
as it could by a greeting that asks for none.
"""

import ssl
from pathlib import Path
from typing import Any

import nkeys

from hopwall_runtime.config import CommonSettings, ConfigError


def credentials(settings: CommonSettings) -> dict[str, Any]:
    """Return the options for the client of NATS.

    Errors: ConfigError names the setting and the file.
    """
    options: dict[str, Any] = {}
    if settings.nats_nkey_file:
        options["nkeys_seed_str"] = _seed(settings.nats_nkey_file)
    if settings.nats_ca_file:
        options["tls"] = _tls(settings)
        options["tls_handshake_first"] = True
    elif settings.nats_cert_file:
        raise ConfigError("nats_cert_file is of no use without nats_ca_file: set both.")
    return options


def _seed(path: str) -> str:
    try:
        seed = Path(path).read_text().strip()
        nkeys.from_seed(seed.encode()).wipe()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"nats_nkey_file: {path} cannot be read: {error}.") from error
    except (nkeys.NkeysError, ValueError):
        # Not chained: what is wrong with a secret shows a part of it.
        raise ConfigError(f"nats_nkey_file: {path} holds no NKEY seed.") from None
    return seed


def _tls(settings: CommonSettings) -> ssl.SSLContext:
    name, path = "nats_ca_file", settings.nats_ca_file
    try:
        context = ssl.create_default_context(cafile=path)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.nats_cert_file:
            name, path = "nats_cert_file", settings.nats_cert_file
            context.load_cert_chain(path, settings.nats_key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{name}: {path} cannot be used: {error}.") from error
    return context
