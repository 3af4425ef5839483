"""Known-bad ways of doing it, each switched on in an otherwise right world: the simulator must see them all."""

from collections.abc import Callable, Mapping, Sequence
from unittest.mock import patch

from hopwall_api import progress
from hopwall_dataplane.agent import Agent
from hopwall_dataplane.changeover import Changeover
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.guard import Guard
from hopwall_dataplane.ipsets.elements import AddElements, DelElements, SetOp
from hopwall_dataplane.iptables.static import from_set, to_set
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction
from hopwall_dataplane.outcome import Done, Family, Outcome, Retry
from hopwall_model.epochs import Succession
from tests.simulator.world import World
from tests.support.fake_iptables import FakeChain
from tests.support.fake_kernel import FakeHost

_IDENTITY = frozenset(name(family) for family in Family for name in (from_set, to_set))


def flush_then_restore(world: World) -> None:
    """Empty the chains that change before they are written again."""
    for host in world.hosts.values():
        for restore in host.kernel.restores.values():
            right = restore.apply

            async def wrong(
                tx: Transaction,
                *,
                timeout_s: float | None = None,
                kernel: FakeHost = host.kernel,
                family: Family = restore.family,
                right: Callable[[Transaction], object] = right,
            ) -> Applied | Failed | Retry:
                tables = kernel.tables[family].tables
                empty = {w.name: FakeChain("-") for w in tx.writes if w.name in tables[tx.table]}
                tables[tx.table] = {**tables[tx.table], **empty}
                kernel.settled()
                return await right(tx)  # type: ignore[misc, no-any-return]

            restore.apply = wrong  # type: ignore[method-assign]


def set_after_rule(world: World) -> None:
    """Fill the sets that rules name only when the rules stand."""
    for host in world.hosts.values():
        _fill_late(host.kernel)


def _fill_late(kernel: FakeHost) -> None:
    late: list[SetOp] = []
    right = kernel.sets.apply

    def wrong(ops: Sequence[SetOp]) -> list[Outcome]:
        held = [op for op in ops if isinstance(op, AddElements) and op.spec.name not in _IDENTITY]
        late.extend(held)
        outcomes = iter(right([op for op in ops if op not in held]))
        return [Done() if op in held else next(outcomes) for op in ops]

    def routes(ops: Sequence[object], right_routes: Callable[..., list[Outcome]]) -> list[Outcome]:
        right(late)
        late.clear()
        return right_routes(ops)

    kernel.sets.apply = wrong  # type: ignore[method-assign]
    right_routes = kernel.routes.apply
    kernel.routes.apply = lambda ops: routes(ops, right_routes)  # type: ignore[method-assign]
    right_settled = kernel.settled

    def settled() -> None:
        right_settled()
        if late and kernel.names(late[0].spec.name):  # type: ignore[union-attr]
            waiting, late[:] = list(late), []
            right(waiting)

    kernel.settled = settled


class _Credulous(Guard):
    def admits(self, *_: object) -> bool:
        return True


def snapshot_believed(world: World) -> None:
    """Obey every snapshot, however little is in it."""

    def on_agent(agent: Agent) -> None:
        agent.guard = _Credulous()

    world.on_agent = on_agent


def no_gate(world: World) -> None:
    """Let an agent write before it has its first snapshot."""

    def on_agent(agent: Agent) -> None:
        agent.progress.armed = agent.progress.in_sync = True
        agent.look_again()

    world.on_agent = on_agent


def watch_as_truth(world: World) -> None:
    """Let calc go on after a broken connection as if nothing had been missed."""
    world.calc_watches = True


def members_as_they_come(world: World) -> None:
    """Let members come into sets first and go out of them last, with nobody closed but whose own class changes."""
    world.during = lambda: patch("hopwall_dataplane.kernel.change_over", _as_they_come)


def _as_they_come(
    desired: Desired, tables: Mapping[tuple[Family, TableName], TableState]
) -> Changeover:
    moving = desired.members.moving().values()
    cidrs = frozenset(cidr for comes, goes in moving for cidr in comes | goes)
    everybody = bool(desired.chains.rewritten(tables))
    closings = desired.identity.plan_closings(set(), cidrs, everybody=everybody)
    goes = [op for op in desired.members.plan_removals() if isinstance(op, DelElements)]
    return Changeover(closings, [*desired.members.plan_additions(), *goes], frozenset())


def who_was_heard_is_all(world: World) -> None:
    """Let an api that does not know whom a write concerns take the hosts it has heard for all that there are."""
    right = progress._programmed
    world.during = lambda: patch.object(
        progress,
        "_programmed",
        lambda n, late, failed, sure, speech: right(n, late, failed, sure or n > 0, speech),
    )


def no_compare_and_set(world: World) -> None:
    """Let the stream store a write whatever it was to replace: two replicas of the api undo each other."""
    world.compares = False


class _Faithless(Succession):
    def obeys(self, *_: object) -> bool:
        return True


def whoever_speaks(world: World) -> None:
    """Let agents obey any calc that speaks, also one that another has deposed."""

    def on_agent(agent: Agent) -> None:
        agent.feed.succession = _Faithless()

    world.on_agent = on_agent


SWITCHES: tuple[Callable[[World], None], ...] = (
    flush_then_restore,
    set_after_rule,
    snapshot_believed,
    no_gate,
    watch_as_truth,
    no_compare_and_set,
    members_as_they_come,
    who_was_heard_is_all,
    whoever_speaks,
)
