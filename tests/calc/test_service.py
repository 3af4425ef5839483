"""The calc service against a real nats-server."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.epochs import SILENT_S, term_of
from hopwall_model.events import (
    Event,
    ResourceRemoved,
    ResourceSet,
    RestoreBegun,
    RestoreEnded,
)
from hopwall_model.resources import key_of
from hopwall_model.status import CalcStatus
from hopwall_model.topics import Topic
from hopwall_model.updates import BgpSet, HostBatch, SharedUpdate, SnapshotRequest
from hopwall_runtime.follower import CaughtUp, Record, Reset
from hopwall_runtime.link import Append, Link, Unavailable
from hopwall_runtime.streams import store_of
from tests.support.calc_listener import Listener, assert_hosts, eventually, running
from tests.support.oracle import Oracle
from tests.support.ports import free_port
from tests.support.states import DB1, FROM_WEB, POLICED, TIERED, TWO_HOSTS, WEB1, State, endpoint
from tests.support.states_bgp import MESH_SAID, config

pytestmark = pytest.mark.nats


async def test_events_become_batches(nats_server: NatsServer, listener: Listener) -> None:
    """A host that follows its feed and its scopes has what the oracle says; status comes last."""
    await listener.put(*TWO_HOSTS)
    async with running(nats_server):
        opened = await listener.resolved(1)
        assert opened.first == 0
        assert set(opened.hosts) == {"h1", "h2"}
        host = await listener.host("h2")
        before = len(listener.log)
        async with listener.in_order() as heard:
            await listener.put(*(r for r in POLICED if key_of(r) not in TWO_HOSTS.resources))
            last = await listener.put(
                endpoint("web2", "h2", "10.65.0.7/32", labels={"role": "web"})
            )
            status = await listener.resolved(last)
            assert "h2" in status.hosts
            await eventually(
                lambda: [s for s in heard if isinstance(s, CalcStatus) and s.revision == last]
            )
        told = 0
        for said in heard:
            if isinstance(said, HostBatch):
                told = max(told, said.revision) if said.host == "h2" else told
            elif said.first > opened.revision and "h2" in said.hosts:
                assert told >= said.revision
        await eventually(lambda: listener.told("h2") == last)
        # Of different subscriptions the order is by chance: shared pieces go before the batches that name them.
        for said in sorted(listener.log[before:], key=_place):
            if isinstance(said, SharedUpdate):
                host.on_shared(said)
            elif isinstance(said, HostBatch) and said.host == "h2":
                host.on_batch(said)
        state = POLICED.with_("", endpoint("web2", "h2", "10.65.0.7/32", labels={"role": "web"}))
        assert host.state() == Oracle(state.resources).state("h2")
        assert host.n_snapshots == 1
        assert host.revision == last


def _place(said: Any) -> tuple[int, bool]:
    """Return where in calc's order a message is."""
    return (said.revision, isinstance(said, HostBatch)) if hasattr(said, "revision") else (0, False)


async def test_hosts_hear_of_bgp(nats_server: NatsServer, listener: Listener) -> None:
    """With routing "bgp" snapshots and batches say what the host's daemon is to do, and no routes."""
    revision = await listener.put(*MESH_SAID)
    async with running(nats_server, routing="bgp"):
        await listener.resolved(revision)
        host = await listener.host("h1")
        assert host.state() == Oracle(MESH_SAID.resources, bgp=True).state("h1")
        off = MESH_SAID.with_("", config(node_to_node_mesh_enabled=False))
        await listener.resolved(await listener.put(config(node_to_node_mesh_enabled=False)))
        wanted = Oracle(off.resources, bgp=True).state("h1").bgp
        assert wanted is not None
        last = await eventually(
            lambda: next((b for b in listener.batches if b.host == "h1" and b.updates), None)
        )
        assert last.updates == (BgpSet(bgp=wanted),)


async def test_status_ranges_leave_no_gap(nats_server: NatsServer, listener: Listener) -> None:
    """From 0 on, each status begins where the one before it ended; a repeat repeats."""
    async with running(nats_server):
        await listener.resolved(0)
        for resource in TIERED:
            last = await listener.put(resource)
            await listener.resolved(last)
    expected = 0
    for status in dict.fromkeys((s.first, s.revision) for s in listener.statuses):
        assert status[0] == expected
        expected = status[1] + 1


async def test_a_report_is_repeated_with_all_hosts(
    nats_server: NatsServer, listener: Listener
) -> None:
    """Whoever missed reports learns from the repeat whom they may concern; also of hosts that have nothing any more."""
    last = await listener.put(*TWO_HOSTS)
    async with running(nats_server, heartbeat_s=3600.0):
        await listener.resolved(last)
        for resource in TWO_HOSTS:
            last = await listener.write(ResourceRemoved(key=key_of(resource)))
        await listener.resolved(last)  # else the next may be resolved with them
        last = await listener.put(endpoint("late", "h3", "10.65.0.9/32"))
        status = await listener.resolved(last)
        assert (status.hosts, status.all_hosts) == (("h3",), None)
        repeat = await eventually(
            lambda: next((s for s in listener.statuses if s.revision == last and s.all_hosts), None)
        )
        assert (repeat.hosts, repeat.all_hosts) == (("h3",), ("h1", "h2", "h3"))


async def test_nothing_is_said_before_the_stored_events_are_in(
    nats_server: NatsServer, listener: Listener
) -> None:
    """The first thing calc says of a host includes every event that was stored when it started."""
    last = await listener.put(*(endpoint(f"e{i}", "h1", f"10.1.0.{i}/32") for i in range(1, 200)))
    async with running(nats_server):
        status = await listener.resolved(0)
        assert status.revision == last
        assert (await eventually(lambda: listener.batches))[0].revision == last


async def test_snapshot_is_the_whole_of_a_host(nats_server: NatsServer, listener: Listener) -> None:
    """Whoever asks gets what the oracle says; a stranger gets an empty one, and heartbeats."""
    last = await listener.put(*TIERED)
    async with running(nats_server):
        await listener.resolved(last)
        await assert_hosts(listener, TIERED)
        stranger = await listener.snapshot("h99")
        assert (stranger.number, stranger.full, stranger.updates) == (0, True, ())
        await eventually(lambda: [b for b in listener.batches if b.host == "h99"])


async def test_heartbeat_repeats_the_last_number(
    nats_server: NatsServer, listener: Listener
) -> None:
    """A host hears its number again and again, with nothing in it."""
    last = await listener.put(*POLICED)
    async with running(nats_server):
        await listener.resolved(last)
        await listener.write(ResourceRemoved(key=key_of(DB1)))
        await listener.resolved(last + 1)
        second = {("h1", 2), ("h2", 2)}
        await eventually(lambda: second <= {(b.host, b.number) for b in listener.batches})
        before = len(listener.batches)
        await eventually(lambda: len(listener.batches) > before + 4)
        numbers = {(b.host, b.number, b.updates) for b in listener.batches[before:]}
        assert numbers == {("h1", 2, ()), ("h2", 2, ())}


async def test_restart_is_a_new_epoch_with_the_same_content(
    nats_server: NatsServer, listener: Listener
) -> None:
    """After a restart hosts are told to ask, and get the same state."""
    last = await listener.put(*TIERED)
    async with running(nats_server):
        first = await listener.resolved(last)
        await assert_hosts(listener, TIERED)
    async with running(nats_server):
        second = await listener.resolved(last, epoch=first.epoch)
        assert second.first == 0
        await assert_hosts(listener, TIERED)


async def test_reconnect_keeps_the_epoch(nats_server: NatsServer, listener: Listener) -> None:
    """Following the same stream again is no new epoch; what happened meanwhile is swept in."""
    last = await listener.put(*TIERED)
    async with running(nats_server) as service:
        first = await listener.resolved(last)
        assert service._stream_id is not None
        service._take([Reset(service._stream_id)])
        assert service._resyncing
        gone = [key_of(r) for r in TIERED if key_of(r) != key_of(WEB1)]
        events: list[Event] = [ResourceSet(resource=WEB1), *(ResourceRemoved(key=k) for k in gone)]
        service._take([Record(revision=last, event=event, headers={}) for event in events])
        service._take([CaughtUp(last)])
        await service._flush()
        assert service._graph.sequencer.epoch == first.epoch
        last = await listener.put(DB1)
        assert (await listener.resolved(last)).epoch == first.epoch
        await assert_hosts(listener, State("", {}).with_("", WEB1, DB1))


async def test_a_stream_that_lost_something_is_a_new_epoch(
    nats_server: NatsServer, listener: Listener
) -> None:
    """What is gone without an event must not reach hosts as an ordinary removal: they judge a new epoch."""
    last = await listener.put(*POLICED)
    async with running(nats_server) as service:
        first = await listener.resolved(last)
        assert service._stream_id is not None
        kept = [Record(revision=last, event=ResourceSet(resource=r), headers={}) for r in POLICED]
        service._take([Reset(service._stream_id), *kept[1:], CaughtUp(last)])
        await service._flush()
        await listener.resolved(0, epoch=first.epoch)


async def test_calc_accounts_for_what_an_event_took_away_or_moved(
    nats_server: NatsServer, listener: Listener
) -> None:
    """Removed, moved or merely not applied any more is explained; never heard of, or due here, is not."""
    moved = endpoint("roamer", "h2", "10.65.0.77")
    await listener.put(*POLICED, moved)
    last = await listener.write(ResourceRemoved(key=key_of(DB1)))
    names = {
        f"endpoint default/{DB1.metadata.name}": True,
        "endpoint default/roamer": True,
        f"policy gnp/{FROM_WEB.metadata.name}": True,
        f"endpoint default/{WEB1.metadata.name}": False,
        "endpoint default/unheard-of": False,
        "policy gnp/unheard-of": False,
        "junk": False,
        "route x/y/z": False,
    }
    async with running(nats_server):
        await listener.resolved(last)
        request = SnapshotRequest(host="h1", reason="missing", missing=tuple(names))
        body = await listener.link.request_chunked(
            topics.snapshot_subject("h1"), request, timeout_s=60
        )
        snapshot = topics.HOST_BATCH.decode(body)
    assert set(snapshot.accounted) == {name for name, explained in names.items() if explained}


async def test_another_stream_is_a_new_epoch(nats_server: NatsServer, listener: Listener) -> None:
    """A stream with another identity, or one that ends before the last revision, opens an epoch."""
    last = await listener.put(*POLICED)
    async with running(nats_server) as service:
        first = await listener.resolved(last)
        service._take([Reset("another"), CaughtUp(last)])
        await service._flush()
        second = await listener.resolved(0, epoch=first.epoch)
        assert service._graph.snapshot("h1").updates == ()
        service._take([Reset("another"), CaughtUp(last - 1)])
        await service._flush()
        await eventually(lambda: {s.epoch for s in listener.statuses} - {first.epoch, second.epoch})


async def test_bad_event_is_skipped_and_reported(
    nats_server: NatsServer, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no event, and an event whose resource is invalid, stop nothing."""
    caplog.set_level(logging.ERROR)
    async with running(nats_server):
        await listener.resolved(0)
        garbage = Append(
            subject="hopwall.event.node._.x", body=b"{not json", expected=0, headers={}
        )
        await listener.link.append([garbage])
        await listener.put(endpoint("bad", "h1", "not an address"))
        last = await listener.put(*POLICED)
        await listener.resolved(last)
        await assert_hosts(listener, POLICED)
        rejected = await eventually(
            lambda: listener.rejected if len(listener.rejected) > 1 else None
        )
    assert rejected[0].subject == "hopwall.event.node._.x"
    assert "default/bad" in rejected[1].subject
    assert "not an address" in rejected[1].reason


async def test_batch_too_large_for_a_message_leaves_a_gap(
    nats_server: NatsServer, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of a message that NATS would refuse, the host hears a number that makes it ask."""
    monkeypatch.setattr("hopwall_calc.service.MAX_BODY_BYTES", 300)
    async with running(nats_server):
        await listener.resolved(0)
        last = await listener.put(*POLICED)
        await listener.resolved(last)
        heard = [b for b in listener.batches if b.host == "h2" and b.number]
        assert all(len(codec.encode(b)) <= 300 or len(b.updates) == 1 for b in heard)
        await assert_hosts(listener, POLICED)


async def test_health_and_metrics(nats_server: NatsServer, listener: Listener) -> None:
    """Ready once the stored events are in; Calico's metrics under our prefix."""
    port = free_port()
    last = await listener.put(*POLICED)
    async with running(nats_server, health_listen=f"127.0.0.1:{port}"), ClientSession() as http:
        await listener.resolved(last)
        async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200
        async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
    assert "hopwall_cluster_workload_endpoints 3.0" in text
    assert "hopwall_calc_graph_update_time_seconds_count" in text
    assert 'hopwall_calc_output_messages_total{kind="status"}' in text


async def test_hosts_stay_as_they_are_until_a_restore_ends(
    nats_server: NatsServer, listener: Listener
) -> None:
    """A mixture is told to nobody, by a calc that starts meanwhile neither; the end is one step of all of it."""
    last = await listener.put(*POLICED)
    removed = next(r for r in POLICED if "Policy" in type(r).__name__)
    mixture: list[Event] = [
        RestoreBegun(file="f", at="now"),
        ResourceRemoved(key=key_of(removed)),
    ]
    async with running(nats_server) as first:
        await listener.resolved(last)
        before = await listener.snapshot("h1")
        heard = len([b for b in listener.batches if b.updates])
        await listener.write(*mixture)
        await eventually(lambda: first._restoring and first._graph.revision > last)
        # Another stream in the middle of it: the new epoch waits too.
        marker = Record(revision=last + 1, event=mixture[0], headers={})
        first._take([Reset("another"), marker, CaughtUp(last)])
        await asyncio.sleep(0.5)
        assert (await listener.snapshot("h1")).updates == before.updates
        assert len([b for b in listener.batches if b.updates]) == heard
        assert first._not_ready()
    await listener.link.flush()
    await asyncio.sleep(0.3)  # the last words of the first are heard
    n_statuses = len(listener.statuses)
    async with running(nats_server) as second:
        await eventually(lambda: second._graph.revision > last and not second._resyncing)
        await asyncio.sleep(0.5)
        assert len(listener.statuses) == n_statuses
        with pytest.raises(Unavailable):
            await listener.link.request_chunked(
                topics.snapshot_subject("h1"), SnapshotRequest(host="h1"), timeout_s=0.5
            )
        end = await listener.write(ResourceSet(resource=removed), RestoreEnded(file="f"))
        status = await listener.resolved(end)
        assert status.revision == end
        await assert_hosts(listener, POLICED)


async def test_an_epoch_names_the_store(nats_server: NatsServer, listener: Listener) -> None:
    """A host can tell calc's new life from another store's intent."""
    async with running(nats_server):
        status = await listener.resolved(0)
    found = await listener.link._js.stream_info(topics.EVENTS_STREAM)
    assert status.epoch.startswith(store_of(found.config) + ".")


async def test_of_two_the_last_that_began_speaks(
    nats_server: NatsServer, listener: Listener
) -> None:
    """The other answers nobody and says nothing; when the last is gone it takes over and has missed nothing."""
    first = await listener.put(*TWO_HOSTS)
    async with running(nats_server) as older:
        before = (await listener.resolved(first)).epoch
        async with running(nats_server):
            status = await listener.resolved(first, before)
            revision = await listener.put(*POLICED)
            await listener.resolved(revision, before)
            said = len(listener.batches)
            await assert_hosts(listener, POLICED)
            assert {(await listener.snapshot("h1")).epoch for _ in range(10)} == {status.epoch}
            await eventually(lambda: len(listener.batches) > said + 4)
            assert {batch.epoch for batch in listener.batches[said:]} == {status.epoch}
            assert not listener.rejected
        assert older._ruling.deposed
        older._ruling._succession.heard_at -= 2 * SILENT_S
        older._ruling._deaf_at -= 2 * SILENT_S
        again = await listener.resolved(revision, status.epoch)
        assert term_of(again.epoch) > term_of(status.epoch)
        await assert_hosts(listener, POLICED)


async def test_who_has_slept_looks_before_it_speaks(
    nats_server: NatsServer, listener: Listener
) -> None:
    """A calc that was frozen and did not hear that it was deposed says nothing when it wakes up."""
    first = await listener.put(*TWO_HOSTS)
    async with running(nats_server) as older:
        before = (await listener.resolved(first)).epoch
        async with running(nats_server):
            later = await listener.resolved(first, before)
            # The server keeps the last status, a moment after all have heard it.
            same = (later.epoch, later.revision)
            await eventually(
                lambda: [(s.epoch, s.revision) for s in listener.statuses].count(same) > 1
            )
            # As if nothing of this had come to it, and much time had passed.
            older._ruling._succession.epoch = before
            older._ruling._awake_at -= 60
            assert not older._ruling.deposed
            assert older._ruling.may_speak_at_once is None
            assert (await listener.snapshot("h1")).epoch == later.epoch
            await eventually(lambda: older._ruling.deposed)


async def test_what_could_not_be_said_at_once_is_said_later(
    nats_server: NatsServer, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A calc that has slept, and cannot learn at once who rules, says what it computed as soon as it can."""
    answers = False
    ask = Link.last_status

    async def asked(self: Link, topic: Topic[Any]) -> AsyncIterator[Any]:
        if not answers:
            raise Unavailable("nobody answers")
        async for found in ask(self, topic):
            yield found

    async with running(nats_server) as service:
        await listener.resolved(0)
        monkeypatch.setattr(Link, "last_status", asked)
        service._ruling._awake_at -= 60
        last = await listener.put(WEB1)
        await eventually(lambda: service._graph.sequencer.revision == last)
        answers = True
        await listener.resolved(last)
        await assert_hosts(listener, State("", {}).with_("", WEB1))
