"""How far a write has come: stored, computed, programmed; and on which hosts it is late, and why.

Pure. Folds what calc and the hosts report and answers questions about revisions. Refuses to guess: what was
not reported is "Unknown" or "False", never "True".
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from hopwall_model.resources import Key, Resource, WorkloadEndpoint
from hopwall_model.status import CalcStatus, HostStatus, Refusal

Stage = Literal["accepted", "computed", "programmed"]
Truth = Literal["True", "False", "Unknown"]

#: How many reports of calc are remembered: the hosts that older revisions concern are not known.
MAX_REPORTS = 10_000
MAX_LAGGARDS = 100
#: The reason of what calc cannot carry out.
_LEFT_OUT = "NotUnderstood"
#: Of what a host refuses, so many are named.
MAX_REFUSALS = 5


class Target(Struct, frozen=True):
    """One write to follow: the key and the revision of its event.

    `addresses` are a workload endpoint's: its routes are known to hosts by them.
    """

    key: Key
    revision: int
    removed: bool = False
    addresses: tuple[str, ...] = ()


def target_of(
    key: Key, revision: int, resource: Resource | None, *, removed: bool = False
) -> Target:
    """Return what follows a write of this resource, or of its removal."""
    addresses: tuple[str, ...] = ()
    if isinstance(resource, WorkloadEndpoint):
        addresses = resource.spec.ip_networks
    return Target(key, revision, removed, addresses)


class Condition(Struct, frozen=True, kw_only=True):
    """One stage, as Kubernetes' conditions are written."""

    type: str
    status: Truth
    reason: str
    message: str


class HostCounts(Struct, frozen=True, kw_only=True):
    """Of the hosts concerned: how many, how many enforce it, how many cannot."""

    desired: int
    programmed: int
    failed: int


class Laggard(Struct, frozen=True, kw_only=True):
    """A host that does not enforce it yet, and why."""

    host: str
    reason: str


class Progress(Struct, frozen=True, kw_only=True):
    """The `status` of an answer. At most `MAX_LAGGARDS` laggards are named; `hosts` counts all."""

    conditions: tuple[Condition, ...]
    hosts: HostCounts
    laggards: tuple[Laggard, ...] = ()

    def reached(self, stage: Stage) -> bool:
        """Tell whether the stage is surely reached."""
        name = stage.capitalize()
        return any(c.type == name and c.status == "True" for c in self.conditions)

    def settled(self) -> bool:
        """Tell whether waiting longer is in vain: all have answered, and it is known who all are, and some refuse."""
        hosts = self.hosts
        if self.conditions[-1].reason == _LEFT_OUT:
            return True
        answered = hosts.programmed + hosts.failed == hosts.desired
        return answered and hosts.failed > 0 and self.conditions[-1].status == "False"


class _Everybody(Struct, frozen=True):
    """The hosts that events up to a revision may concern; of no revision at first."""

    revision: int = -1
    hosts: tuple[str, ...] = ()


class _Speech(Struct, frozen=True):
    """What is BIRD's, where hosts have none: how many of those concerned, and what no host at all can speak."""

    n_without: int = 0
    unspoken: tuple[Key, ...] = ()


class Tracker:
    """The last word of calc and of each host."""

    def __init__(self) -> None:
        self.calc: CalcStatus | None = None
        self.hosts: dict[str, HostStatus] = {}
        self._reports: list[CalcStatus] = []
        #: No event up to a revision concerns another host than these.
        self._everybody = _Everybody()
        self._doubted = ""

    # ------------------------------------------------------------ folding

    def forget(self) -> None:
        """Forget calc's reports: they speak of revisions of a stream that is not there any more."""
        self._doubted = self.calc.epoch if self.calc is not None else ""
        self.calc = None
        self._reports.clear()
        self._everybody = _Everybody()

    def fold_calc(self, status: CalcStatus, shown: int) -> None:
        """Fold one report of calc; another epoch than the last forgets what came before.

        `shown` is the revision that reads show: an epoch that is doubted cannot have resolved more than there is.
        """
        if status.epoch == self._doubted and status.revision > shown:
            return
        if self.calc is not None and self.calc.epoch != status.epoch:
            self._reports.clear()
            self._everybody = _Everybody()
        elif self.calc is not None and status.revision < self.calc.revision:
            return
        self.calc = status
        everybody = status.hosts if status.first == 0 else status.all_hosts
        if everybody is not None:
            self._everybody = _Everybody(status.revision, everybody)
        if not self._reports or status.revision > self._reports[-1].revision:
            self._reports.append(status)
            if len(self._reports) > MAX_REPORTS:
                del self._reports[: MAX_REPORTS // 2]

    def fold_host(self, status: HostStatus) -> None:
        """Fold one report of a host."""
        self.hosts[status.host] = status

    # ------------------------------------------------------------ answering

    def progress(self, targets: Sequence[Target], *, sure: bool = True) -> Progress:
        """Return how far these writes have come, all of them together.

        Not `sure`: it is not known whether the stream is the one that the reports speak of. One that went back
        numbers its writes anew, and reports of the old ones would do for them.
        """
        revision = max((target.revision for target in targets), default=0)
        accepted = _condition("Accepted", "True", "Stored", f"Stored at revision {revision}.")
        computed = self._computed(revision) if sure else _UNSURE
        if computed.status != "True":
            waits = _condition("Programmed", "Unknown", "NotComputed", computed.message)
            nobody = HostCounts(desired=0, programmed=0, failed=0)
            return Progress(conditions=(accepted, computed, waits), hosts=nobody)
        in_vain = self._left_out(targets) or self._moves_nobody(targets)
        if in_vain is not None:
            nobody = HostCounts(desired=0, programmed=0, failed=0)
            return Progress(conditions=(accepted, computed, in_vain), hosts=nobody)
        hosts, sure = self._concerned(targets)
        hosts, speech = self._speakers(hosts)
        late: list[Laggard] = []
        failed = 0
        for host, of_host in sorted(hosts.items()):
            refused, reason = self._fault(host, of_host)
            failed += refused
            if reason:
                late.append(Laggard(host=host, reason=reason))
        programmed = _programmed(len(hosts), late, failed, sure, speech)
        return Progress(
            conditions=(accepted, computed, programmed),
            hosts=HostCounts(desired=len(hosts), programmed=len(hosts) - len(late), failed=failed),
            laggards=tuple(late[:MAX_LAGGARDS]),
        )

    def lag_of(self, host: str) -> int | None:
        """Return how many revisions a host is behind calc; None when they share no epoch."""
        status = self.hosts.get(host)
        if status is None or self.calc is None or status.epoch != self.calc.epoch:
            return None
        return max(0, self.calc.revision - status.revision)

    def _computed(self, revision: int) -> Condition:
        if self.calc is None:
            message = "calc has not reported yet; is hopwall-calc running?"
            return _condition("Computed", "Unknown", "NoReport", message)
        if self.calc.revision < revision:
            message = f"calc is at revision {self.calc.revision} of {revision}."
            return _condition("Computed", "False", "Pending", message)
        message = f"calc has resolved revision {self.calc.revision}."
        return _condition("Computed", "True", "Resolved", message)

    def _left_out(self, targets: Sequence[Target]) -> Condition | None:
        """Return what is to be said of resources that calc cannot carry out; None where it can."""
        assert self.calc is not None
        if not self.calc.left_out:
            return None
        mine = {str(target.key) for target in targets if not target.removed}
        for one in self.calc.left_out:
            if one.resource in mine:
                message = f"{one.resource} is not enforced as it says. {one.reason}"
                return _condition("Programmed", "False", _LEFT_OUT, message)
        return None

    def _moves_nobody(self, targets: Sequence[Target]) -> Condition | None:
        """Return what is to be said of migrations without a pair; None where all have one."""
        assert self.calc is not None
        mine = {
            f"{target.key.namespace}/{target.key.name}"
            for target in targets
            if target.key.kind == "LiveMigration" and not target.removed
        }
        found = [one for one in self.calc.moves_nobody if one.migration in mine]
        if not found:
            return None
        message = f"Live migration {found[0].migration} moves nobody. {found[0].reason}"
        return _condition("Programmed", "False", "NoPair", message)

    def _concerned(self, targets: Sequence[Target]) -> tuple[dict[str, list[Target]], bool]:
        """Return the hosts each target concerns, and whether none of them can be missing.

        Where the report was missed, or is forgotten, all hosts count that calc says there are. Until it does, those
        that have reported; but who has not may be concerned as well.
        """
        hosts: dict[str, list[Target]] = {}
        sure = True
        for target in targets:
            report = self._covering(target.revision)
            names: Iterable[str]
            if report is not None:
                names = report.hosts
            elif target.revision <= self._everybody.revision:
                names = self._everybody.hosts
            else:
                sure, names = False, self.hosts
            for name in names:
                hosts.setdefault(name, []).append(target)
        self._add_faulty(hosts, targets)
        return hosts, sure

    def _speakers(
        self, hosts: dict[str, list[Target]]
    ) -> tuple[dict[str, list[Target]], "_Speech"]:
        """Return the hosts without what is BIRD's for those that have none, and what became of that."""
        left: dict[str, list[Target]] = {}
        n_without = 0
        spoken: set[Key] = set()
        asked: set[Key] = set()
        for host, of_host in hosts.items():
            status = self.hosts.get(host)
            birds = [target for target in of_host if target.key.kind in _OF_BIRD]
            asked.update(target.key for target in birds if not target.removed)
            others = of_host
            if status is not None and status.bgp is None:
                n_without += bool(birds)
                others = [target for target in of_host if target.key.kind not in _OF_BIRD]
            else:
                spoken.update(target.key for target in birds)
            if others:
                left[host] = others
        return left, _Speech(n_without, tuple(sorted(asked - spoken, key=str)))

    def _add_faulty(self, hosts: dict[str, list[Target]], targets: Sequence[Target]) -> None:
        """Add the hosts that find one of them at fault by itself, whatever write brought it there."""
        mine = {_known_as(target.key): target for target in targets if not target.removed}
        for host, status in self.hosts.items():
            for refusal in status.refused:
                target = mine.get(_owner(refusal.object))
                if target is not None and refusal.object.startswith(_ITS_OWN):
                    hosts.setdefault(host, []).append(target)

    def _covering(self, revision: int) -> CalcStatus | None:
        index = bisect_left(self._reports, revision, key=lambda report: report.revision)
        if index == len(self._reports):
            return None
        report = self._reports[index]
        return report if report.first <= revision else None

    def _late(self, status: HostStatus, wanted: int) -> str:
        """Return why a host is not at a revision of calc; "" when it is."""
        assert self.calc is not None
        host = status.host
        if status.held is not None:
            return (
                f"Host {host} goes on with what it has. {status.held.reason} Where that is right, release it: "
                f"hopwall hosts release {host}."
            )
        if status.epoch != self.calc.epoch:
            return f"Host {host} has not taken over the state of the current calc yet."
        if not status.in_sync:
            return f"Host {host} is not in sync; it is reading its state."
        if status.revision < wanted:
            text = f"Host {host} enforces revision {status.revision} of {wanted}."
            return f"{text} {status.held_up}".rstrip()
        return ""

    def _fault(self, host: str, targets: Sequence[Target]) -> tuple[bool, str]:
        """Return why the host does not enforce these writes, and whether it refuses; "" if it does."""
        assert self.calc is not None
        status = self.hosts.get(host)
        wanted = max(target.revision for target in targets)
        if status is None:
            return False, f"Host {host} has not reported; is hopwall-dataplane running on it?"
        if late := self._late(status, wanted):
            return False, late
        refused = [r for r in status.refused if any(_bears_on(r.object, t) for t in targets)]
        if refused:
            return True, f"Host {host} refused {_named(refused)}"
        bgp = status.bgp
        if bgp is not None and not bgp.in_sync and any(t.key.kind in _OF_BIRD for t in targets):
            return False, f"Host {host}: {bgp.reason}"
        ids = {_endpoint_id(t.key) for t in targets if not t.removed}
        for waiting in status.waiting:
            if waiting.endpoint in ids:
                return False, f"Host {host} waits for {waiting.endpoint}: {waiting.reason}"
        return False, ""


def _named(refused: Sequence[Refusal]) -> str:
    """Return what was refused and why, in one text."""
    text = " ".join(f"{r.object}: {r.reason}" for r in refused[:MAX_REFUSALS])
    more = len(refused) - MAX_REFUSALS
    return f"{text} And {more} more; `hopwall hosts` names all." if more > 0 else text


def _endpoint_id(key: Key) -> str:
    return f"{key.namespace}/{key.name}" if key.kind == "WorkloadEndpoint" else ""


#: Kinds that hosts know by an object of their own: kind → how the host calls it.
_OBJECTS = {
    "WorkloadEndpoint": "endpoint {0}/{1}",
    "HostEndpoint": "host endpoint {1}",
    "NetworkPolicy": "policy np/{0}/{1}",
    "GlobalNetworkPolicy": "policy gnp/{1}",
    "Profile": "policy profile/{1}",
}
#: Kinds that are in force when the host's BIRD has them, and those that a part of its configuration is made of.
_OF_BIRD = ("BGPConfiguration", "BGPFilter", "BGPPeer")
_IN_BGP = (*_OF_BIRD, "Node", "IPPool")
_BGP_PEER = "bgp peer/"
#: What a host's kernel cannot do, whatever is declared.
_LACKING = "kernel without "
_WAY = "way to NATS of "
#: What calc finds wrong with one resource, and is the matter of nobody else.
_ITS_OWN = ("rules of ", "address ", "profile ")


def _owner(refused: str) -> str:
    """Return whose matter an object is: "nat 192.0.2.1/32 of endpoint default/a" is the endpoint's."""
    return refused.rpartition(" of ")[2]


def _known_as(key: Key) -> str:
    return _OBJECTS.get(key.kind, "").format(key.namespace, key.name)


def _bears_on(refused: str, target: Target) -> bool:
    """Tell whether a refusal may mean that this resource is not enforced.

    An endpoint or a policy that is refused is another resource's matter; so are, whatever is written, a
    policy's rules, an endpoint's address or profile that calc finds at fault, and what the kernel lacks. A route is that of the
    endpoint with its address, or of the host it leads to. That a host endpoint would close the way to NATS
    may be the work of any policy, or of what policies name. Anything else (a set, a sysctl) cannot be told
    apart here and counts against every write that concerns the host. What BIRD does not have (a session without
    its password) closes no more than itself.
    """
    key = target.key
    if refused.split(" ", 1)[0] == "bgp":
        named = refused.startswith(_BGP_PEER) and key.kind == "BGPPeer"
        return refused.split("/")[1] == key.name if named else key.kind in _IN_BGP
    if refused.startswith(_LACKING):
        return False
    if refused.startswith("route "):
        return refused.removeprefix("route ") in target.addresses or key.kind == "Node"
    if refused.startswith(_WAY) and key.kind != "HostEndpoint":
        return key.kind != "WorkloadEndpoint"
    owner, known_as = _owner(refused), _known_as(key)
    if refused.startswith(_ITS_OWN):
        return owner == known_as
    if owner.startswith("host endpoint "):
        return owner == known_as
    return not known_as or not owner.startswith(("endpoint ", "policy ")) or owner == known_as


def _programmed(
    n: int, late: Sequence[Laggard], failed: int, sure: bool, speech: _Speech
) -> Condition:
    done = n - len(late)
    if not sure:
        # Before all else: who has not been heard may let by what one that refuses keeps closed.
        message = "Which hosts this concerns was reported before this API began to listen; calc says it again."
        return _condition("Programmed", "Unknown", "HostsUnknown", message)
    if failed:
        message = f"{failed} of {n} hosts refuse a part of it and keep it closed; see laggards."
        return _condition("Programmed", "False", "Refused", message)
    if late:
        message = f"{done} of {n} hosts enforce it; see laggards."
        return _condition("Programmed", "False", "Pending", message)
    if speech.unspoken:
        message = (
            f"No host that {speech.unspoken[0]} concerns runs BIRD, so nobody speaks it: set bgp of hopwall-dataplane"
            " there."
        )
        return _condition("Programmed", "False", "NoBird", message)
    if not n:
        return _condition("Programmed", "True", "NoHosts", "No host is concerned.")
    message = f"All {n} hosts concerned enforce it."
    if speech.n_without:
        message = f"All {n} hosts concerned that run BIRD enforce it; {speech.n_without} run none."
    return _condition("Programmed", "True", "Enforced", message)


def _condition(type_: str, status: Truth, reason: str, message: str) -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message)


_UNSURE = _condition(
    "Computed",
    "Unknown",
    "Reconnected",
    "The stored events are being read again after a broken connection.",
)
