"""What a caller is told when a request is not carried out: RFC 9457 problem documents.

Pure. Every refusal is one `ApiProblem`, born where it is noticed; `document` is the one place that turns
it into JSON. Refuses to show tracebacks or the words of libraries.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from msgspec import Struct

from hopwall_model import codec
from hopwall_model import problems as model_problems

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:hopwall:problem:"


class FieldError(Struct, frozen=True, kw_only=True):
    """One wrong thing in a body. `pointer` is a JSON pointer (RFC 6901) into it."""

    pointer: str
    reason: str
    code: str


class ProblemDocument(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The body of every answer from 400 on. Source: RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    errors: tuple[FieldError, ...] = ()
    trace_id: str = ""


class ApiProblem(Exception):
    """The request is refused; `detail` says in a sentence why, and what to do."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def document(problem: ApiProblem, *, instance: str, trace_id: str) -> bytes:
    """Return the problem as the JSON that is sent."""
    return codec.encode(
        ProblemDocument(
            type=TYPE_PREFIX + problem.slug,
            title=HTTPStatus(problem.status).phrase,
            status=problem.status,
            detail=problem.detail,
            instance=instance,
            errors=problem.errors,
            trace_id=trace_id,
        )
    )


# ---------------------------------------------------------------- the refusals, by status


def bad_request(detail: str) -> ApiProblem:
    """Return 400: the request itself (not the resource in it) is wrong."""
    return ApiProblem(400, "bad-request", detail)


def forbidden(detail: str, errors: Sequence[FieldError] = ()) -> ApiProblem:
    """Return 403: the caller is known, and may not do this."""
    return ApiProblem(403, "forbidden", detail, errors=errors)


def not_found(detail: str) -> ApiProblem:
    """Return 404: there is nothing of this name."""
    return ApiProblem(404, "not-found", detail)


def conflict(detail: str) -> ApiProblem:
    """Return 409: the stored state is not the one the caller supposes."""
    return ApiProblem(409, "conflict", detail)


def gone(detail: str) -> ApiProblem:
    """Return 410: a revision that is too old to continue from."""
    return ApiProblem(410, "gone", detail)


def precondition_failed(detail: str) -> ApiProblem:
    """Return 412: If-Match or If-None-Match does not hold."""
    return ApiProblem(412, "precondition-failed", detail)


def too_large(detail: str) -> ApiProblem:
    """Return 413: more than one request may hold."""
    return ApiProblem(413, "too-large", detail)


def unsupported_type(detail: str) -> ApiProblem:
    """Return 415: a body in another format than this place takes."""
    return ApiProblem(415, "unsupported-media-type", detail)


def kept_by_service(kind: str) -> str:
    """Return why nobody may write this kind himself."""
    return (
        f"{kind} is written by address management alone; use /v1/ipam/assign and /v1/ipam/release."
    )


def exhausted(detail: str, *, retry_after_s: int = 0) -> ApiProblem:
    """Return 409: no address can be given; with a time when waiting helps."""
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    return ApiProblem(409, "no-address", detail, headers=headers)


def invalid(detail: str, errors: Sequence[FieldError] = ()) -> ApiProblem:
    """Return 422: a well-formed request whose content is refused."""
    return ApiProblem(422, "invalid", detail, errors=errors)


def unavailable(detail: str, *, retry_after_s: int = 2) -> ApiProblem:
    """Return 503: nothing is wrong with the request; the same one may succeed later."""
    return ApiProblem(503, "unavailable", detail, headers={"Retry-After": str(retry_after_s)})


def field_errors(
    found: Sequence[model_problems.Problem], prefix: str = ""
) -> tuple[FieldError, ...]:
    """Return the problems of one resource, with its place in the body before each pointer."""
    return tuple(
        FieldError(pointer=prefix + problem.pointer, reason=problem.reason, code=str(problem.code))
        for problem in found
    )


def from_invalid(error: model_problems.Invalid) -> ApiProblem:
    """Return 422, or 400 or 413 where the document as such cannot be read or is too large."""
    errors = field_errors(error.problems)
    codes = {problem.code for problem in error.problems}
    whole = all(problem.pointer == "" for problem in error.problems)
    n = len(errors)
    detail = errors[0].reason if n == 1 else f"{n} things are wrong with the resource; see errors."
    if whole and codes == {model_problems.Code.JSON}:
        return ApiProblem(400, "not-json", detail, errors=errors)
    return invalid(detail, errors)
