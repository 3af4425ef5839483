"""What each credential may do on a real nats-server: its own work, and nothing else."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hopwall_api.agent import Api
from hopwall_calc.service import CalcService
from hopwall_calc.settings import CalcSettings
from hopwall_cli.nats_server import NatsServer
from hopwall_cli.pki.folder import PkiFolder
from hopwall_model import codec, topics
from hopwall_model.counts import HostRules, RulesRequest
from hopwall_model.events import ResourceSet
from hopwall_model.flows import FlowsRequest
from hopwall_model.permissions import User
from hopwall_model.resources import Key, Metadata, Node
from hopwall_model.status import Drift, HostStatus
from hopwall_model.updates import EndpointId, HostBatch, SnapshotRequest
from hopwall_runtime.link import Append, Link, Unavailable
from tests.security.conftest import API, AUDITOR, CALC, H1, H2, Connect, gets_in, settings_of

pytestmark = pytest.mark.nats

NODE = Key("Node", "", "h2")
EVENT = topics.event_subject(NODE)
AT = "2026-01-01T00:00:00Z"
E, S = topics.EVENTS_STREAM, topics.STATUS_STREAM


@dataclasses.dataclass(frozen=True)
class Try:
    """One thing that a credential might try."""

    verb: str
    subject: str
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def subscribe(*subjects: str) -> list[Try]:
    """Return tries to listen."""
    return [Try("subscribe", subject) for subject in subjects]


def publish(*subjects: str, **headers: str) -> list[Try]:
    """Return tries to speak."""
    return [Try("publish", subject, headers=headers) for subject in subjects]


def ask(subject: str, body: Any = None) -> Try:
    """Return a try to use JetStream's interface."""
    return Try("ask", f"$JS.API.{subject}", body)


#: Of host h1: everything that is another host's, the api's, calc's, the auditor's or the server's.
FOREIGN = [
    # Listen to what is for others.
    *subscribe(
        ">", "hopwall.>", "hopwall.update.host.h2", "hopwall.update.host.*", "hopwall.update.>"
    ),
    *subscribe("hopwall.event.>", EVENT, "hopwall.rules.h2", "hopwall.rules.*"),
    *subscribe("hopwall.snapshot.h2", "hopwall.snapshot.h1", "hopwall.snapshot.*"),
    *subscribe("hopwall.status.host.h2", "hopwall.status.>", "hopwall.status.calc"),
    *subscribe("hopwall.drift.h2", "hopwall.drift.*", "hopwall.rejected.>"),
    *subscribe("_INBOX.>", "_INBOX.host.h2.>", "_INBOX.host.*.>", "_INBOX.api.>", "_INBOX.calc.>"),
    *subscribe("$JS.API.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "$SYS.ACCOUNT.*.CONNECT"),
    # Speak for others.
    *publish("hopwall.update.host.h2", "hopwall.update.host.h1", "hopwall.update.shared.set.x"),
    *publish("hopwall.status.host.h2", "hopwall.status.calc", "hopwall.drift.h2"),
    *publish("hopwall.snapshot.h2", "hopwall.rules.h1", "hopwall.rules.h2"),
    *publish("hopwall.rejected.dataplane-h2", "hopwall.rejected.calc", "hopwall.rejected.api"),
    *publish("_INBOX.host.h2.x", "_INBOX.api.x", "_INBOX.calc.x", "_INBOX.host.h1.x"),
    # Write intent, as a message, as a part of a batch, by the back doors of the server.
    *publish(EVENT, "hopwall.event.tier._.x"),
    *publish(EVENT, **{topics.HDR_BATCH_ID: "b", topics.HDR_BATCH_SEQ: "1"}),
    *publish(EVENT, **{"Nats-Rollup": "all"}),
    *publish(EVENT, **{"Nats-Expected-Last-Subject-Sequence": "0"}),
    # Use the server.
    ask("INFO"),
    ask("STREAM.NAMES"),
    ask("STREAM.LIST"),
    ask(f"STREAM.INFO.{E}"),
    ask(f"STREAM.INFO.{S}"),
    ask(f"STREAM.CREATE.{E}", {"name": E, "subjects": ["hopwall.event.>"]}),
    ask("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["hopwall.rules.>"]}),
    ask(f"STREAM.UPDATE.{E}", {"name": E, "subjects": ["hopwall.event.>"], "max_msgs": 1}),
    ask(f"STREAM.PURGE.{E}"),
    ask(f"STREAM.DELETE.{E}"),
    ask(f"STREAM.DELETE.{S}"),
    ask(f"STREAM.MSG.DELETE.{E}", {"seq": 1}),
    ask(f"STREAM.MSG.GET.{E}", {"last_by_subj": EVENT}),
    ask(f"DIRECT.GET.{E}", {"last_by_subj": EVENT}),
    ask(f"DIRECT.GET.{E}.{EVENT}"),
    ask(f"STREAM.SNAPSHOT.{E}", {"deliver_subject": "_INBOX.host.h1.s"}),
    ask(f"STREAM.RESTORE.{E}", {}),
    ask(f"CONSUMER.CREATE.{E}", {"stream_name": E, "config": {"deliver_subject": "_INBOX.host.h1.c"}}),
    ask(f"CONSUMER.CREATE.{E}.c.{EVENT}", {"stream_name": E, "config": {"name": "c"}}),
    ask(f"CONSUMER.DURABLE.CREATE.{E}.c", {"stream_name": E, "config": {"durable_name": "c"}}),
    ask(f"CONSUMER.CREATE.{S}", {"stream_name": S, "config": {"deliver_subject": "_INBOX.host.h1.c"}}),
    ask(f"CONSUMER.NAMES.{E}"),
    ask(f"CONSUMER.INFO.{E}.c"),
    ask(f"CONSUMER.DELETE.{E}.c"),
    ask(f"CONSUMER.MSG.NEXT.{E}.c"),
    Try("publish", f"$JS.ACK.{E}.c.1.1.1.1.0"),
    Try("publish", f"$JS.FC.{E}.c.1"),
    Try("ask", "$SYS.REQ.SERVER.PING"),
    Try("ask", "$SYS.REQ.USER.INFO"),
]  # fmt: skip

#: Of the auditor, who listens and does nothing.
AUDITORS = [
    *publish(EVENT, "hopwall.update.host.h1", "hopwall.status.host.h1", "hopwall.snapshot.h1"),
    *publish("hopwall.rules.h1", "hopwall.rejected.calc", "_INBOX.api.x"),
    *subscribe(">", "hopwall.update.>", "_INBOX.>", "_INBOX.host.h1.>"),
    ask(f"CONSUMER.CREATE.{E}", {"stream_name": E, "config": {"deliver_subject": EVENT}}),
    ask(f"STREAM.INFO.{E}"),
]

#: Of calc, which reads intent and writes none.
CALCS = [
    *publish(EVENT, "hopwall.event.tier._.x", "hopwall.status.host.h1", "hopwall.rules.h1"),
    *publish("_INBOX.api.x", "hopwall.snapshot.h1"),
    *subscribe("_INBOX.>", "_INBOX.api.>", "_INBOX.host.*.>", "hopwall.rules.*"),
    ask(f"STREAM.DELETE.{E}"),
    ask(f"STREAM.PURGE.{E}"),
    ask(f"STREAM.UPDATE.{E}", {"name": E}),
    ask(f"STREAM.MSG.DELETE.{E}", {"seq": 1}),
]

#: Of the api, which writes intent and no feeds.
APIS = [
    *publish("hopwall.update.host.h1", "hopwall.update.shared.set.x", "hopwall.status.host.h1"),
    *publish("_INBOX.host.h1.x", "hopwall.snapshot.h1", "hopwall.status.calc"),
    *subscribe("_INBOX.>", "_INBOX.host.*.>", "hopwall.update.>", "hopwall.snapshot.*"),
    ask(f"STREAM.DELETE.{E}"),
]


async def refused(link: Link, one: Try) -> bool:
    """Try it as a raw client would; tell whether the server names it in a violation."""
    nc: Any = link._nc
    heard: list[str] = []

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    nc._error_cb = on_error
    if one.verb == "subscribe":
        await nc.subscribe(one.subject)
        await nc.subscribe(one.subject, queue="q")
    else:
        body = b"" if one.body is None else json.dumps(one.body).encode()
        reply = nc.new_inbox() if one.verb == "ask" else ""
        await nc.publish(one.subject, body, reply=reply, headers=one.headers or None)
    await link.flush()
    kind = "subscription" if one.verb == "subscribe" else "publish"
    wanted = f'permissions violation for {kind} to "{one.subject.lower()}"'
    n = sum(wanted in text.lower() for text in heard)
    return n == (2 if one.verb == "subscribe" else 1)


async def stored(link: Link) -> dict[str, Any]:
    """Return what the two streams are and hold, save what counts consumers."""
    found = {}
    for name in (E, S):
        info = await link._js.stream_info(name)
        found[name] = (info.config, info.state.messages, info.state.last_seq)
    return found


@pytest.mark.parametrize(
    ("user", "tries"),
    [(H1, FOREIGN), (AUDITOR, AUDITORS), (CALC, CALCS), (API, APIS)],
    ids=["host", "auditor", "calc", "api"],
)
async def test_what_is_anothers_is_refused_each_time(
    connect: Connect, user: User, tries: list[Try]
) -> None:
    """The server names each of them in a violation, and nothing is stored, changed or heard."""
    api = await connect(API)
    await api.ensure_streams()
    await api.append([event(0)])
    before = await stored(api)
    link = await connect(user)
    let_through = [one for one in tries if not await refused(link, one)]
    assert let_through == []
    assert await stored(api) == before


async def test_the_judge_of_refusals_can_say_no(connect: Connect) -> None:
    """What a host may do is not called refused, so the test above can fail."""
    h1 = await connect(H1)
    for one in (
        *publish("hopwall.status.host.h1", "hopwall.snapshot.h1"),
        *subscribe("hopwall.update.shared.policy.x", "hopwall.update.host.h1", "_INBOX.host.h1.>"),
    ):
        assert not await refused(h1, one)


def test_more_than_thirty_verbs_are_tried() -> None:
    """A compromised host has many ways to try; they are different ones."""
    assert len({repr(one) for one in FOREIGN}) == len(FOREIGN)
    assert len(FOREIGN) >= 70


def event(expected: int) -> Append:
    """Return a write of intent."""
    body = codec.encode(ResourceSet(resource=Node(metadata=Metadata(name="h2"))))
    return Append(subject=EVENT, body=body, expected=expected, headers={topics.HDR_MSG_ID: "1"})


@pytest.mark.parametrize(
    "more",
    [
        {"reply": EVENT},
        {"reply": "hopwall.update.host.h2"},
        {"headers": {"Nats-Trace-Dest": EVENT}},
    ],
)
async def test_the_server_says_nothing_for_a_host_that_it_may_not_say_itself(
    connect: Connect, more: dict[str, Any]
) -> None:
    """An acknowledgement or a trace that a host's own status asks for reaches no subject of others."""
    api, h1, h2 = await connect(API), await connect(H1), await connect(H2)
    await api.ensure_streams()
    heard: list[Any] = []
    await h2.subscribe(topics.HOST_BATCH, "hopwall.update.host.h2", lambda v, _: heard.append(v))
    await h2.flush()
    nc: Any = h1._nc
    for subject in ("hopwall.status.host.h1", "hopwall.drift.h1", "hopwall.snapshot.h1"):
        await nc.publish(subject, b"{}", **more)
    await h1.flush()
    await asyncio.sleep(0.3)
    assert (await stored(api))[E][1:] == (0, 0)
    assert (heard, h2.rejected_messages) == ([], 0)


async def test_calc_answers_to_inboxes_alone(
    connect: Connect, pki: PkiFolder, secured: NatsServer
) -> None:
    """A host that asks for its snapshot with another's subject as the place of the answer gets none."""
    h1, h2 = await connect(H1), await connect(H2)
    async with _running_calc(pki, secured, await connect(API)):
        heard: list[Any] = []
        await h2.subscribe(
            topics.HOST_BATCH, "hopwall.update.host.h2", lambda v, _: heard.append(v)
        )
        # Clients count their inboxes: who has seen two of them knows the next.
        awaited = "_INBOX.host.h2.awaited"
        await h2.subscribe(topics.HOST_BATCH, awaited, lambda v, _: heard.append(v))
        await h2.flush()
        await _snapshot(h1, "h1")  # calc answers now
        nc: Any = h1._nc
        question = codec.encode(SnapshotRequest(host="h1"))
        for reply in ("hopwall.update.host.h2", EVENT, "hopwall.status.calc", "", awaited):
            await nc.publish("hopwall.snapshot.h1", question, reply=reply)
        await _snapshot(h1, "h1")  # answered after them
        await h2.flush()
        await asyncio.sleep(0.1)  # what has arrived is handed on
        assert [one for one in heard if one.host != "h2"] == []
        assert h2.rejected_messages == 0


async def test_a_host_answers_another_to_its_own_inbox_alone(connect: Connect) -> None:
    """A host that is asked for flows says nothing for who asks on a third's subject or inbox."""
    api, h1, h2 = await connect(API), await connect(H1), await connect(H2)
    await api.ensure_streams()
    await h2.serve_chunked(topics.FLOWS, "hopwall.flows.h2.*", lambda _, __: b"{}")
    heard: list[Any] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    nc: Any = api._nc
    await nc.subscribe("_INBOX.api.awaited", cb=note)
    await asyncio.gather(api.flush(), h2.flush())
    request = FlowsRequest(host="h1", endpoint=EndpointId("d/a"), migration="m")
    asker: Any = h1._nc
    for reply in ("_INBOX.api.awaited", EVENT, "hopwall.status.host.h2", ""):
        await asker.publish("hopwall.flows.h2.h1", codec.encode(request), reply=reply)
    assert await h1.request_chunked("hopwall.flows.h2.h1", request, timeout_s=60) == b"{}"
    await asyncio.gather(h2.flush(), api.flush())
    await asyncio.sleep(0.1)  # what has arrived is handed on
    assert heard == []
    assert (await stored(api))[E][1:] == (0, 0)


async def test_a_host_gets_no_snapshot_but_its_own(
    connect: Connect, pki: PkiFolder, secured: NatsServer
) -> None:
    """Asking on its own subject for another host is not answered."""
    h1 = await connect(H1)
    async with _running_calc(pki, secured, await connect(API)):
        assert (await _snapshot(h1, "h1")).host == "h1"
        with pytest.raises(Unavailable):
            await h1.request_chunked(
                "hopwall.snapshot.h1", SnapshotRequest(host="h2"), timeout_s=0.5
            )


async def test_everybody_can_do_his_own_work(
    connect: Connect, pki: PkiFolder, secured: NatsServer
) -> None:
    """Intent, snapshot, batches, scopes, statuses, rules, drift and audit work under these permissions."""
    api, h1, auditor = await connect(API), await connect(H1), await connect(AUDITOR)
    violations: list[str] = []
    for link in (api, h1, auditor):
        link._nc._error_cb = _noting(violations)
    heard: dict[str, list[Any]] = {"events": [], "drift": [], "statuses": [], "batches": []}
    await auditor.subscribe(topics.EVENT, topics.EVENT.pattern, _keep(heard["events"]))
    await auditor.subscribe(topics.DRIFT, topics.DRIFT.pattern, _keep(heard["drift"]))
    await auditor.subscribe(topics.REJECTED, topics.REJECTED.pattern, _keep([]))
    await api.subscribe(topics.HOST_STATUS, topics.HOST_STATUS.pattern, _keep(heard["statuses"]))
    await h1.subscribe(topics.HOST_BATCH, "hopwall.update.host.h1", _keep(heard["batches"]))
    await h1.subscribe(topics.SHARED, "hopwall.update.shared.policy.x", _keep([]))
    await h1.serve_chunked(topics.RULES, "hopwall.rules.h1", lambda _, __: _many_rules())
    for link in (auditor, api, h1):
        await link.flush()
    async with _running_calc(pki, secured, api):
        assert await api.append([event(0)])
        assert await api.append([event(1), dataclasses.replace(event(0), subject=EVENT + "b")])
        assert (await _snapshot(h1, "h1")).host == "h1"
        await h1.publish("hopwall.status.host.h1", _status("h1"))
        await h1.publish("hopwall.drift.h1", Drift(host="h1", object="", name="", detail="", at=AT))
        body = await api.request_chunked("hopwall.rules.h1", RulesRequest(), timeout_s=60)
        assert body == _many_rules()
        assert [s async for s, _ in api.last_status(topics.HOST_STATUS)] == [_status("h1")]
        async with asyncio.timeout(60):
            while not all(heard.values()):
                await asyncio.sleep(0.02)
    assert violations == []


async def test_a_host_cannot_speak_of_another_in_its_own_status(
    connect: Connect, pki: PkiFolder, secured: NatsServer
) -> None:
    """The api believes a status only on its host's own subject, live and from the stream."""
    link, h1, h2 = await connect(API), await connect(H1), await connect(H2)
    api = Api(link)
    await link.ensure_streams()
    await h1.publish("hopwall.status.host.h1", _status("h2"))
    await h1.flush()
    await api.catch_up_statuses()
    assert api.tracker.hosts == {}
    await link.subscribe(topics.HOST_STATUS, topics.HOST_STATUS.pattern, api._on_host)
    await link.flush()
    await h1.publish("hopwall.status.host.h1", _status("h2"))
    await h2.publish("hopwall.status.host.h2", _status("h2", revision=9))
    await h1.publish("hopwall.status.host.h1", _status("h2"))
    await h1.publish("hopwall.status.host.h1", _status("h1"))
    await asyncio.gather(h1.flush(), h2.flush())
    async with asyncio.timeout(60):
        while set(api.tracker.hosts) != {"h1", "h2"}:
            await asyncio.sleep(0.02)
    assert api.tracker.hosts["h2"].revision == 9


@pytest.mark.parametrize("case", ["no key", "stranger", "no tls", "other ca"])
async def test_who_has_no_credential_does_not_get_in(
    pki: PkiFolder, secured: NatsServer, tmp_path: Path, case: str
) -> None:
    """No anonymous user, no unknown key, no plain text; and we trust no server of another authority."""
    other = PkiFolder(tmp_path / "other")
    other.make(hosts=["h1"])
    settings = settings_of(pki, secured, H1)
    stranger = settings_of(other, secured, H1)
    settings = {
        "no key": replace(settings, nats_nkey_file=""),
        "stranger": replace(settings, nats_nkey_file=stranger.nats_nkey_file),
        "no tls": replace(settings, nats_ca_file=""),
        "other ca": replace(settings, nats_ca_file=stranger.nats_ca_file),
    }[case]
    assert not await gets_in(Link("dataplane", "h1"), settings)


async def test_a_server_in_between_cannot_talk_us_out_of_tls(
    pki: PkiFolder, tmp_path: Path
) -> None:
    """With an authority set, nothing is said to a server that greets without TLS."""
    said = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1000}\r\n')
        said.extend(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    middle = NatsServer(listen=f"127.0.0.1:{port}", folder=tmp_path)
    link = Link("dataplane", "h1")
    connecting = asyncio.get_running_loop().create_task(link.connect(settings_of(pki, middle, H1)))
    async with asyncio.timeout(60):
        while not said:
            await asyncio.sleep(0.02)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connecting, 1.5)
    await link.close()
    server.close()
    assert said[:1] == b"\x16", "the first byte of ours begins a handshake"
    assert b"CONNECT" not in said


# ---------------------------------------------------------------- helpers


def _keep(where: list[Any]) -> Callable[[Any, str], None]:
    return lambda value, _: where.append(value)


def _noting(where: list[str]) -> Callable[[Exception], Awaitable[None]]:
    async def note(error: Exception) -> None:
        where.append(str(error))

    return note


def _status(host: str, revision: int = 1) -> HostStatus:
    return HostStatus(
        host=host, epoch="e", revision=revision, received=revision, in_sync=True, at=AT
    )


def _many_rules() -> bytes:
    """Return an answer of several chunks."""
    return codec.encode(HostRules(host="h1", at=AT, failure="x" * 1_200_000))


async def _snapshot(link: Link, host: str) -> HostBatch:
    for _ in range(20):
        try:
            body = await link.request_chunked(
                topics.snapshot_subject(host), SnapshotRequest(host=host), timeout_s=5
            )
            return topics.HOST_BATCH.decode(body)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("calc does not answer")


@asynccontextmanager
async def _running_calc(pki: PkiFolder, server: NatsServer, api: Link) -> AsyncIterator[None]:
    """Run calc with its own credential."""
    await api.ensure_streams()
    common = settings_of(pki, server, CALC)
    fields = {name: getattr(common, name) for name in common.__struct_fields__}
    service = CalcService(CalcSettings(**fields, heartbeat_s=0.2), Link("calc"))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(service.run())
        try:
            yield
        finally:
            task.cancel()
