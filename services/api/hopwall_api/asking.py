"""Asking a host's agent something over NATS, for a person who waits at the API."""

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from hopwall_api import problems
from hopwall_model import codec
from hopwall_runtime.link import Link, Unavailable

A = TypeVar("A")

#: How long an agent may take: it may read its tables, which is tens of milliseconds in a large one.
ANSWER_TIME_S = 5.0


async def ask_agent(
    link: Link, host: str, subject: str, request: Struct, decode: Callable[[bytes], A], what: str
) -> A:
    """Return the agent's answer; `what` says in words what it should be.

    Errors: ApiProblem 503 when there is none, or one that is something else.
    """
    try:
        return decode(await link.request_chunked(subject, request, timeout_s=ANSWER_TIME_S))
    except Unavailable as error:
        raise problems.unavailable(
            f"The agent of host {host} did not answer within {ANSWER_TIME_S:.0f} s: does it run, and does "
            "it reach NATS?"
        ) from error
    except codec.CodecError as error:
        raise problems.unavailable(
            f"The agent of host {host} answered with something that is no {what}."
        ) from error
