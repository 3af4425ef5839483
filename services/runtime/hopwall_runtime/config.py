"""Settings from flags and environment, checked against a msgspec struct.

`--nats-url` beats `HOPWALL_NATS_URL` beats the default. Secrets are given as paths of files, so no secret
stands in argv or in the environment. A value that does not fit is one clear sentence and exit code 2.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

S = TypeVar("S", bound=msgspec.Struct)

#: Seconds between two statuses: never so few that nothing else is done.
Heartbeat = Annotated[float, Meta(ge=0.05, le=3600)]
#: What msgspec says of a field, and which it is.
_OF_FIELD = re.compile(r"(.*) - at `\$\.(\w+)`")


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service understands."""

    nats_url: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    #: Files, so that no secret is in argv: an NKEY seed; the CA of the server's certificate, which makes TLS
    #: compulsory; a certificate and key of our own, for a server that demands one.
    nats_nkey_file: str = ""
    nats_ca_file: str = ""
    nats_cert_file: str = ""
    nats_key_file: str = ""
    #: Copies of each stream: 0 is 3 where the servers are a cluster, else 1.
    nats_replicas: Annotated[int, Meta(ge=0, le=5)] = 0
    #: Bytes of the events stream; when they are used up, writes are refused and nothing is deleted.
    nats_max_bytes: Annotated[int, Meta(ge=1024**2)] = 2 * 1024**3
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["text", "json"] = "text"
    #: host:port of /livez, /readyz and /metrics; "" for none.
    health_listen: str = ""


class ConfigError(ValueError):
    """A setting is wrong; the text is one sentence for the operator."""


def load(type_: type[S], *, argv: Sequence[str], environ: Mapping[str, str], program: str) -> S:
    """Return settings from flags, then environment, then defaults.

    Shape:  a tuple field takes a comma-separated list; a bool takes true/false/1/0 or stands bare as a flag.
    Errors: ConfigError names the setting. An unknown flag ends the process with usage (argparse).
    """
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    fields = msgspec.structs.fields(type_)
    for field in fields:
        flag = "--" + field.name.replace("_", "-")
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if field.type is bool else {}
        shown = "required" if field.required else f"default {field.default!r}"
        parser.add_argument(
            flag, dest=field.name, help=f"env HOPWALL_{field.name.upper()}; {shown}", **bare
        )
    given = vars(parser.parse_args(list(argv)))
    raw: dict[str, Any] = {}
    for field in fields:
        text = given[field.name]
        if text is None:
            text = environ.get(f"HOPWALL_{field.name.upper()}")
        if text is not None:
            raw[field.name] = _split(field.type, text)
    try:
        return msgspec.convert(raw, type_, strict=False)
    except msgspec.ValidationError as error:
        found = _OF_FIELD.fullmatch(str(error))
        what = f"{found[2]}: {found[1]}" if found else f"a setting is wrong: {error}"
        raise ConfigError(f"{program}: {what}.") from error


def load_sound(
    type_: type[S],
    check: Callable[[S], object],
    *,
    argv: Sequence[str],
    environ: Mapping[str, str],
    program: str,
) -> tuple[S, dict[str, ConfigError]]:
    """Return settings without those of the environment that are wrong, and what is wrong with each, by variable.

    For what must be done all the same: a wall that is not built because of a word in a file leaves all open.

    Shape:  each setting is taken on top of those that were found right; `check` raises ConfigError for more faults.
    Errors: ConfigError where the flags themselves are wrong.
    """
    sound: dict[str, str] = {}
    faults: dict[str, ConfigError] = {}
    for name in sorted(name for name in environ if name.startswith("HOPWALL_")):
        given = {**sound, name: environ[name]}
        try:
            check(load(type_, argv=argv, environ=given, program=program))
        except ConfigError as error:
            faults[name] = error
        else:
            sound = given
    return load(type_, argv=argv, environ=sound, program=program), faults


def _split(type_: Any, text: str) -> Any:
    if get_origin(type_) is tuple and get_args(type_):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def load_or_exit(type_: type[S], program: str) -> S:
    """Return the settings of this process, or say what is wrong and exit with 2."""
    try:
        return load(type_, argv=sys.argv[1:], environ=os.environ, program=program)
    except ConfigError as error:
        _exit(str(error))


def _exit(text: str) -> NoReturn:
    sys.stderr.write(text + "\n")
    raise SystemExit(2)
