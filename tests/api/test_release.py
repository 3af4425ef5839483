"""A host's held snapshot, released through the API and its agent over a real NATS."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hopwall_model import codec, topics
from hopwall_model.release import Released, ReleaseRequest
from hopwall_model.status import HeldSnapshot, LastGood
from hopwall_runtime.link import Link
from tests.api.caller import AT, PATIENCE_S, Caller, host_status, node, say

pytestmark = pytest.mark.nats

HELD = HeldSnapshot(epoch="e2", revision=4, reason="It lacks 12 of 12 endpoints.")


async def eventually(question: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the question is answered by yes."""
    async with asyncio.timeout(PATIENCE_S):
        while not await question():
            await asyncio.sleep(0.02)


async def agent(link: Link, failure: str = "") -> list[str]:
    """Answer for h1; return the epochs it was told to release."""
    asked: list[str] = []

    def reply(request: ReleaseRequest, _subject: str) -> bytes:
        asked.append(request.epoch)
        return codec.encode(Released(host="h1", failure=failure))

    await link.serve_chunked(topics.RELEASE, topics.release_subject("h1"), reply)
    await link.flush()
    return asked


async def hold(caller: Caller, link: Link, held: HeldSnapshot | None = HELD) -> None:
    """Let h1 report that it holds something back, and wait until the API knows."""
    await say(link, host_status("h1", 5, held=held))

    async def known() -> bool:
        answer = await caller.get("/v1/hosts/h1")
        return answer.status == 200 and (answer.json.get("held") is None) is (held is None)

    await eventually(known)


async def test_a_release_names_the_epoch_that_the_host_reported(caller: Caller, link: Link) -> None:
    """So that a snapshot nobody has looked at is not let through; the answer says what was held."""
    asked = await agent(link)
    await hold(caller, link)
    answer = await caller.ask("POST", "/v1/hosts/h1/release")
    assert (answer.status, answer.json["host"], answer.json["held"]) == (
        200,
        "h1",
        {"epoch": "e2", "revision": 4, "reason": HELD.reason},
    )
    await caller.ask("POST", "/v1/hosts/h1/release?epoch=e9")
    assert asked == ["e2", "e9"]


async def test_what_cannot_be_released_is_a_problem_that_says_why(
    caller: Caller, link: Link
) -> None:
    """Nothing held: 409; the agent refuses: 409 with its words; unknown: 404; silent: 503."""
    await caller.put("/v1/nodes/h1", node("h1"))
    detail = (await caller.ask("POST", "/v1/hosts/h1/release")).problem(409)["detail"]
    assert detail == "Host h1 holds back no snapshot, as far as it has reported."
    (await caller.ask("POST", "/v1/hosts/h9/release")).problem(404)
    await hold(caller, link)
    detail = (await caller.ask("POST", "/v1/hosts/h1/release")).problem(503)["detail"]
    assert "agent of host h1 did not answer" in detail
    await agent(link, "It holds back no snapshot.")
    detail = (await caller.ask("POST", "/v1/hosts/h1/release")).problem(409)["detail"]
    assert detail == "Host h1: It holds back no snapshot."


async def test_the_host_is_shown_with_what_it_goes_by(caller: Caller, link: Link) -> None:
    """The last-good state, what is held back and what is not on disk stand in the host's view."""
    kept = LastGood(epoch="e1", revision=5, since=AT)
    await say(link, host_status("h1", 5, held=HELD, last_good=kept, not_kept="The disk is full."))

    async def known() -> bool:
        answer = await caller.get("/v1/hosts/h1")
        if answer.status != 200:
            return False
        view = answer.json
        return (view.get("lastGood"), view.get("notKept")) == (
            {"epoch": "e1", "revision": 5, "since": AT},
            "The disk is full.",
        )

    await eventually(known)
