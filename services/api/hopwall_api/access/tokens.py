"""Bearer tokens: their text, what is kept of them, and the file that lists them. Pure.

A token is `hopwall_<id>_<secret>`. The file has only a digest of the secret: 256 random bits need no slow hash.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from hopwall_api.access.roles import Caller, Role
from hopwall_model.names import digest
from hopwall_model.resource_names import valid_dns_label

_TOKEN = re.compile(r"hopwall_([a-z2-7]{10})_([A-Za-z0-9_-]{43})")
_ID = re.compile(r"[a-z2-7]{10}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Compared with what no token has, so that a wrong id costs as much as a wrong secret.
_NO_DIGEST = "0" * 64


class TokensError(ValueError):
    """The list of tokens is wrong; the text is one sentence that names the token."""


class Token(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """What is kept of one token. `name` is who is recorded with its writes; `expiresAt` "" for never."""

    id: str
    name: str
    role: Role
    sha256: str
    namespaces: tuple[str, ...] = ()
    created_at: str = ""
    #: RFC 3339 in UTC, as the clock writes it: texts compare as times do.
    expires_at: str = ""

    @property
    def caller(self) -> Caller:
        """Who bears the token."""
        return Caller(
            name=self.name, role=self.role, namespaces=self.namespaces, credential=self.id
        )


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: tuple[Token, ...] = ()


def mint(random: bytes) -> tuple[str, str, str]:
    """Return a token made of 32 random bytes: its id, its text, and the digest that is kept.

    Source: RFC 6750 (bearer tokens): the text is of the characters a header takes.
    """
    assert len(random) == 32, "a secret has 256 bits"
    secret = base64.urlsafe_b64encode(random).decode().rstrip("=")
    name = digest(f"id:{secret}", 10)
    return name, f"hopwall_{name}_{secret}", _digest(secret)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def read_tokens(data: bytes) -> tuple[Token, ...]:
    """Return what a file lists.

    Errors: TokensError.
    """
    try:
        tokens = msgspec.json.decode(data, type=_File).tokens
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TokensError(f"the list of tokens cannot be read: {error}.") from error
    for token in tokens:
        if fault := fault_of(token):
            raise TokensError(fault)
    if len({token.id for token in tokens}) != len(tokens):
        raise TokensError("two tokens have the same id.")
    return tokens


def write_tokens(tokens: Sequence[Token]) -> bytes:
    """Return the file that lists these."""
    return msgspec.json.format(msgspec.json.encode(_File(tokens=tuple(tokens)))) + b"\n"


def fault_of(token: Token) -> str:
    """Return what is wrong with a token's entry, as a sentence; "" for nothing."""
    if not _NAME.fullmatch(token.name):
        return (
            f"token {token.name[:64]!r}: a name is 1 to 64 letters, digits, dots, dashes, _ and @."
        )
    if not _ID.fullmatch(token.id) or not _DIGEST.fullmatch(token.sha256):
        return f"token {token.name}: id and sha256 are not as `hopwall token create` writes them."
    if token.role is Role.ADMIN and token.namespaces:
        return f"token {token.name}: the role admin is not limited to namespaces; use editor."
    wrong = [name for name in token.namespaces if not valid_dns_label(name)]
    if wrong:
        return f"token {token.name}: {wrong[0][:64]!r} is no name of a namespace."
    return ""


def bearer(header: str) -> str:
    """Return the token in an Authorization header; "" when there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def holder(tokens: Mapping[str, Token], text: str, now: str) -> Token | None:
    """Return the entry of a token, by its id, if the secret is right and its time is not over."""
    found = _TOKEN.fullmatch(text)
    given = _digest(found[2]) if found else ""
    token = tokens.get(found[1]) if found else None
    kept = token.sha256 if token is not None else _NO_DIGEST
    right = hmac.compare_digest(kept, given)
    if token is None or not right or expired(token, now):
        return None
    return token


def expired(token: Token, now: str) -> bool:
    """Tell whether a token's time is over."""
    return bool(token.expires_at) and token.expires_at <= now
