"""calc's messages, as a bad network delivers them, against the dataplane's own feed and fold."""

from hypothesis import given
from hypothesis import strategies as st

from hopwall_calc.graph import Graph
from hopwall_calc.sequencer import Output
from hopwall_calc.settings import Routing
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import AskAgain, Feed, Step
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.resources import Resource, key_of
from hopwall_model.updates import HostBatch, SharedUpdate
from tests.dataplane.test_desired import picture
from tests.properties.test_calc_machine import HOSTS, resources

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))


class Agent:
    """One host's agent without a kernel: feed and fold, and a snapshot whenever it asks."""

    def __init__(self, host: str, graph: Graph) -> None:
        self.host = host
        self.n_snapshots = 0
        self._graph = graph
        self._feed = Feed()
        self.desired = Desired(host, SETTINGS, (Family.V4, Family.V6), "169.254.1.1")
        taps = sorted(f"tap-{name}" for name in ("one", "two", "three"))
        links = {name: LinkState(index=i, up=True) for i, name in enumerate(taps, start=2)}
        links["eth0"] = LinkState(index=9, up=True, addresses=frozenset(["192.0.2.1"]))
        self.desired.set_links(links)
        self.ask()

    def ask(self) -> None:
        """Fetch a snapshot from calc."""
        self.n_snapshots += 1
        self._apply(self._feed.on_batch(self._graph.snapshot(self.host)))

    def take(self, message: HostBatch | SharedUpdate) -> None:
        """Take one message."""
        if isinstance(message, HostBatch):
            self._apply(self._feed.on_batch(message))
        elif message.piece.scope in self._feed.needed:  # else it is not subscribed
            self._apply(self._feed.on_shared(message))

    def settle(self) -> None:
        """Take a heartbeat, and lose patience with what still waits."""
        self.take(self._graph.sequencer.heartbeat(self.host))
        if self._feed.waiting_for:
            self.ask()

    def _apply(self, found: list[Step | AskAgain] | list[Step] | AskAgain) -> None:
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, AskAgain):
                self.ask()
                return
            self.desired.apply(one)


def messages(output: Output, host: str) -> list[HostBatch | SharedUpdate]:
    """Return what a host would be sent, in calc's order."""
    return [*output.shared, *(batch for batch in output.batches if batch.host == host)]


routings: st.SearchStrategy[Routing] = st.sampled_from(["direct", "bgp"])


@st.composite
def lives(draw: st.DrawFn) -> list[list[Event]]:
    """Draw the flushes of a cloud's life: each a few resources set or removed."""
    known: dict[object, Resource] = {}
    flushes = []
    for _ in range(draw(st.integers(1, 8))):
        events: list[Event] = []
        for _ in range(draw(st.integers(1, 3))):
            if known and draw(st.integers(0, 3)) == 0:
                key = draw(st.sampled_from(sorted(known, key=str)))
                events.append(ResourceRemoved(key=key_of(known.pop(key))))
            else:
                resource = draw(resources)
                known[key_of(resource)] = resource
                events.append(ResourceSet(resource=resource))
        flushes.append(events)
    return flushes


@given(
    lives(),
    st.lists(st.sampled_from(["lose", "twice", "late", "ok", "ok", "ok"]), max_size=60),
    routings,
)
def test_whatever_the_network_does_the_host_ends_where_a_snapshot_would(
    life: list[list[Event]], fates: list[str], routing: Routing
) -> None:
    """Lost, doubled and late messages change nothing but how often a host must ask."""
    graph = Graph("e1", routing=routing)
    graph.flush()
    agents = [Agent(host, graph) for host in HOSTS]
    fate = iter(fates)
    revision = 0
    for events in life:
        for event in events:
            revision += 1
            graph.on_event(event, revision)
        output = graph.flush()
        assert output is not None
        for agent in agents:
            late: list[HostBatch | SharedUpdate] = []
            for message in messages(output, agent.host):
                match next(fate, "ok"):
                    case "lose":
                        continue
                    case "late":
                        late.append(message)
                    case "twice":
                        agent.take(message)
                        agent.take(message)
                    case _:
                        agent.take(message)
            for message in late:
                agent.take(message)
    for agent in agents:
        agent.settle()
        fresh = Agent(agent.host, graph)
        assert picture(agent.desired) == picture(fresh.desired)


@given(lives(), routings)
def test_on_a_good_network_nobody_asks_twice(life: list[list[Event]], routing: Routing) -> None:
    """When every message arrives, the first snapshot is the only one."""
    graph = Graph("e1", routing=routing)
    graph.flush()
    agents = [Agent(host, graph) for host in HOSTS]
    revision = 0
    for events in life:
        for event in events:
            revision += 1
            graph.on_event(event, revision)
        output = graph.flush()
        assert output is not None
        for agent in agents:
            for message in messages(output, agent.host):
                agent.take(message)
            agent.settle()
    assert [agent.n_snapshots for agent in agents] == [1, 1, 1]
