"""What a host's kernel holds, asked of its agent: rules and default denials with their counters."""

import re

from aiohttp import web
from msgspec import Struct

from hopwall_api import problems
from hopwall_api.answers import json_response
from hopwall_api.asking import ask_agent
from hopwall_api.parameters import query_of, refuse_unknown
from hopwall_api.reads import api_in_sync, known_host
from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RuleCount, RulesRequest

_IDENTITY = re.compile(r"[a-z2-7]{10}")
_MAX_IDENTITIES = 100
_decode = codec.decoder(HostRules)

RULE_PARAMETERS = ("policy", "identity")


class RuleList(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """The rules and default denials in a host's kernel, and how often each was met, at the host's time `at`."""

    host: str
    at: str
    items: tuple[RuleCount, ...]


def rules_request(query: dict[str, str]) -> RulesRequest:
    """Return what is asked for.

    Errors: ApiProblem 400.
    """
    refuse_unknown(query, RULE_PARAMETERS)
    identities = tuple(part for part in query.get("identity", "").split(",") if part)
    for identity in identities:
        if not _IDENTITY.fullmatch(identity):
            raise problems.bad_request(
                f"Query parameter identity: {identity[:64]!r} is not ten of a-z and 2-7; it is the last "
                "part of a log prefix."
            )
    if len(identities) > _MAX_IDENTITIES:
        raise problems.bad_request(f"Query parameter identity takes {_MAX_IDENTITIES} at most.")
    return RulesRequest(policy=query.get("policy", ""), identities=identities)


async def host_rules(request: web.Request) -> web.StreamResponse:
    """Ask a host's agent for its rules and their counters."""
    wanted = rules_request(query_of(request.query))
    api = await api_in_sync(request)
    name = known_host(api, request.match_info["host"])
    subject = topics.rules_subject(name)
    answer = await ask_agent(api.link, name, subject, wanted, _decode, "list of rules")
    if answer.failure:
        raise problems.unavailable(answer.failure)
    return json_response(RuleList(host=name, at=answer.at, items=answer.rules))
