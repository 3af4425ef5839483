"""kill -9 of any service at random instants, under writes and traffic: nobody on the wire notices.

Two flows must go on without a lost packet, one must never get a packet through, the tracked connections stay the
same entries, and what was acknowledged is there at the end.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio

from hopwall_cli.client import ClientError
from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload
from hopwall_dataplane.conntrack.codec import dump_message
from hopwall_dataplane.netlink.codec import attribute_table
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from tests.support.flows import flows_until
from tests.support.netns import Netns

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.nats]

GNS = kind_named("gns")
#: So many, and meanwhile so many acknowledged writes.
KILLS, WRITES = 20, 20
OPEN: tuple[tuple[str, str, Literal[4, 6]], ...] = (("a", "b", 4), ("b", "a", 6))
CLOSED: tuple[tuple[str, str, Literal[4, 6]], ...] = (("a", "c", 4),)
_CTA_ID, _CTA_TUPLE_ORIG = 12, 1
_TUPLE_FLAG = 0x8000


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    """Run two hosts and three workloads of two customers who are kept apart."""
    async with Lab("kills", hosts=2, agent_flags=["--refresh-s", "2"]) as running:
        places = {"a": ("h1", "x"), "b": ("h2", "x"), "c": ("h2", "y")}
        await running.add(
            *(
                Workload(
                    name=name,
                    host=host,
                    ipv4=f"10.65.0.{number}",
                    ipv6=f"fd65::{number}",
                    labels={"customer": customer},
                )
                for number, (name, (host, customer)) in enumerate(places.items(), 31)
            )
        )
        await running.client.apply(
            [
                topo.resource(
                    "GlobalNetworkPolicy",
                    f"within-{customer}",
                    {
                        "selector": f"customer == '{customer}'",
                        "types": ["Ingress", "Egress"],
                        "ingress": [
                            {"action": "Allow", "source": {"selector": f"customer == '{customer}'"}}
                        ],
                        "egress": [{"action": "Allow"}],
                    },
                )
                for customer in "xy"
            ]
        )
        answer = await running.declare()
        assert reached(answer), answer["status"]
        yield running


def entries() -> dict[bytes, bytes]:
    """Return tuple → id of each tracked flow of UDP in the current namespace."""
    found = {}
    with NetlinkSocket(NETLINK_NETFILTER) as reading:
        for _, body in reading.dump(dump_message()):
            parts = attribute_table(body, 4, len(body))
            original = next(parts[k] for k in parts if k & ~_TUPLE_FLAG == _CTA_TUPLE_ORIG)
            found[bytes(original)] = bytes(parts[_CTA_ID])
    return found


def tracked(lab: Lab, host: str) -> dict[bytes, bytes]:
    """Return the tracked flows of a host."""
    inside = Netns("borrowed")
    inside.name = lab.namespace(host)
    return inside.python(entries)


async def write(lab: Lab, kept: list[str]) -> None:
    """Write one network set after the other, and note those that were acknowledged."""
    number = 0
    while True:
        number += 1
        name = f"kept-{number}"
        with contextlib.suppress(ClientError):
            await lab.client.apply(
                [topo.resource("GlobalNetworkSet", name, {"nets": ["192.0.2.0/24"]})]
            )
            kept.append(name)
        await asyncio.sleep(0.05)


async def kill_at_random(lab: Lab, seed: int, kept: list[str]) -> None:
    """Kill one service after the other, some while they start, until enough were hit and enough was written.

    Who is killed often is started again after a longer and longer pause, and then there is nobody to kill.
    """
    chance = random.Random(seed)
    n_hit = 0
    while n_hit < KILLS or len(kept) < WRITES:
        await asyncio.sleep(chance.uniform(0.05, 1.2))
        name = chance.choice(sorted(lab.services))
        if lab.services[name].pid and n_hit < KILLS:
            lab.services[name].signal(signal.SIGKILL)
            n_hit += 1


async def test_kill_9_at_random_instants_is_not_noticed(lab: Lab) -> None:
    """0 packets lost, 0 let through that must not be, 0 entries exchanged, 0 acknowledged writes lost."""
    for src, dst, version in (*OPEN, *CLOSED):
        await lab.start_flow(src, dst, version=version)
    for src, dst, _ in OPEN:
        await flows_until(lab, src, dst, received=10)
    before = {host: tracked(lab, host) for host in lab.hosts}
    kept: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write(lab, kept))
        await kill_at_random(lab, 5, kept)
        writing.cancel()
    after = {host: tracked(lab, host) for host in lab.hosts}
    opened = [await lab.stop_flow(src, dst) for src, dst, _ in OPEN]
    closed = [await lab.stop_flow(src, dst) for src, dst, _ in CLOSED]
    await lab.client.ready(timeout_s=120.0)
    last = topo.resource("GlobalNetworkSet", "last", {"nets": ["192.0.2.1/32"]})
    assert reached(await lab.client.apply([last], wait="programmed", timeout_s=120.0))
    stored = {item["metadata"]["name"] for item in (await lab.client.list(GNS))["items"]}
    assert [flow["sent"] - flow["received"] for flow in opened] == [0, 0]
    assert all(flow["sent"] > 500 for flow in opened)
    assert [flow["received"] for flow in closed] == [0]
    assert set(kept) <= stored
    for host, flows in before.items():
        mine = {original: number for original, number in flows.items() if original in after[host]}
        assert len(mine) >= len(OPEN)
        assert all(after[host][original] == number for original, number in mine.items())
