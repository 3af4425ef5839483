"""What a request asks for, besides its body: query parameters and headers, checked and typed.

Pure. Refuses parameters it does not know: a misspelt `dryRun` must never become a write.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from hopwall_api import problems
from hopwall_api.intent import Expectation
from hopwall_api.progress import Stage
from hopwall_api.store import Place
from hopwall_model import selectors
from hopwall_model.names import digest
from hopwall_model.selectors import Selector, SelectorError

MAX_WAIT_S = 300.0
DEFAULT_WAIT_S = 30.0
MAX_LIMIT = 10_000

WRITE_PARAMETERS = ("dryRun", "wait", "timeout")
LIST_PARAMETERS = ("labelSelector", "limit", "continue", "watch", "resourceVersion")

_STAGES = ("accepted", "computed", "programmed")
_SECONDS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)s?")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_ETAG = re.compile(r'(?:W/)?"([^"]{0,64})"')
_PREFER_WAIT = re.compile(r"wait=([0-9]{1,6})", re.IGNORECASE)


class WriteOptions(Struct, frozen=True, kw_only=True):
    """How a write is carried out and answered."""

    dry: bool = False
    stage: Stage = "accepted"
    timeout_s: float = DEFAULT_WAIT_S
    idempotency_key: str = ""
    #: `Prefer: wait` was followed, and the answer says so.
    preferred: bool = False


class ListOptions(Struct, frozen=True, kw_only=True):
    """What of a kind is listed or watched."""

    selector: Selector
    limit: int | None = None
    watch: bool = False
    #: Where a page goes on: the revision of the list and the last place shown.
    at: int | None = None
    after: Place | None = None
    #: Watch from here; None: begin with what is there.
    since: int | None = None
    #: Names the list; a continue token is only good for its own.
    digest: str = ""


def refuse_unknown(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Refuse a query parameter that has no meaning here.

    Errors: ApiProblem 400.
    """
    for name in query:
        if name not in known:
            allowed = f"known are {', '.join(known)}" if known else "none is known here"
            raise problems.bad_request(f"Query parameter {name[:64]!r} is unknown; {allowed}.")
    if len(set(query)) != len(query):
        raise problems.bad_request("A query parameter is given more than once; keep one.")


def write_options(query: Mapping[str, str], headers: Mapping[str, str]) -> WriteOptions:
    """Return the options of a write.

    Errors: ApiProblem 400.
    """
    refuse_unknown(query, WRITE_PARAMETERS)
    if query.get("dryRun", "All") != "All":
        raise problems.bad_request("Query parameter dryRun has one value: All.")
    stage = query.get("wait", "accepted")
    if stage not in _STAGES:
        raise problems.bad_request(f"Query parameter wait is one of {', '.join(_STAGES)}.")
    timeout_s = _seconds(query["timeout"]) if "timeout" in query else DEFAULT_WAIT_S
    preferred = _PREFER_WAIT.search(headers.get("Prefer", ""))
    if preferred and "timeout" not in query:
        timeout_s = min(float(preferred[1]), MAX_WAIT_S)
        stage = query.get("wait", "programmed")
    key = headers.get("Idempotency-Key", "")
    if key and not _KEY.fullmatch(key):
        raise problems.bad_request("Idempotency-Key is 1 to 200 printable ASCII characters.")
    return WriteOptions(
        dry="dryRun" in query,
        stage=cast("Stage", stage),
        timeout_s=timeout_s,
        idempotency_key=key,
        preferred=bool(preferred),
    )


def _seconds(text: str) -> float:
    found = _SECONDS.fullmatch(text)
    if not found or float(found[1]) > MAX_WAIT_S:
        raise problems.bad_request(
            f"Query parameter timeout is seconds, as 30 or 30s, and at most {MAX_WAIT_S:.0f}."
        )
    return float(found[1])


def expectation(headers: Mapping[str, str], *, create: bool, version: str | None) -> Expectation:
    """Return what the caller supposes to be stored.

    Errors: ApiProblem 400.
    """
    none_match = headers.get("If-None-Match")
    if none_match not in (None, "*"):
        raise problems.bad_request("If-None-Match has one value here: *, which means create only.")
    match = headers.get("If-Match", "").strip()
    revisions: tuple[str, ...] = ()
    if match == "*":
        revisions = ("*",)
    elif "If-Match" in headers:
        tags = [_ETAG.fullmatch(part.strip()) for part in match.split(",")]
        if not all(tags):
            raise problems.bad_request('If-Match is * or quoted ETags, as "42".')
        revisions = tuple(tag[1] for tag in tags if tag)
    return Expectation(if_match=revisions, absent=none_match == "*", version=version, create=create)


def list_options(
    query: Mapping[str, str], headers: Mapping[str, str], *, kind: str, namespace: str | None
) -> ListOptions:
    """Return the options of a list or a watch.

    Errors: ApiProblem 400, or 410 for a continue token that is not ours.
    """
    refuse_unknown(query, LIST_PARAMETERS)
    text = query.get("labelSelector", "")
    try:
        selector = selectors.parse(text)
    except SelectorError as error:
        raise problems.bad_request(f"Query parameter labelSelector: {error}") from error
    if query.get("watch", "true") not in ("true", "false"):
        raise problems.bad_request("Query parameter watch is true or false.")
    accepts = "text/event-stream" in headers.get("Accept", "")
    watch = query.get("watch") == "true" or (accepts and "watch" not in query)
    name = digest("\n".join((kind, namespace or "", text)), 12)
    at, after = None, None
    if "continue" in query:
        at, after = _read_token(query["continue"], name)
    since = headers.get("Last-Event-ID") or query.get("resourceVersion")
    if since is not None and not watch:
        raise problems.bad_request("Query parameter resourceVersion is for watches only.")
    return ListOptions(
        selector=selector,
        limit=_number("limit", query["limit"], MAX_LIMIT) if "limit" in query else None,
        watch=watch,
        at=at,
        after=after,
        since=_number("resourceVersion", since, 2**63) if since else None,
        digest=name,
    )


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise problems.bad_request(f"{name} is a whole number.")
    number = int(text)
    if number > most or (name == "limit" and number == 0):
        raise problems.bad_request(f"{name} is a number from 1 to {most}.")
    return number


class _Token(Struct, array_like=True):
    revision: int
    namespace: str
    name: str
    digest: str


def write_token(at: int, after: Place, name: str) -> str:
    """Return the opaque `continue` value: good for this list, at this revision, after this place."""
    token = _Token(at, after[0], after[1], name)
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _read_token(text: str, name: str) -> tuple[int, Place]:
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        token = msgspec.json.decode(raw, type=_Token)
    except (ValueError, RecursionError) as error:
        raise problems.bad_request("Query parameter continue is not one of our tokens.") from error
    if token.digest != name:
        raise problems.bad_request(
            "Query parameter continue belongs to another list: keep path and labelSelector the same."
        )
    return token.revision, (token.namespace, token.name)


def query_of(pairs: Any) -> dict[str, str]:
    """Return the query as a dict.

    Errors: ApiProblem 400 when a parameter is given twice.
    """
    query: dict[str, str] = {}
    for name, value in pairs.items():
        if name in query:
            raise problems.bad_request(f"Query parameter {name[:64]!r} is given more than once.")
        query[name] = value
    return query
