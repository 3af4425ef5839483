"""A graph and the hosts that listen to it, held against the oracle."""

from collections.abc import Iterable

from hopwall_calc.graph import Graph
from hopwall_calc.nodes import bgp as daemons
from hopwall_calc.sequencer import Output
from hopwall_calc.settings import Routing
from hopwall_model.events import Event
from hopwall_model.status import Moved, MovedHere
from tests.support.fold import FoldedHost, HostState
from tests.support.oracle import Oracle
from tests.support.oracle_moves import Arrivals
from tests.support.states import State


class Cloud:
    """Takes steps, delivers what they send, checks every host."""

    def __init__(self, *, routing: Routing = "direct", recompute_all: bool = False) -> None:
        self._routing = routing
        self._recompute_all = recompute_all
        self.graph = Graph("epoch-1", routing=routing)
        self.hosts: dict[str, FoldedHost] = {}
        self.revision = 0
        self.reported = -1
        #: Host → what it says has arrived.
        self.arrivals: Arrivals = {}
        # The epoch opens on nothing, as it does for a cloud that grows while calc runs.
        self.deliver(self.graph.flush())

    def step(self, events: Iterable[Event]) -> Output:
        """Take in the events, flush once, deliver."""
        for event in events:
            self.revision += 1
            self.graph.on_event(event, self.revision)
        output = self.graph.flush(recompute_all=self._recompute_all)
        return self.deliver(output)

    def arrive(self, host: str, *arrived: tuple[str, str]) -> Output:
        """Let a host say which (endpoint, migration) have arrived there, all of them; flush and deliver."""
        self.arrivals[host] = set(arrived)
        found = tuple(MovedHere(endpoint, migration) for endpoint, migration in arrived)
        self.graph.on_moved(Moved(host=host, arrived=found))
        return self.deliver(self.graph.flush(recompute_all=self._recompute_all))

    def deliver(self, output: Output | None) -> Output:
        """Deliver as NATS would: shared pieces to all who listen, then each host's batch."""
        if output is None:
            return Output(first=self.reported + 1, revision=self.reported)
        assert output.first in (0, self.reported + 1, output.revision)
        self.reported = output.revision
        assert output.hosts == tuple(batch.host for batch in output.batches)
        for update in output.shared:
            for host in self.hosts.values():
                host.on_shared(update)
        for batch in output.batches:
            if batch.host not in self.hosts:
                self.hosts[batch.host] = FoldedHost(batch.host, self.graph.snapshot)
                self.hosts[batch.host].epoch = batch.epoch
            self.hosts[batch.host].on_batch(batch)
        return output

    def _stranger(self) -> HostState:
        """Return what a host must enforce that nobody knows any more."""
        return HostState(bgp=daemons.NOTHING if self._routing == "bgp" else None)

    def check(self, state: State, where: str) -> None:
        """Compare every host with the oracle, and its snapshot with what it has folded."""
        bgp = self._routing == "bgp"
        oracle = Oracle(state.resources, bgp=bgp, arrivals=self.arrivals)
        names = oracle.hosts()
        for name in names - self.hosts.keys():
            assert oracle.state(name) == HostState(), f"{where}: {name} was told nothing"
        assert self.graph.nodes.tierless.facts().keys() == oracle.tierless(), where
        for name, host in self.hosts.items():
            wanted = oracle.state(name) if name in names else self._stranger()
            assert host.state() == wanted, f"{where}: {name}"
            fresh = FoldedHost(name, self.graph.snapshot)
            fresh.on_batch(self.graph.snapshot(name))
            assert fresh.state() == wanted, f"{where}: snapshot of {name}"
