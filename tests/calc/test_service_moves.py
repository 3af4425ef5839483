"""What hosts say of arrivals reaches calc as it runs, when it starts, and only where it is to be believed."""

import pytest

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_model.status import Moved, MovedHere
from hopwall_model.updates import EndpointId
from tests.support.calc_listener import Listener, eventually, running
from tests.support.states_moves import PAIRED

pytestmark = pytest.mark.nats

ARRIVED = Moved(host="h2", arrived=(MovedHere("default/h2-vm1-eth0", "default/move/"),))


async def is_switched(listener: Listener) -> bool:
    """Ask whether calc has the workload at the target now."""
    target = (await listener.host("h2")).state().endpoints[EndpointId("default/h2-vm1-eth0")]
    assert target.move is not None
    return target.move.switched


async def test_an_arrival_is_followed_while_calc_runs(
    nats_server: NatsServer, listener: Listener
) -> None:
    """The source's host hears at once, in a batch, that its workload has gone; a word withdrawn counts too."""
    await listener.put(*PAIRED)
    async with running(nats_server):
        await listener.resolved(1)
        await listener.host("h1")
        n_statuses = len(listener.statuses)
        await listener.link.publish(topics.moved_subject("h2"), ARRIVED)
        while not await is_switched(listener):
            pass
        await eventually(lambda: any("h1" in s.hosts for s in listener.statuses[n_statuses:]))
        await listener.link.publish(topics.moved_subject("h2"), Moved(host="h2"))
        while await is_switched(listener):
            pass


async def test_a_calc_that_starts_knows_who_has_arrived(
    nats_server: NatsServer, listener: Listener
) -> None:
    """Its first word to hosts is right: the address does not go back for a moment."""
    await listener.put(*PAIRED)
    await listener.link.publish(topics.moved_subject("h2"), ARRIVED)
    await listener.link.flush()
    async with running(nats_server):
        await listener.resolved(1)
        assert await is_switched(listener)


async def test_a_host_speaks_for_itself_alone(nats_server: NatsServer, listener: Listener) -> None:
    """What is said on another host's subject is not believed, live or kept."""
    await listener.put(*PAIRED)
    await listener.link.publish(topics.moved_subject("h3"), ARRIVED)
    await listener.link.flush()
    async with running(nats_server):
        await listener.resolved(1)
        await listener.link.publish(topics.moved_subject("h1"), ARRIVED)
        last = await listener.put(*list(PAIRED)[:1])
        await listener.resolved(last)
        assert not await is_switched(listener)
