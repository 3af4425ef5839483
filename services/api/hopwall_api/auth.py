"""Who is calling, and whether he may: the one seam between the handlers and `access`."""

from collections.abc import Mapping, Sequence

from aiohttp import web
from msgspec import Struct

from hopwall_api import problems
from hopwall_api.access.confined import InPool, beyond
from hopwall_api.access.gate import Gate
from hopwall_api.access.roles import Caller, Verb, lacking, lacking_any
from hopwall_api.intent import Plan
from hopwall_api.store import Held
from hopwall_model.resources import Key

GATE = web.AppKey("gate", Gate)
CALLER = web.RequestKey("caller", Caller)
_MAX_ERRORS = 1000


class Need(Struct, frozen=True):
    """What a route takes. Without a kind it is no resource's; with `anywhere` its handler asks for each item."""

    verb: Verb
    kind: str = ""
    anywhere: bool = False


def admit(request: web.Request, need: Need | None) -> None:
    """Learn who is calling, and refuse who may not; before anything of the body is read.

    Errors: ApiProblem 401, 403, 429.
    """
    if need is None:
        return
    request[CALLER] = caller = request.app[GATE].caller_of(request)
    if need.anywhere:
        reason = lacking_any(caller, need.verb)
    else:
        reason = lacking(caller, need.verb, need.kind, request.match_info.get("namespace"))
    if reason:
        raise problems.forbidden(reason)


def require(request: web.Request, verb: Verb, kind: str, namespace: str | None) -> None:
    """Refuse who may not also do this.

    Errors: ApiProblem 403.
    """
    if reason := lacking(request[CALLER], verb, kind, namespace):
        raise problems.forbidden(reason)


def actor_of(request: web.Request) -> str:
    """Return the name under which the caller's writes are recorded."""
    return f"{request[CALLER].name}@{request.remote or 'local'}"


def check_items(caller: Caller, keys: Sequence[Key], place: str) -> None:
    """Refuse a bulk with an item that the caller may not write; each is named.

    Errors: ApiProblem 403.
    """
    reasons = [lacking(caller, Verb.WRITE, key.kind, key.namespace) for key in keys]
    _refuse_each({i: reason for i, reason in enumerate(reasons) if reason}, place)


def check_plans(
    caller: Caller,
    held: Mapping[Key, Held],
    plans: Sequence[Plan],
    in_pool: InPool,
    place: str | None,
) -> None:
    """Refuse changes that go beyond what the caller's role is confined to.

    Shape:  place: the pointer to the list that the items of a bulk stand in; None: there is no list.

    Errors: ApiProblem 403.
    """
    refused: dict[int, str] = {}
    for index, plan in enumerate(plans):
        stored = held[plan.key].stored
        before = stored.resource if stored is not None else None
        after = None if plan.word == "removed" else plan.resource
        if reason := beyond(caller, before, after, in_pool):
            refused[index] = reason
    _refuse_each(refused, place)


def _refuse_each(reasons: Mapping[int, str], place: str | None) -> None:
    if not reasons:
        return
    errors = [
        problems.FieldError(
            pointer="" if place is None else f"{place}/{index}", reason=reason, code="forbidden"
        )
        for index, reason in list(reasons.items())[:_MAX_ERRORS]
    ]
    n = len(reasons)
    detail = errors[0].reason if n == 1 else f"{n} items are not the caller's to write; see errors."
    if place is not None:
        detail = f"Nothing was stored. {detail}"
    raise problems.forbidden(detail, errors)
