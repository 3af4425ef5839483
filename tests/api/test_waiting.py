"""wait= through HTTP, with calc and hosts played by the test on NATS."""

import asyncio
from typing import Any

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model.status import Refusal, Waiting
from hopwall_runtime.link import Link
from tests.api.caller import (
    ENDPOINTS,
    Answer,
    Caller,
    calc_status,
    endpoint,
    host_status,
    node,
    running_api,
    said,
    say,
)

pytestmark = pytest.mark.nats

PATH = f"{ENDPOINTS}/vm1"


def stage(answer: Answer, name: str) -> tuple[str, str]:
    """Return status and reason of one condition."""
    conditions = answer.json["status"]["conditions"]
    (found,) = [c for c in conditions if c["type"] == name]
    return found["status"], found["reason"]


async def test_accepted_answers_at_once(caller: Caller) -> None:
    """Without wait, stored is enough, and the status says what is not known yet."""
    answer = await caller.put(PATH, endpoint("vm1"))
    assert answer.status == 201
    assert stage(answer, "Accepted") == ("True", "Stored")
    assert stage(answer, "Computed") == ("Unknown", "NoReport")


async def test_computed_waits_for_calc(caller: Caller, link: Link) -> None:
    """The answer comes when calc has resolved the revision, and not before."""
    await say(link, calc_status(0, 0))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(caller.put(f"{PATH}?wait=computed", endpoint("vm1")))
        await asyncio.sleep(0.3)
        assert not task.done()
        await say(link, calc_status(1, 1, "h1"))
    assert task.result().status == 201
    assert stage(task.result(), "Computed") == ("True", "Resolved")
    assert stage(task.result(), "Programmed") == ("False", "Pending")


async def test_programmed_waits_for_the_hosts_that_matter(caller: Caller, link: Link) -> None:
    """Only h1 is concerned; the answer comes when h1 enforces the revision."""
    await say(link, calc_status(0, 0), host_status("h1", 0), host_status("h2", 0))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(caller.put(f"{PATH}?wait=programmed", endpoint("vm1")))
        await asyncio.sleep(0.2)
        await say(link, calc_status(1, 1, "h1"))
        await asyncio.sleep(0.2)
        assert not task.done()
        await say(link, host_status("h1", 1))
    answer = task.result()
    assert answer.status == 201
    assert stage(answer, "Programmed") == ("True", "Enforced")
    assert answer.json["status"]["hosts"] == {"desired": 1, "programmed": 1, "failed": 0}
    again = await caller.get(PATH)
    assert stage(again, "Programmed") == ("True", "Enforced")


async def test_when_the_time_runs_out_the_laggards_are_named(caller: Caller, link: Link) -> None:
    """202: stored, but not yet as waited for; a host that never reported is said to be silent."""
    await said(caller, link, calc_status(0, 1, "h1", "h9"), host_status("h1", 0))
    answer = await caller.put(f"{PATH}?wait=programmed&timeout=0.3s", endpoint("vm1"))
    assert answer.status == 202
    laggards = {one["host"]: one["reason"] for one in answer.json["status"]["laggards"]}
    assert laggards["h1"] == "Host h1 enforces revision 0 of 1."
    assert laggards["h9"].startswith("Host h9 has not reported")
    assert (await caller.get(PATH)).status == 200


async def test_a_refusal_is_answered_without_waiting_longer(caller: Caller, link: Link) -> None:
    """A host that refuses settles the matter: 202, Programmed False, with its reason."""
    refused = (Refusal(object="endpoint default/vm1", reason="no such interface type"),)
    await say(link, calc_status(0, 1, "h1"), host_status("h1", 1, refused=refused))
    async with asyncio.timeout(30):
        answer = await caller.put(f"{PATH}?wait=programmed&timeout=60", endpoint("vm1"))
    assert answer.status == 202
    assert stage(answer, "Programmed") == ("False", "Refused")
    assert "no such interface type" in answer.json["status"]["laggards"][0]["reason"]


async def test_an_endpoint_whose_interface_is_missing_is_not_programmed(
    caller: Caller, link: Link
) -> None:
    """`waiting` in the host's report holds back this endpoint and no other."""
    waiting = (Waiting(endpoint="default/vm1", reason="interface tapvm1 does not exist"),)
    await said(caller, link, calc_status(0, 2, "h1"), host_status("h1", 2, waiting=waiting))
    answer = await caller.put(f"{PATH}?wait=programmed&timeout=0.2", endpoint("vm1"))
    assert answer.status == 202
    assert "tapvm1" in answer.json["status"]["laggards"][0]["reason"]
    other = endpoint("vm2", address="10.65.0.22")
    assert (await caller.put(f"{ENDPOINTS}/vm2?wait=programmed", other)).status == 201


async def test_prefer_wait_is_wait_programmed(caller: Caller, link: Link) -> None:
    """`Prefer: wait=1` sets stage and time, and the answer says that it was followed."""
    await say(link, calc_status(0, 1, "h1"))
    answer = await caller.put(PATH, endpoint("vm1"), Prefer="wait=1")
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "wait=1")


async def test_delete_and_apply_wait_too(caller: Caller, link: Link) -> None:
    """A removal is programmed when the hosts no longer have it; a bulk when all its items are."""
    await say(link, calc_status(0, 2, "h1"), host_status("h1", 2))
    items: list[Any] = [endpoint("vm1"), node("h1")]
    applied = await caller.post("/v1/apply?wait=programmed&timeout=60", items)
    assert applied.status == 200
    assert applied.json["status"]["hosts"]["programmed"] == 1
    late = await caller.delete(f"{PATH}?wait=programmed&timeout=0.2")
    assert late.status == 202
    assert late.json["revision"] == "3"
    await say(link, calc_status(3, 3, "h1"), host_status("h1", 3))
    again = await caller.put(f"{PATH}?wait=programmed&timeout=0.1", endpoint("vm1"))
    assert again.status == 202


async def test_an_unchanged_put_waits_for_what_is_stored(caller: Caller, link: Link) -> None:
    """A repeated PUT is the way to ask again whether it is in force."""
    await caller.put(PATH, endpoint("vm1"))
    await say(link, calc_status(0, 1, "h1"), host_status("h1", 1))
    answer = await caller.put(f"{PATH}?wait=programmed&timeout=60", endpoint("vm1"))
    assert (answer.status, stage(answer, "Programmed")) == (200, ("True", "Enforced"))


async def test_statuses_are_known_after_a_restart_of_the_api(
    nats_server: NatsServer, link: Link
) -> None:
    """The last words of calc and of the hosts are read from the status stream."""
    async with running_api(nats_server.url) as caller:
        await caller.put(PATH, endpoint("vm1"))
        await say(link, calc_status(0, 1, "h1"), host_status("h1", 1))
    async with running_api(nats_server.url) as caller:
        answer = await caller.put(f"{PATH}?wait=programmed&timeout=60", endpoint("vm1"))
        assert stage(answer, "Programmed") == ("True", "Enforced")


async def test_bad_wait_parameters_are_refused(caller: Caller) -> None:
    """A stage or a time that makes no sense is 400, before anything is stored."""
    (await caller.put(f"{PATH}?wait=done", endpoint("vm1"))).problem(400)
    (await caller.put(f"{PATH}?timeout=1h", endpoint("vm1"))).problem(400)
    (await caller.put(f"{PATH}?timeout=99999", endpoint("vm1"))).problem(400)
    (await caller.get(PATH)).problem(404)
