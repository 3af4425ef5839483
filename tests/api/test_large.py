"""The largest resource, through REST."""

import asyncio

from tests.api.caller import Caller, Doc


def _rule(number: int) -> Doc:
    """Return a rule with as many ports and nets as one may have."""
    return {
        "action": "Allow",
        "protocol": "TCP",
        "source": {"nets": [f"10.{number % 256}.{i}.{number // 256}/32" for i in range(256)]},
        "destination": {"ports": [f"{1000 + 100 * i}:{1050 + 100 * i}" for i in range(50)]},
    }


async def test_the_largest_policy_is_stored_and_others_are_answered_meanwhile(
    caller: Caller,
) -> None:
    """1,024 rules of 50 ports and 256 nets each are one resource; one rule more is 422, by its field."""
    path = "/v1/globalnetworkpolicies/big"
    rules = [_rule(number) for number in range(1025)]
    n_answered = 0
    async with asyncio.TaskGroup() as tasks:
        put = tasks.create_task(caller.put(path, {"spec": {"ingress": rules[:1024]}}))
        while not put.done():
            assert (await caller.get("/livez")).status == 200
            n_answered += 1
    assert put.result().status == 201
    assert n_answered > 10
    stored = (await caller.get(path)).json
    assert len(stored["spec"]["ingress"]) == 1024
    assert len(stored["spec"]["ingress"][1023]["source"]["nets"]) == 256
    problem = (await caller.put(path, {"spec": {"ingress": rules}})).problem(422)
    assert problem["errors"][0]["pointer"] == "/spec/ingress"
