"""The switch of a live migration: durable, repeatable, and refused for what is not there."""

import pytest

from tests.api.caller import EXAMPLES, Caller

pytestmark = pytest.mark.nats

COLLECTION, DOCUMENT = EXAMPLES["LiveMigration"]
PLACE = f"{COLLECTION}/one"


async def test_a_switch_is_stored_intent(caller: Caller) -> None:
    """It is an event like any write, keeps all else, and saying it again changes nothing."""
    made = await caller.post(
        COLLECTION, DOCUMENT | {"metadata": {"name": "one", "labels": {"a": "b"}}}
    )
    assert made.status == 201, made.body
    switched = await caller.post(f"{PLACE}/switch", None)
    assert switched.status == 200, switched.body
    assert switched.json["metadata"]["annotations"] == {"hopwall.io/switch": "true"}
    assert switched.json["metadata"]["generation"] == 2
    assert switched.json["metadata"]["labels"] == {"a": "b"}
    assert switched.json["spec"] == made.json["spec"]
    again = await caller.post(f"{PLACE}/switch", None)
    assert again.status == 200
    assert again.json["metadata"]["generation"] == 2
    assert (await caller.get(PLACE)).json["metadata"]["annotations"] == {
        "hopwall.io/switch": "true"
    }


async def test_what_cannot_be_switched_is_refused(caller: Caller) -> None:
    """A migration that is not there, a version that is old, and a body are refused."""
    (await caller.post(f"{PLACE}/switch", None)).problem(404)
    await caller.post(COLLECTION, DOCUMENT)
    (await caller.post(f"{PLACE}/switch", {"a": 1})).problem(422)
    (await caller.post(f"{PLACE}/switch", None, **{"If-Match": '"7"'})).problem(412)
