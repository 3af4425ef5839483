"""A server that does not know yet that it leads no more, beside one that does: what an answer says must be so."""

from collections.abc import Sequence

import pytest

from hopwall_runtime.link import Append, Conflict, Link
from tests.api.caller import Caller, Refusing, node

pytestmark = pytest.mark.nats


async def test_a_conflict_with_oneself_is_no_refusal(caller: Caller, refusing: Refusing) -> None:
    """What was stored although a server said that it conflicts is acknowledged, with its revision."""
    made = await caller.put("/v1/nodes/a", node("a"))
    refusing(1)
    answer = await caller.put("/v1/nodes/a", node("a", x="1"), If_Match=made.headers["ETag"])
    assert answer.status == 200, answer.body
    assert answer.headers["ETag"] == '"2"'
    assert (await caller.get("/v1/nodes/a")).json["metadata"]["labels"] == {"x": "1"}
    assert (await caller.get("/v1/nodes")).json["metadata"]["resourceVersion"] == "2"


async def test_a_conflict_with_nothing_is_not_said_to_have_stored_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses for another write which it does not hold is in doubt: so is what became of the write."""

    async def never(_: Link, _writes: Sequence[Append]) -> list[int]:
        raise Conflict("wrong last sequence")

    monkeypatch.setattr(Link, "append", never)
    problem = (await caller.put("/v1/nodes/a", node("a"))).problem(503)
    assert "It is unknown whether the write was stored" in problem["detail"]


async def test_reports_of_a_stream_that_may_be_another_say_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broken connection revisions may be given anew: until the stream is read, how far a write is is unknown."""
    assert (await caller.put("/v1/nodes/a", node("a"))).status == 201
    monkeypatch.setattr(Link, "settled", property(lambda _: False))
    conditions = (await caller.get("/v1/nodes/a")).json["status"]["conditions"]
    found = {one["type"]: (one["status"], one["reason"]) for one in conditions}
    assert found["Accepted"] == ("True", "Stored")
    assert found["Computed"] == ("Unknown", "Reconnected")
    assert found["Programmed"][0] == "Unknown"


async def test_the_end_of_a_restore_that_was_stored_is_no_refusal(
    caller: Caller, refusing: Refusing
) -> None:
    """What begins and ends a restore knows its own event again, too."""
    for path in ("/v1/restore", "/v1/restore/end"):
        refusing(1)
        answer = await caller.post(path, {"file": "f"})
        assert answer.status == 200, answer.body
    assert answer.json["resourceVersion"] == "2"
