"""The rules of a host, asked of an agent over a real NATS."""

import pytest

from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RuleCount, RulesRequest
from hopwall_runtime.link import Link
from tests.api.caller import AT, Caller, node

pytestmark = pytest.mark.nats

RULE = RuleCount(
    identity="abcdefgh23",
    action="deny",
    place="rule 3 of ingress",
    policy="gnp/p",
    tier="default",
    direction="ingress",
    packets=0,
    bytes=0,
)


async def agent(link: Link, answer: bytes, host: str = "h1") -> list[RulesRequest]:
    """Answer for a host; return the requests as they come."""
    asked: list[RulesRequest] = []

    async def reply(request: RulesRequest, _subject: str) -> bytes:
        asked.append(request)
        return answer

    await link.serve_chunked(topics.RULES, topics.rules_subject(host), reply)
    await link.flush()
    return asked


def good(*rules: RuleCount) -> bytes:
    """Encode an answer."""
    return codec.encode(HostRules(host="h1", at=AT, rules=rules))


async def test_an_agents_answer_is_shown(caller: Caller, link: Link) -> None:
    """Each rule with its counters, also when they are zero; what is asked for is handed on."""
    await caller.put("/v1/nodes/h1", node("h1"))
    asked = await agent(link, good(RULE))
    answer = await caller.get("/v1/hosts/h1/rules?policy=gnp/p&identity=abcdefgh23,abcdefgh24")
    assert answer.status == 200
    assert answer.json == {
        "kind": "RuleList",
        "host": "h1",
        "at": AT,
        "items": [
            {
                "identity": "abcdefgh23",
                "action": "deny",
                "place": "rule 3 of ingress",
                "policy": "gnp/p",
                "tier": "default",
                "direction": "ingress",
                "packets": 0,
                "bytes": 0,
            }
        ],
    }
    assert asked == [RulesRequest(policy="gnp/p", identities=("abcdefgh23", "abcdefgh24"))]


async def test_a_long_answer_comes_whole(caller: Caller, link: Link) -> None:
    """More rules than one message holds."""
    await caller.put("/v1/nodes/h1", node("h1"))
    await agent(link, good(*(RULE for _ in range(20_000))))
    assert len((await caller.get("/v1/hosts/h1/rules")).json["items"]) == 20_000


async def test_an_unknown_host_is_not_asked(caller: Caller, link: Link) -> None:
    """404, as for the host itself."""
    asked = await agent(link, good(), "h9")
    assert "h9" in (await caller.get("/v1/hosts/h9/rules")).problem(404)["detail"]
    assert asked == []


async def test_a_host_without_an_agent_is_a_problem_in_time(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 that names the host and says what to look at."""
    monkeypatch.setattr("hopwall_api.asking.ANSWER_TIME_S", 0.3)
    await caller.put("/v1/nodes/h1", node("h1"))
    detail = (await caller.get("/v1/hosts/h1/rules")).problem(503)["detail"]
    assert "agent of host h1 did not answer" in detail


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (codec.encode(HostRules(host="h1", at=AT, failure="No tables.")), "No tables."),
        (b"{}", "no list of rules"),
    ],
)
async def test_an_agent_that_cannot_say_is_a_problem(
    caller: Caller, link: Link, body: bytes, said: str
) -> None:
    """Its own words, where it has some."""
    await caller.put("/v1/nodes/h1", node("h1"))
    await agent(link, body)
    assert said in (await caller.get("/v1/hosts/h1/rules")).problem(503)["detail"]


@pytest.mark.parametrize(
    "query",
    ["identity=short", "identity=ABCDEFGH23", "identity=" + "abcdefgh23," * 101, "who=me"],
)
async def test_what_cannot_be_meant_is_refused(caller: Caller, query: str) -> None:
    """400 before anybody is asked."""
    await caller.put("/v1/nodes/h1", node("h1"))
    (await caller.get(f"/v1/hosts/h1/rules?{query}")).problem(400)
