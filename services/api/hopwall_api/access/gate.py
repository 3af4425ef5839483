"""The gate every request passes: from its header to a caller, or 401. Shell around `tokens`.

The file is looked at again when it has changed, so a token that is revoked is refused within a second, on
watches that are open too. A list that cannot be read admits nobody: half a list must not be taken for a whole.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from hopwall_api.access.roles import ANONYMOUS, Caller
from hopwall_api.access.tokens import Token, TokensError, bearer, expired, holder, read_tokens
from hopwall_api.problems import ApiProblem
from hopwall_runtime import clock
from hopwall_runtime.config import ConfigError

log = logging.getLogger(__name__)

#: Between two looks at the file.
LOOK_S = 1.0
#: Failed tries of one address in a minute; further ones are told to wait. A right token always passes.
MAX_FAILURES = 20
_MINUTE_S = 60.0
_MAX_ADDRESSES = 4096


class Failures:
    """Counts failed tries per address and minute, in bounded memory."""

    def __init__(self) -> None:
        self._since = 0.0
        self._n: dict[str, int] = {}
        self.total = 0

    def note(self, address: str, now: float) -> bool:
        """Count one more; tell whether it is too many."""
        if now - self._since >= _MINUTE_S or len(self._n) >= _MAX_ADDRESSES:
            self._since, self._n = now, {}
        self.total += 1
        self._n[address] = n = self._n.get(address, 0) + 1
        if n == 1 or n == MAX_FAILURES:
            log.warning("%d failed tries to authenticate from %s in this minute", n, address)
        return n > MAX_FAILURES


class Gate:
    """Knows the tokens of a file; without a file everybody is an anonymous admin."""

    def __init__(
        self, tokens_file: str = "", *, monotonic: Callable[[], float] = clock.monotonic
    ) -> None:
        """Read the file.

        Errors: ConfigError when it cannot be.
        """
        self._path = Path(tokens_file) if tokens_file else None
        self._monotonic = monotonic
        self._tokens: dict[str, Token] = {}
        self._stamp: tuple[int, ...] | None = None
        self._looked = 0.0
        self.failures = Failures()
        if self._path is not None and (fault := self._read(self._path)):
            raise ConfigError(f"tokens_file: {fault}")

    @property
    def closed(self) -> bool:
        """Whether callers must show a token."""
        return self._path is not None

    def caller_of(self, request: web.Request) -> Caller:
        """Return who sends the request.

        Errors: ApiProblem 401, 429.
        """
        if self._path is None:
            return ANONYMOUS
        self._look(self._path)
        header = request.headers.get("Authorization", "")
        token = holder(self._tokens, bearer(header), clock.now_text())
        if token is not None:
            return token.caller
        if not header:
            raise _unauthorized("This API wants a token: send Authorization: Bearer <token>.")
        if self.failures.note(request.remote or "unix", self._monotonic()):
            raise ApiProblem(
                429,
                "too-many-failures",
                "Too many wrong tokens came from this address; wait a minute, or send a right one.",
                headers={"Retry-After": "60", "WWW-Authenticate": _CHALLENGE},
            )
        raise _unauthorized(
            "The token is unknown, revoked or expired; `hopwall token list` shows which are good."
        )

    def admits(self, caller: Caller) -> bool:
        """Tell whether a caller of before is still one: its token is neither revoked, changed nor over."""
        if self._path is None:
            return True
        self._look(self._path)
        token = self._tokens.get(caller.credential)
        return token is not None and token.caller == caller and not expired(token, clock.now_text())

    def _look(self, path: Path) -> None:
        now = self._monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if _stamp(path) != self._stamp and (fault := self._read(path)):
            log.error("tokens_file: %s Nobody is admitted until it is right.", fault)

    def _read(self, path: Path) -> str:
        """Read the file; return what is wrong with it, and know no token then."""
        self._stamp = _stamp(path)
        self._tokens = {}
        try:
            self._tokens = {token.id: token for token in read_tokens(path.read_bytes())}
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}."
        except TokensError as error:
            return f"{path}: {error}"
        return ""


_CHALLENGE = 'Bearer realm="hopwall"'


def _unauthorized(detail: str) -> ApiProblem:
    return ApiProblem(401, "unauthorized", detail, headers={"WWW-Authenticate": _CHALLENGE})


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
