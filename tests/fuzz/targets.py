"""Where text of others comes in: each place with good inputs, a way to break them, and what must hold.

A target's `run` returns for whatever bytes there are; anything it raises is a fault: of a parser that raises
other than it says, or of a law that does not hold for what was accepted.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from hopwall_api.settings import ApiSettings, parse_listen
from hopwall_calc.graph import Graph
from hopwall_calc.settings import CalcSettings
from hopwall_cli import documents
from hopwall_cli.errors import Failure
from hopwall_dataplane.bgp import parse as bird
from hopwall_dataplane.conntrack.carry import taken
from hopwall_dataplane.conntrack.codec import creation_message
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.failsafe import FailsafeError, parse_failsafe
from hopwall_dataplane.feed import AskAgain, Feed, Step
from hopwall_dataplane.iptables import counters
from hopwall_dataplane.iptables import parse as saved
from hopwall_dataplane.moves.frames import is_sign
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.residents import packed
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model import codec, selectors, topics
from hopwall_model.flows import CarriedFlows
from hopwall_model.validate import Invalid, admit
from hopwall_runtime.config import ConfigError, load
from tests.dataplane.moves.test_frames import OTHERS, SIGNS
from tests.fuzz import mutate, seeds
from tests.fuzz.mutate import Mutate
from tests.proof.pipeline import SETTINGS, sets_text, tables_text

_decode_flows = codec.decoder(CarriedFlows)

#: Services that remember are made anew after so many inputs.
_LIFE = 300


@dataclass(frozen=True)
class Target:
    """One way in."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    mutate: Mutate


def selector(data: bytes) -> None:
    """A selector is refused, or means the same when it is written canonically."""
    with contextlib.suppress(selectors.SelectorError):
        meant = selectors.parse(data.decode(errors="surrogateescape"))
        try:
            again = selectors.parse(selectors.canonical(meant))
        except selectors.SelectorError as error:
            raise AssertionError("a canonical form is refused") from error
        assert again == meant


def resource(data: bytes) -> None:
    """A resource is refused, or its canonical form is admitted as it is."""
    with contextlib.suppress(Invalid):
        admitted = admit(data)
        try:
            again = admit(codec.encode(admitted))
        except Invalid as invalid:
            raise AssertionError("a canonical form is refused") from invalid
        assert again == admitted


def document(data: bytes) -> None:
    """A file of a user is refused in a sentence, or is a list of objects that JSON can say."""
    with contextlib.suppress(Failure):
        for one in documents.load_text(data.decode(errors="replace"), "given.yaml"):
            json.dumps(one.value, allow_nan=False)


class _Cloud:
    """calc, for as many events as it lives."""

    def __init__(self) -> None:
        self.graph = Graph("epoch", routing="bgp")
        self.revision = 0

    def event(self, data: bytes) -> None:
        """Take in an event that can be decoded."""
        with contextlib.suppress(codec.CodecError):
            event = topics.EVENT.decode(data)
            self.revision += 1
            self.graph.on_event(event, self.revision)
            self.graph.flush()
            self.graph.take_failures()


class _Host:
    """A host's feed and fold, for as many messages as it lives."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.desired = Desired("h1", SETTINGS, (Family.V4, Family.V6), "169.254.1.1")
        names = ("tap1", "tap2", "eth0")
        self.desired.set_links({n: LinkState(i, True) for i, n in enumerate(names, 1)})

    def message(self, data: bytes) -> None:
        """Take in a batch or a shared piece, and print what the kernel would be fed."""
        found: list[Step | AskAgain] = []
        with contextlib.suppress(codec.CodecError):
            batch = topics.HOST_BATCH.decode(data)
            self.feed = Feed()
            found += self.feed.on_batch(batch)
        with contextlib.suppress(codec.CodecError):
            found += self.feed.on_shared(topics.SHARED.decode(data))
        for one in found:
            if isinstance(one, Step):
                self.desired.apply(one)
                self.print_all()

    def print_all(self) -> None:
        """Say it as the tools would be told."""
        sets_text(self.desired.members)
        for family in Family:
            tables_text(self.desired, family)


def _living(make: Callable[[], Callable[[bytes], None]]) -> Callable[[bytes], None]:
    """Return what feeds one that remembers, and takes a new one after its life."""
    life: list[Callable[[bytes], None]] = []
    age = 0

    def run(data: bytes) -> None:
        nonlocal age
        if age % _LIFE == 0:
            life[:] = [make()]
        age += 1
        life[0](data)

    return run


def message(data: bytes) -> None:
    """Any message of the bus decodes, or says that it does not."""
    for topic in topics.TOPICS:
        with contextlib.suppress(codec.CodecError):
            topic.decode(data)


def save(data: bytes) -> None:
    """What the tools print is read, whatever it is."""
    text = data.decode(errors="replace")
    saved.parse_save(text)
    saved.classify(text, 1)
    counters.read_counts(text)


def answer(data: bytes) -> None:
    """An answer of BIRD is read, or is none."""
    text = data.decode(errors="replace")
    bird.config_fault(text)
    with contextlib.suppress(ValueError):
        said = bird.reply(text.split("\n"))
        bird.daemon(said)
        bird.evaluated(said)
        bird.sessions(said, {"hw_abcdefghijklmnop": "h2"})


def settings(data: bytes) -> None:
    """A setting is refused in a sentence, or is what the service can work with."""
    name, _, text = data.decode(errors="replace").partition("=")
    environ = {f"HOPWALL_{name.upper()}": text}
    for type_ in (ApiSettings, CalcSettings, DataplaneSettings):
        with contextlib.suppress(ConfigError):
            given = load(type_, argv=[], environ=environ, program="p")
            if isinstance(given, DataplaneSettings):
                given.check()
    with contextlib.suppress(ConfigError):
        parse_listen(text)
    with contextlib.suppress(FailsafeError):
        parse_failsafe(text)


_VM = frozenset({"10.65.0.5/32", "fd65::5/128"})


def frame(data: bytes) -> None:
    """What a workload sends is a sign of its arrival, or is none."""
    if is_sign(data, _VM):
        assert len(data) >= 42
        assert data[12:14] in (b"\x08\x06", b"\x80\x35", b"\x86\xdd")


def flows(data: bytes) -> None:
    """Of what another host says of flows, only those of the workload's own addresses are made."""
    with contextlib.suppress(codec.CodecError):
        own = {packed(cidr) for cidr in _VM | {"10.65.0.21/32"}}
        for flow in taken(_decode_flows(data).flows, own, lambda _: False):
            assert own & {flow.source, flow.destination}
            assert creation_message(flow)


@cache
def all_targets() -> dict[str, Target]:
    """Return every way in, by name."""
    carried = seeds.golden("carried-flows")
    events, batches = seeds.events(), seeds.golden("host-batch", "shared-")
    found = (
        Target("selector", selector, seeds.SELECTORS, mutate.words),
        Target("resource", resource, seeds.documents(), mutate.json_values(seeds.documents())),
        Target("document", document, seeds.files(), mutate.words),
        Target("event", _living(lambda: _Cloud().event), events, mutate.json_values(events)),
        Target("update", _living(lambda: _Host().message), batches, mutate.json_values(batches)),
        Target("message", message, seeds.golden(""), mutate.json_values(seeds.golden(""))),
        Target("frame", frame, (*SIGNS.values(), *OTHERS.values()), mutate.any_bytes),
        Target("flows", flows, carried, mutate.json_values(carried)),
        Target("save", save, seeds.saves(), mutate.words),
        Target("answer", answer, seeds.ANSWERS, mutate.words),
        Target("settings", settings, seeds.SETTINGS, mutate.words),
    )
    return {target.name: target for target in found}
