"""All drivers of one host behind two calls: read what is stale, apply what is pending in the safe order.

Adds:    sets → chains → identities (whose address is whose) → routes.
Removes: identities → members (among those that come, in an order that opens nothing: `changeover`) → routes; later,
when nothing refers to them, chains → sets (`sweep`).

A phase that fails holds back the phases that depend on it: an endpoint gets its route only after its chains
stand. What the kernel refuses closes that object alone and is reported; nothing else waits for it.
Refuses to decide what is desired.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from msgspec import structs

from hopwall_dataplane import drift
from hopwall_dataplane.as_of import AS_OF, AsOf
from hopwall_dataplane.chains import POLICY_PREFIXES
from hopwall_dataplane.changeover import change_over, in_time
from hopwall_dataplane.classes import class_chain, numbers_in
from hopwall_dataplane.conntrack.revocation import Revocation
from hopwall_dataplane.delta import ABSENT
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.drift import Found
from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import DestroySet, SetOp
from hopwall_dataplane.ipsets.plan import AddressSets, standing
from hopwall_dataplane.iptables.dead import DeadLines
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.lint import suspicious
from hopwall_dataplane.iptables.plan import plan_table, plan_wall
from hopwall_dataplane.iptables.quarantine import closed
from hopwall_dataplane.iptables.render_policy import DIRECTIONS
from hopwall_dataplane.iptables.static import IDENTITY_SETS, TABLES
from hopwall_dataplane.iptables.stub import stub_of
from hopwall_dataplane.iptables.table import TableKey, TableName, TableState
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction, record
from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sysctl import SetSysctl
from hopwall_dataplane.outcome import Family, Outcome, Refused, Retry, Turn
from hopwall_dataplane.routes import plan as route_plan
from hopwall_dataplane.routes.driver import RouteDriver
from hopwall_dataplane.routes.route import DeleteRoute, ReplaceRoute, RouteKey, RouteOp
from hopwall_dataplane.senders import check_senders
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_model.names import TEMPORARY_SUFFIX
from hopwall_runtime import clock

log = logging.getLogger(__name__)

#: Long enough for the kernel to let go of what freed lines named, and for a burst of changes to pass: a
#: transaction that frees lines makes the next one wait (8-24 ms).
SWEEP_AFTER_S = 0.25


@dataclass(slots=True)
class Kernel:
    """The drivers, what they last said, and which of them are in doubt.

    Owner: the agent's one task.
    """

    desired: Desired
    restores: dict[Family, Restore]
    sets: IpsetDriver
    routes: RouteDriver
    interfaces: InterfaceSetup
    #: None where established flows go on whatever policy says.
    flows: Revocation | None = None
    #: Of which state what is written is.
    as_of: AsOf = field(default_factory=AsOf)
    stale: set[Stale] = field(default_factory=lambda: set(Stale))
    #: Single tables and sets that are in doubt, though their subsystems are not.
    doubted: Doubts = field(default_factory=Doubts)
    #: Held around a transaction of this many lines, by whoever listens to what is written.
    hush: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()
    #: Where routes of ours stood until others took their place.
    _usurped: set[RouteKey] = field(default_factory=set)
    #: What the kernel refused, and why: chains, which are closed instead, and sysctls.
    _refused_chains: dict[tuple[Family, TableName, str], str] = field(default_factory=dict)
    _refused_sysctls: dict[str, str] = field(default_factory=dict)
    _tables: dict[tuple[Family, TableName], TableState] = field(default_factory=dict)
    _compare_all: set[tuple[Family, TableName]] = field(default_factory=set)
    #: Chains no longer wanted: since the last sweep, and those that nothing names since then.
    _later: dict[tuple[Family, TableName], set[str]] = field(default_factory=dict)
    _doomed: dict[tuple[Family, TableName], set[str]] = field(default_factory=dict)
    _dead: DeadLines = field(default_factory=DeadLines)
    #: Digests of the classes to which no way leads any more.
    _retired: set[str] = field(default_factory=set)
    _read_once: set[Stale] = field(default_factory=set)
    _sweep_at: float | None = None

    # ------------------------------------------------------------ reading

    async def resync(self) -> list[Found]:
        """Read every stale subsystem again; return what others had changed of ours.

        Errors: OSError when the kernel cannot be read; the subsystem stays stale.
        """
        doubted, found = self.doubted, list[Found]()
        self.doubted = Doubts(routes=doubted.routes)
        if Stale.SETS in self.stale:
            found += self._resync_sets()
        elif doubted.sets:
            found += self._resync_some_sets(doubted.sets)
        if found:  # what was refused for want of a set is tried again, once that is there
            self._compare_all |= {(family, table) for family, table, _ in self._refused_chains}
        if Stale.TABLES in self.stale:
            found += await self._resync_tables([(f, t) for f in self.restores for t in TABLES])
            self._trust(Stale.TABLES)
        elif doubted.tables:
            found += await self._resync_tables(sorted(doubted.tables))
        if Stale.ROUTES in self.stale:
            found += self._resync_routes()
        if Stale.SYSCTLS in self.stale or doubted.links:
            found += self._resync_sysctls(doubted.links)
        return found

    def doubt(self, doubts: Doubts) -> None:
        """Have this read again at the next `resync`."""
        self.stale |= doubts.whole
        self.doubted.add(replace(doubts, whole=set()))

    def _resync_sets(self) -> list[Found]:
        content = self.sets.read()
        found = []
        for sets in (self.desired.identity, self.desired.members, self.as_of.sets):
            part = {n: held for n, held in content.items() if self._sets_of(n) is sets}
            if Stale.SETS in self._read_once:
                found += drift.in_sets(sets, part)
            sets.replace_actual(part)
        self._trust(Stale.SETS)
        return found

    def _resync_some_sets(self, names: set[str]) -> list[Found]:
        content, found = self.sets.read(names), list[Found]()
        for name in sorted(names):
            sets = self._sets_of(name)
            found += drift.in_sets(sets, content, {name})
            sets.replace_one(name, *content.get(name, (ABSENT, {})))
        return found

    async def _resync_tables(self, keys: Sequence[TableKey]) -> list[Found]:
        found = []
        # All at once: whoever flushed everything left everything open.
        states = await asyncio.gather(*(self.restores[f].read(table) for f, table in keys))
        for (family, table), state in zip(keys, states, strict=True):
            if isinstance(state, Retry):
                self.stale.add(Stale.TABLES)
                raise OSError(state.reason)
            key = (family, table)
            if Stale.TABLES in self._read_once:
                found += drift.in_table(family, table, self._tables[key], state)
            self._tables[key] = state
            self._compare_all.add(key)
            self.desired.classes.remember(numbers_in(state.chains))
        return found

    def _resync_sysctls(self, links: set[int]) -> list[Found]:
        every = Stale.SYSCTLS in self.stale
        indices = {n: i for n, i in self.desired.link_indices.items() if every or i in links}
        differing = self.interfaces.look_again(indices)
        found = [
            Found("sysctl", op.name, f"was set to {value}; it must be {op.value}")
            for op, value in differing
            if op.name not in self._refused_sysctls
        ]
        if every:
            self._refused_sysctls.clear()
            self.stale.discard(Stale.SYSCTLS)
        self.desired.interfaces_touched |= bool(found) or every
        self.desired.destinations.touched |= indices.keys() if found or every else set()
        return found

    def _resync_routes(self) -> list[Found]:
        # Ours go where others were put beside them, which no reading tells, and the place is taken anew.
        beside = self.doubted.take(Stale.ROUTES).routes
        self.routes.apply([DeleteRoute(key) for key in sorted(beside) for _ in range(2)])
        actual, found = self.routes.read(), list[Found]()
        if Stale.ROUTES in self._read_once:
            wanted = self.desired.routes.desired  # what is not any more went with its interface
            known = {k: r for k, r in self.desired.routes.actual.items() if wanted.get(k) == r}
            found = drift.in_routes(known, actual, beside)
            self._usurped = known.keys() - actual.keys()
        self.desired.routes.replace_actual(actual)
        self.desired.routes.unpark_all()  # what had no way to its gateway may have one now
        self._trust(Stale.ROUTES)
        return found

    def _trust(self, subsystem: Stale) -> None:
        self.stale.discard(subsystem)
        self._read_once.add(subsystem)

    def _sets_of(self, name: str) -> AddressSets:
        """Return the sets that a set of this name is one of."""
        name = name.removesuffix(TEMPORARY_SUFFIX)
        if name == AS_OF:
            return self.as_of.sets
        return self.desired.identity if name in IDENTITY_SETS else self.desired.members

    # ------------------------------------------------------------ the wall

    async def build_wall(self) -> None:
        """Close the workloads' interfaces where nothing of ours stands yet; what stands stays as it is.

        It is what a host without workloads has, so who knows more finds nothing to change in it.
        Errors: OSError when it cannot be built: then an interface may be open.
        """
        turn, identity, members = Turn(), self.desired.identity, self.desired.members
        self._apply_sets(turn, standing(identity.plan_additions()), identity)
        self._apply_sets(turn, members.plan_additions(), members)
        for key, state in self._tables.items():
            if turn.held_by:
                break
            chains = self.desired.chains.tables[key]
            missing = plan_wall(key[1], chains.desired, chains.jumps, state)
            if missing is not None:
                log.info("closing workloads' interfaces in table %s (%s)", key[1], key[0])
                await self._write(turn, key, missing)
        if turn.held_by:
            raise OSError(f"workloads' interfaces cannot be closed: {turn.held_by}")

    # ------------------------------------------------------------ applying

    @property
    def refused(self) -> dict[str, str]:
        """Each object that is not as wanted because the kernel refuses it, and the kernel's reason."""
        desired = self.desired
        found = {f"sysctl {name}": reason for name, reason in self._refused_sysctls.items()}
        for key, reason in desired.routes.parked.items():
            found[f"route {key.cidr}"] = reason
        for sets in (desired.members, desired.identity):
            for name, reason in sets.refused.items():
                found[desired.set_object(name)] = reason
        objects: dict[str, tuple[str, str]] = {}
        if self._refused_chains:
            objects = {**desired.chains.objects, **desired.translations.objects}
        for (family, table, chain), reason in sorted(self._refused_chains.items()):
            if chain not in desired.chains.tables[family, table].desired:
                continue  # nobody wants it any more
            name, direction = objects.get(chain, (f"chain {chain}", ""))
            found[name] = f"{direction} ({family}): {reason}".lstrip()
        return found

    @property
    def refused_chains(self) -> dict[str, str]:
        """The chains that are closed as the kernel refuses them, and why."""
        tables = self.desired.chains.tables
        return {
            chain: reason
            for (family, table, chain), reason in self._refused_chains.items()
            if chain in tables[family, table].desired
        }

    @property
    def sweep_in_s(self) -> float | None:
        """Seconds until what nothing refers to any more is swept; None when there is nothing."""
        if self._sweep_at is None:
            return None
        return max(0.0, self._sweep_at - clock.monotonic())

    async def apply(self) -> Turn:
        """Bring the kernel to the desired state, as far as it goes now."""
        turn = Turn()
        desired = self.desired
        if self.flows is None:
            desired.take_touched()  # nobody else will
        if self.flows is not None:
            desired.note_left()
        # Before all: a kernel that is ahead of the file on disk must be known to be.
        self._apply_sets(turn, self.as_of.plan(), self.as_of.sets)
        # Then what only closes. Then nobody is judged by half of what was and half of what comes: decision 30.
        self._apply_sets(turn, desired.identity.plan_removals(), desired.identity)
        change = change_over(desired, self._tables)
        self._apply_sets(turn, change.closings, desired.identity)
        if not turn.held_by:
            self._apply_sets(turn, change.members, desired.members)
        desired.distrust(desired.members.refused)
        self._apply_sets(turn, standing(desired.identity.plan_additions()), desired.identity)
        desired.linger(self._lingering())
        if not turn.held_by:
            await self._apply_tables(turn)
        held = bool(turn.held_by)
        self._note_sysctls(turn, check_senders(desired, self.interfaces, on=False))
        if not held:
            # After the chains: forwarding must not be turned on while workloads are not yet closed.
            self._apply_sysctls(turn)
            owners = in_time(desired.identity.plan_additions(), change.late)
            self._apply_sets(turn, owners, desired.identity)
            self._apply_routes(turn, route_plan.plan_additions(desired.routes))
        # Whatever is held, what is withdrawn goes: that only closes.
        self._apply_routes(turn, route_plan.plan_removals(desired.routes))
        if not turn.held_by and change.late:
            self._apply_sets(turn, desired.identity.plan_additions(), desired.identity)
        if held:
            return turn
        self._note_sysctls(turn, check_senders(desired, self.interfaces, on=True))
        if (desired.members.plan_removals() or self._has_chains_left()) and self._sweep_at is None:
            self._sweep_at = clock.monotonic() + SWEEP_AFTER_S
        if not turn.held_by:
            self._apply_sets(turn, self.as_of.plan_settled(), self.as_of.sets)
        return turn

    def _apply_sysctls(self, turn: Turn) -> None:
        desired = self.desired
        if not desired.interfaces_touched:
            return
        self._note_sysctls(turn, self.interfaces.apply(desired.link_indices, desired.interfaces))
        desired.interfaces_touched = False

    def _note_sysctls(self, turn: Turn, written: Iterable[tuple[SetSysctl, Outcome]]) -> None:
        for op, outcome in written:
            turn.n_ops += 1
            if isinstance(outcome, Refused):
                self._refused_sysctls[op.name] = outcome.reason
            elif isinstance(outcome, Retry):
                self._hold(turn, outcome.reason, Stale.SYSCTLS)

    def _apply_sets(self, turn: Turn, ops: Sequence[SetOp], sets: AddressSets) -> None:
        if not ops:
            return
        turn.n_ops += len(ops)
        for op, outcome in zip(ops, self.sets.apply(ops), strict=True):
            sets.record(op, outcome)
            if isinstance(outcome, Retry):
                self._hold(turn, outcome.reason, Stale.SETS)

    def _apply_routes(self, turn: Turn, ops: Sequence[RouteOp]) -> None:
        if not ops:
            return
        turn.n_ops += len(ops)
        outcomes = self.routes.apply(ops)
        if self._usurped:
            self._take_back(ops, outcomes)
        route_plan.record(self.desired.routes, ops, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Retry):
                self._hold(turn, outcome.reason, Stale.ROUTES)

    def _take_back(self, ops: Sequence[RouteOp], outcomes: list[Outcome]) -> None:
        """Replace the foreign routes that were put where routes of ours stood; others stay, as ever."""
        usurped, self._usurped = self._usurped, set()
        for i, (op, outcome) in enumerate(zip(ops, outcomes, strict=True)):
            taken = isinstance(outcome, Refused) and op.key in usurped
            if taken and isinstance(op, ReplaceRoute) and op.old is None:
                outcomes[i : i + 1] = self.routes.apply([structs.replace(op, old=op.route)])

    def _hold(self, turn: Turn, reason: str, subsystem: Stale) -> None:
        turn.held_by = turn.held_by or reason
        self.stale.add(subsystem)

    # ------------------------------------------------------------ tables

    async def _apply_tables(self, turn: Turn) -> None:
        async with asyncio.TaskGroup() as tasks:
            for family in self.restores:
                tasks.create_task(self._apply_family(turn, family), name=f"tables {family}")

    async def _apply_family(self, turn: Turn, family: Family) -> None:
        for table in TABLES:
            key = (family, table)
            chains = self.desired.chains.tables[key]
            if not chains.dirty and key not in self._compare_all:
                continue
            dirty = None if key in self._compare_all else set(chains.dirty)
            front = POLICY_PREFIXES if self.restores[family].waits_for_freed else ()
            wanted = (chains.desired, chains.jumps)
            plan = plan_table(table, *wanted, self._tables[key], dirty=dirty, in_front=front)
            if plan.later is not None:
                self._later.setdefault(key, set()).update(plan.later.removals)
            self._dead.note(key, plan)
            if plan.now is not None and not await self._write(turn, key, plan.now):
                return
            self._compare_all.discard(key)
            chains.dirty -= chains.dirty if dirty is None else dirty

    async def _write(self, turn: Turn, key: tuple[Family, TableName], tx: Transaction) -> bool:
        """Apply one transaction; return whether the table now is as planned (refused chains closed)."""
        turn.n_ops += tx.n_lines
        odd = suspicious(tx)
        if any(chain not in tx.chains or stub_of(chain) is None for chain in odd):
            self._hold(turn, f"nothing of it is written: {next(iter(odd.values()))}", Stale.TABLES)
            return False
        fed = closed(tx, odd, stub_of)
        with self.hush(fed.n_lines):
            outcome = await self.restores[key[0]].apply_with_quarantine(fed, stub_of)
        if isinstance(outcome, Applied):
            reasons = {**odd, **outcome.refused}
            record(self._tables[key], closed(tx, reasons, stub_of))
            for chain in tx.chains:
                self._refused_chains.pop((*key, chain), None)
            # A chain whose removal is refused stands as it was: it is whole if it is wanted again.
            written = reasons.keys() - set(tx.removals)
            self._refused_chains |= {(*key, chain): reasons[chain] for chain in written}
            return True
        if isinstance(outcome, Failed):
            reason = f"iptables refuses table {key[1]} ({key[0]}): {outcome.message}"
        else:
            reason = outcome.reason
        log.error("%s", reason)
        self._hold(turn, reason, Stale.TABLES)
        return False

    # ------------------------------------------------------------ sweeping

    async def sweep(self) -> None:
        """Remove the chains nothing refers to any more, then the sets they named.

        What is not wanted does no harm, so nobody waits for this and a failure only means "later": the
        kernel lets go of a set some milliseconds after the last line that named it is gone.
        """
        turn = Turn()
        self._sweep_at = None
        self.doubted.tables |= self._dead.sweep(self.restores, self._tables, self.desired.chains)
        if not self.desired.identity:  # else an element may still lead to a class that goes
            for key, names in self._doomed.items():
                if names:
                    await self._sweep_chains(turn, key, names)
            still = numbers_in(n for state in self._tables.values() for n in state.chains)
            for class_digest in self.desired.classes.remembered.keys() - still.keys():
                self.desired.classes.forget(class_digest)
            await self._retire(turn)
        removals = self.desired.members.plan_removals()
        destroys = [op for op in removals if isinstance(op, DestroySet)]
        left = self._has_chains_left() or bool(self.doubted)
        for op, outcome in zip(destroys, self.sets.apply(destroys), strict=True):
            self.desired.members.record(op, outcome)
            left = left or isinstance(outcome, Retry)
        if left:
            self._sweep_at = clock.monotonic() + SWEEP_AFTER_S

    def _has_chains_left(self) -> bool:
        return bool(self._dead) or any(self._later.values()) or any(self._doomed.values())

    def _lingering(self) -> dict[str, int]:
        """Return the classes that are left while elements, or packets under way, may still carry their mark."""
        remembered = self.desired.classes.remembered
        self._retired &= remembered.keys()
        return {
            class_digest: number
            for class_digest, number in remembered.items()
            if class_digest not in self._retired
            and all(
                class_chain(number, class_digest, direction)
                in self._tables[family, "filter"].chains
                for family in self.restores
                for direction in DIRECTIONS
            )
        }

    async def _retire(self, turn: Turn) -> None:
        """Take away the way to the classes that are left; after it nothing names what is not wanted."""
        self._retired |= self.desired.classes.remembered.keys()
        self.desired.linger({})
        await self._apply_tables(turn)
        if not turn.held_by:
            for key, names in self._later.items():
                self._doomed.setdefault(key, set()).update(names)
            self._later.clear()

    async def _sweep_chains(self, turn: Turn, key: TableKey, names: set[str]) -> None:
        chains = self.desired.chains.tables[key]
        table = self._tables[key]
        plan = plan_table(key[1], chains.desired, chains.jumps, table, dirty=set(names))
        if plan.later is None or await self._write(turn, key, plan.later):
            names.clear()

    @property
    def look_in_s(self) -> float | None:
        """Seconds until the flows are to be looked at; None when there is no cause, or policy is not applied."""
        if self.flows is None or self.stale & {Stale.SETS, Stale.TABLES}:
            return None
        return self.flows.due_in_s

    def unpark_all(self) -> None:
        """Let everything that was refused be tried once more, and every flow be looked at."""
        self.desired.touch_all()
        self.desired.members.unpark_all()
        self.desired.identity.unpark_all()
        self.desired.routes.unpark_all()
        self._compare_all |= self._tables.keys()

    @property
    def waits_for(self) -> str:
        """Name the tool that is waited for; "" when none is."""
        return next((text for r in self.restores.values() if (text := r.waits_for)), "")

    async def close(self) -> None:
        """Let go of the drivers; the kernel stays as it is."""
        for restore in self.restores.values():
            await restore.close()
        self.sets.close()
        self.routes.close()
        if self.flows is not None:
            self.flows.close()
