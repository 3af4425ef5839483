"""The task that keeps BIRD as calc wants it, beside the reconcile loop and never in its way.

Level-triggered: a new value, or the time to look, leads to the same look: read the secrets, render, ask BIRD what
it runs, change it if it differs, read how the sessions are. BIRD away is a state like others: said in the status,
and asked for often, as one that starts late is to have its sessions at once. What BIRD refuses is tried again with
back-off.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from msgspec import structs

from hopwall_dataplane.bgp.absent import Absences, forgotten, noted
from hopwall_dataplane.bgp.control import Unreachable
from hopwall_dataplane.bgp.driver import BirdDriver, NotAccepted
from hopwall_dataplane.bgp.faults import Fault
from hopwall_dataplane.bgp.lint import Suspicious
from hopwall_dataplane.bgp.render import IDLE, Rendered, Secret, render
from hopwall_dataplane.bgp.times import steady
from hopwall_dataplane.bgp.waker import keep_awake
from hopwall_dataplane.feed import Step
from hopwall_dataplane.outcome import Retry
from hopwall_model.bgp import Bgp
from hopwall_model.status import BgpSession, BgpStatus, Refusal
from hopwall_model.updates import BgpSet
from hopwall_runtime import clock

log = logging.getLogger(__name__)

#: Seconds between looks at a BIRD that is well.
LOOK_S = 5.0
#: To the next look at one that does not answer: it costs one failed connection.
_AWAY_S = 0.5
#: Back-off at one that does not take what is wanted: from, to.
_RETRY_S = (0.25, 10.0)
_UNTOLD = "BIRD has not been told yet of what calc said last."
#: Sessions BIRD refuses are found one at a time.
_MAX_LEFT_OUT_AT_ONCE = 16
_MAX_SESSIONS = 500


def wanted(step: Step, before: Bgp | None) -> Bgp | None:
    """Return what BIRD is to do after a step; None when calc leaves BGP alone."""
    values = [update.bgp for update in step.updates if isinstance(update, BgpSet)]
    if values:
        return values[-1]
    return None if step.full else before


@dataclass(slots=True)
class Speaker:
    """BGP on one host.

    Shape: `status` and `refusals` speak of what is wanted now: until BIRD was told of it they say just that.
           `_left_out` are the sessions BIRD itself refused, with its reason, as long as nothing changes. `_start`
           is what BIRD is to start with after a crash, and what it was made of.
    """

    driver: BirdDriver
    interface_prefixes: tuple[str, ...]
    on_change: Callable[[], None]
    #: Addresses this host lives by, as /32 and /128.
    reserved: frozenset[str] = frozenset()
    _status: BgpStatus | None = None
    _refusals: tuple[Refusal, ...] = ()
    _bgp: Bgp | None = None
    _said: bool = False
    #: BIRD has not been looked at since the last word of calc.
    _untold: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _left_out: dict[str, str] = field(default_factory=dict)
    _input: tuple[Bgp, dict[Secret, str]] | None = None
    _rendered: Rendered | None = None
    _not_accepted: NotAccepted | None = None
    _retry_s: float = 0.0
    _away: bool = False
    _absences: Absences = field(default_factory=dict)
    _start: tuple[Rendered | None, frozenset[str], Rendered] | None = None

    def fold(self, step: Step) -> None:
        """Take what a step says of BGP; nothing is done before the first snapshot."""
        before = self._bgp
        self._bgp = wanted(step, before)
        if step.full or self._bgp is not before:
            self._said = self._untold = True
            self._news.set()

    @property
    def status(self) -> BgpStatus | None:
        """How BIRD and its sessions are; None where BGP is not ours to speak of."""
        if not self._untold:
            return self._status
        return structs.replace(
            self._status or BgpStatus(in_sync=False), in_sync=False, reason=_UNTOLD
        )

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What is not done of what is wanted."""
        return () if self._untold else self._refusals

    async def hears_of(self, networks: Iterable[str]) -> bool:
        """Tell whether others may be known here to have one of these networks: a BIRD that is away may know."""
        if self._bgp is None:
            return False
        try:
            return await self.driver.hears_of(networks)
        except Unreachable:
            return True

    async def run(self) -> None:
        """Keep BIRD as wanted until cancelled; it is left as it is."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_awake(self.driver.socket, self._wants), name="bird awake")
            await self._keep_looking()

    def _wants(self) -> bool:
        return self._rendered is not None

    async def _keep_looking(self) -> None:
        while True:
            pause = self._retry_s or LOOK_S
            try:
                async with asyncio.timeout(pause if self._said else None):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            await self._look()

    async def _look(self) -> None:
        before, seen = (self.status, self.refusals), self._status
        self._away = False
        reason = await self._apply()
        self._status = steady(seen, await self._see(reason))
        # What came meanwhile has its look yet to come.
        self._untold = self._news.is_set()
        self._lay_start()
        self._retry_s = self._pause_s(reason)
        if (self.status, self.refusals) != before:
            if reason and (seen is None or seen.reason != reason):
                log.warning("%s", reason)
            self.on_change()

    def _pause_s(self, reason: str) -> float:
        """Return the time to the next look; 0 when all is well."""
        if not reason:
            return 0.0
        if self._away:
            return _AWAY_S
        return min(max(self._retry_s * 2, _RETRY_S[0]), _RETRY_S[1])

    # ------------------------------------------------------------ applying

    async def _apply(self) -> str:
        """Bring BIRD to what is wanted; return why it is not there, "" when it is."""
        bgp = self._bgp
        try:
            if bgp is None:
                if not await self._is_ours():
                    self._rendered = None
                    self._refusals = ()
                    return ""
                bgp = IDLE
            secrets = await asyncio.to_thread(self.driver.read_secrets, bgp.sessions)
            if self._input != (bgp, secrets):
                self._input = (bgp, secrets)
                self._left_out.clear()
                self._render(bgp, secrets)
            return await self._configure(bgp, secrets)
        except Fault as fault:
            self._input = None
            self._refusals = (Refusal(object="bgp", reason=str(fault)),)
            return f"BGP is left as it is: {fault}"
        except Unreachable as error:
            return str(error)

    def _lay_start(self) -> None:
        """Let a BIRD that crashes wait for no peer that has been away for long (`absent`)."""
        if self._input is None or self._status is None or not self._status.in_sync:
            return  # what was laid down last gets old
        bgp, secrets = self._input
        names = forgotten(self._absences, bgp.sessions, clock.monotonic())
        if not names:
            self._start = None
        elif self._start is None or self._start[:2] != (self._rendered, names):
            self._start = (self._rendered, names, self._text(bgp, secrets, names))
        try:
            self.driver.lay_start(self._start[2] if self._start else None)
        except (OSError, Suspicious) as error:
            log.warning("what BIRD is to start with after a crash is not written: %s", error)

    async def _is_ours(self) -> bool:
        """Tell whether BIRD runs a configuration of ours; another is not ours to end."""
        try:
            return await self.driver.running() is not None
        except Unreachable:
            return False  # nothing is wanted of it; a later look finds it

    def _text(
        self, bgp: Bgp, secrets: dict[Secret, str], forgotten: Collection[str] = ()
    ) -> Rendered:
        return render(
            bgp,
            interface_prefixes=self.interface_prefixes,
            secrets=secrets,
            reserved=self.reserved,
            left_out=self._left_out,
            forgotten=forgotten,
        )

    def _render(self, bgp: Bgp, secrets: dict[Secret, str]) -> Rendered:
        self._rendered = self._text(bgp, secrets)
        self._not_accepted = None
        self._refusals = tuple(
            Refusal(object=name, reason=why) for name, why in sorted(self._rendered.refused.items())
        )
        return self._rendered

    async def _configure(self, bgp: Bgp, secrets: dict[Secret, str]) -> str:
        """Apply, leaving out the sessions that BIRD refuses."""
        rendered = self._rendered or self._render(bgp, secrets)
        if self._not_accepted is not None:
            return self._not_accepted.reason
        for _ in range(_MAX_LEFT_OUT_AT_ONCE):
            n_before = self.driver.n_applied
            outcome = await self.driver.apply(rendered)
            if self.driver.n_applied != n_before:
                log.info("BIRD runs configuration %s now", rendered.digest)
            if isinstance(outcome, Retry):
                return outcome.reason
            if not isinstance(outcome, NotAccepted):
                return ""
            if outcome.session is None or outcome.session in self._left_out:
                self._not_accepted = outcome
                self._refusals = (*self._refusals, Refusal(object="bgp", reason=outcome.reason))
                return outcome.reason
            self._left_out[outcome.session] = outcome.reason
            rendered = self._render(bgp, secrets)
        return "BIRD refuses many sessions; the others are tried next."

    # ------------------------------------------------------------ seeing

    async def _see(self, reason: str) -> BgpStatus | None:
        """Read how BIRD and its sessions are; None when calc leaves BGP alone and BIRD is not ours."""
        rendered = self._rendered
        if rendered is None:
            return BgpStatus(in_sync=False, reason=reason) if reason else None
        try:
            seen = await self.driver.see(rendered)
        except Unreachable as error:
            self._away = True
            return BgpStatus(
                in_sync=False, reason=reason or str(error), n_sessions=len(rendered.sessions)
            )
        self._absences = noted(self._absences, seen.sessions.values(), clock.monotonic())
        sessions = [
            seen.sessions.get(name, BgpSession(name=name, state="absent"))
            for name in sorted(rendered.sessions.values())
        ]
        return BgpStatus(
            in_sync=not reason,
            reason=reason,
            version=seen.daemon.version,
            router_id=seen.daemon.router_id,
            last_reconfigured=seen.daemon.last_reconfigured,
            n_sessions=len(sessions),
            n_established=sum(s.state == "Established" for s in sessions),
            sessions=tuple(sessions[:_MAX_SESSIONS]),
        )
