"""A problem as the answer that is sent."""

from aiohttp import web

from hopwall_api import problems
from hopwall_api.problems import ApiProblem

#: Answered before the body was read to its end, so the connection cannot go on.
_UNREAD = frozenset({401, 403, 408, 413, 415, 417, 429})


def problem_response(problem: ApiProblem, instance: str, trace_id: str) -> web.Response:
    """Return the answer that says why a request is refused."""
    response = web.Response(
        body=problems.document(problem, instance=instance, trace_id=trace_id),
        status=problem.status,
        content_type=problems.CONTENT_TYPE,
        headers=problem.headers,
    )
    if problem.status in _UNREAD:
        response.force_close()
    return response
