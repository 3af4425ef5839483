"""Which interface of the host has which host endpoint, and what stands in its way.

An interface has at most one host endpoint, the lowest id wins. A named interface need not be there: it is
closed from the moment it appears.

The agent's own way to NATS stays open on every host endpoint that is not forced, by lines of its own beside
the failsafe ports: that holds whatever policies and sets become, and needs no memory. Whether a policy would
have closed it is found by asking the policies, and told to people. See
docs/decisions/0010-the-way-to-nats-stays-open.md.

Pure.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.failsafe import PROTOCOLS, Failsafe
from hopwall_dataplane.host_chains import Chains, Placement, host_chains, host_lists
from hopwall_dataplane.iptables.static import (
    HOST_INPUT,
    HOST_OUTPUT,
    HOST_PRE_DNAT,
    HOST_UNTRACKED_IN,
    HOST_UNTRACKED_OUT,
    RenderSettings,
)
from hopwall_dataplane.judge import Packet, Sets, decide
from hopwall_dataplane.outcome import Family
from hopwall_model.names import valid_ifname
from hopwall_model.status import Refusal
from hopwall_model.updates import (
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    PolicyId,
    PolicySet,
)

ALL = "*"
#: Any port the kernel may choose for a connection. Source: ip-sysctl.rst, ip_local_port_range.
_EPHEMERAL = 40000


@dataclass(frozen=True, slots=True)
class Way:
    """How this host reaches one NATS server: bare addresses; `interface` is "" when the server is here."""

    address: str
    port: int
    source: str
    interface: str


class HostInterface(Protocol):
    """What host endpoints ask of an interface: its bare addresses."""

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses it has now."""


class ListBook(Protocol):
    """Who keeps lists of policies and the fixed chains."""

    settings: RenderSettings
    families: tuple[Family, ...]

    def add_list(self, asked: PolicyList) -> None:
        """Want a list's chains."""

    def remove_list(self, asked: PolicyList) -> None:
        """Want a list's chains no more."""

    def put_hosts(self, chains: Mapping[Family, Chains]) -> None:
        """Want these chains of host endpoints, and no others."""


@dataclass(slots=True)
class HostEndpoints:
    """All host endpoints of this host, and where they apply.

    Owner: the agent's one task.
    """

    chains: ListBook
    #: The addresses and ports of NATS, as bare text.
    nats: tuple[tuple[str, int], ...] = ()
    _known: dict[HostEndpointId, HostEndpointSet] = field(default_factory=dict)
    _interfaces: Mapping[str, HostInterface] = field(default_factory=dict)
    ways: tuple[Way, ...] = ()
    _placed: tuple[Placement, ...] = ()
    _lists: set[PolicyList] = field(default_factory=set)
    _faults: dict[HostEndpointId, str] = field(default_factory=dict)
    _cuts: dict[HostEndpointId, str] = field(default_factory=dict)
    _dirty: bool = True
    #: What applies to flows may be something else than when somebody last looked.
    touched: bool = False

    def __len__(self) -> int:
        """Count them."""
        return len(self._known)

    def put(self, update: HostEndpointSet | HostEndpointRemoved) -> None:
        """Take a host endpoint, or its removal."""
        if isinstance(update, HostEndpointSet):
            self._known[update.id] = update
        else:
            self._known.pop(update.id, None)
        self._dirty = True

    def keep(self, ids: Collection[HostEndpointId]) -> None:
        """Forget all but these."""
        for gone in self._known.keys() - ids:
            del self._known[gone]
            self._dirty = True

    def set_interfaces(
        self, interfaces: Mapping[str, HostInterface], ways: tuple[Way, ...] = ()
    ) -> None:
        """Take the present interfaces, and how NATS is reached: only what people are told depends on that."""
        moved = {n: i.addresses for n, i in interfaces.items() if self._is_ours(n)} != {
            n: i.addresses for n, i in self._interfaces.items() if self._is_ours(n)
        }
        self.touched = self.touched or (moved and self.has_placed)
        self._interfaces, self.ways = interfaces, ways
        self._dirty = True

    def settle(self) -> None:
        """Bring the chains to what is known. Costs nothing when nothing changed."""
        if not self._dirty:
            return
        self._dirty = False
        before, self._placed = self._placed, self._place()
        self.touched = self.touched or before != self._placed
        lists = {asked for placement in self._placed for asked in host_lists(placement).values()}
        for gone in sorted(self._lists - lists, key=_name):
            self.chains.remove_list(gone)
        for new in sorted(lists - self._lists, key=_name):
            self.chains.add_list(new)
        self._lists = lists
        settings = self.chains.settings
        self.chains.put_hosts(
            {f: host_chains(f, settings, self._placed) for f in self.chains.families}
        )

    @property
    def known(self) -> Iterable[HostEndpointSet]:
        """The host endpoints, by name."""
        return (endpoint for _, endpoint in sorted(self._known.items()))

    @property
    def has_placed(self) -> bool:
        """Whether any host endpoint applies to an interface."""
        return bool(self._placed)

    def by_interface(self) -> dict[str, Placement | None]:
        """Return what applies to each present interface that is neither loopback nor a workload's."""
        return {name: self._on(name) for name in self._interfaces if self._is_ours(name)}

    def _is_ours(self, name: str) -> bool:
        return bool(name) and name != "lo" and not name.startswith(self.chains.settings.prefixes)

    def _on(self, name: str) -> Placement | None:
        """Return what applies to one of the host's own interfaces."""
        named = (p for p in self._placed if name in p.interfaces)
        everywhere = (p for p in self._placed if p.everywhere)
        return next(named, None) or next(everywhere, None)

    def refusals(self) -> Iterable[Refusal]:
        """List what is not as declared, and why."""
        for endpoint_id, reason in sorted(self._faults.items()):
            yield Refusal(object=f"host endpoint {endpoint_id}", reason=reason)
        for endpoint_id, reason in sorted(self._cuts.items()):
            yield Refusal(object=f"way to NATS of host endpoint {endpoint_id}", reason=reason)

    # ------------------------------------------------------------ whose an interface is

    def _place(self) -> tuple[Placement, ...]:
        self._faults = {}
        owner: dict[str, HostEndpointId] = {}
        interfaces: dict[HostEndpointId, tuple[str, ...]] = {}
        everywhere: HostEndpointId | None = None
        for endpoint_id, endpoint in sorted(self._known.items()):
            if fault := self._fault(endpoint):
                self._faults[endpoint_id] = fault
            elif endpoint.interface == ALL:
                if everywhere is None:
                    everywhere = endpoint_id
                    interfaces[endpoint_id] = ()
                else:
                    self._shadow(endpoint_id, "All other interfaces", everywhere)
            else:
                mine = []
                for name in self._matched(endpoint):
                    if owner.setdefault(name, endpoint_id) == endpoint_id:
                        mine.append(name)
                    else:
                        self._shadow(endpoint_id, f"Interface {name}", owner[name])
                if mine:
                    interfaces[endpoint_id] = tuple(mine)
        return tuple(
            Placement(self._known[i], names, i == everywhere, self._control(self._known[i]))
            for i, names in interfaces.items()
        )

    def _fault(self, endpoint: HostEndpointSet) -> str:
        name = endpoint.interface
        if name in ("", ALL):
            return ""
        if not valid_ifname(name) or name in ("all", "default", "lo"):
            return f"{name!r} cannot be the interface of a host endpoint."
        if name.startswith(self.chains.settings.prefixes):
            return f"Interface {name} is a workload's by its name: no host endpoint can have it."
        return ""

    def _matched(self, endpoint: HostEndpointSet) -> list[str]:
        if endpoint.interface:
            return [endpoint.interface]
        expected = {cidr.partition("/")[0] for cidr in endpoint.expected_ips}
        prefixes = self.chains.settings.prefixes
        return sorted(
            name
            for name, interface in self._interfaces.items()
            if expected & interface.addresses
            and valid_ifname(name)
            and name != "lo"
            and not name.startswith(prefixes)
        )

    def _shadow(self, endpoint_id: HostEndpointId, what: str, winner: HostEndpointId) -> None:
        verb = "are" if what.startswith("All") else "is"
        text = f"{what} {verb} host endpoint {winner}'s, whose name comes first."
        self._faults[endpoint_id] = f"{self._faults.get(endpoint_id, '')} {text}".lstrip()

    def _control(self, endpoint: HostEndpointSet) -> tuple[Failsafe, ...]:
        if endpoint.force:
            return ()
        return tuple(
            Failsafe(PROTOCOLS["tcp"], port, f"{ip}/{128 if ':' in ip else 32}")
            for ip, port in self.nats
        )

    # ------------------------------------------------------------ the way to NATS

    def judge(self, policies: Mapping[PolicyId, PolicySet], sets: Sets) -> None:
        """Find the host endpoints whose policies would cut this host off from NATS.

        Cost: O(rules of the host endpoints on the way to NATS).
        """
        self._cuts = {}
        for placement in self._placed:
            endpoint = placement.endpoint
            for way in self.ways:
                if endpoint.force or not self._is_on(placement, way) or self._is_safe(way):
                    continue
                if not _lets_by(placement, way, policies, sets):
                    self._cuts[endpoint.id] = (
                        f"Its policies would cut this host off from NATS at {_at(way)}, which stays "
                        "open: allow it by a policy, add it to failsafe_outbound, or annotate the "
                        'host endpoint with hopwall.io/force: "true" to close it.'
                    )

    def _is_on(self, placement: Placement, way: Way) -> bool:
        return self._is_ours(way.interface) and self._on(way.interface) is placement

    def _is_safe(self, way: Way) -> bool:
        return any(
            entry.protocol == PROTOCOLS["tcp"]
            and entry.port == way.port
            and entry.holds(way.address)
            for entry in self.chains.settings.failsafe_out
        )


def _name(asked: PolicyList) -> tuple[str, str]:
    return asked.table, asked.name


def _at(way: Way) -> str:
    return f"[{way.address}]:{way.port}" if ":" in way.address else f"{way.address}:{way.port}"


def _lets_by(
    placement: Placement, way: Way, policies: Mapping[PolicyId, PolicySet], sets: Sets
) -> bool:
    """Tell whether a connection to NATS, and its replies, would pass without lines of their own."""
    version = 6 if ":" in way.address else 4
    tcp = PROTOCOLS["tcp"]
    there = Packet(version, tcp, way.source, way.address, _EPHEMERAL, way.port)
    back = Packet(version, tcp, way.address, way.source, way.port, _EPHEMERAL)
    lists = host_lists(placement)

    def says(place: str, packet: Packet) -> str:
        asked = lists.get(place)
        if asked is None:
            return "undecided"
        return decide(asked.tiers, asked.profiles, asked.direction, packet, policies, sets)

    def first_word(*asked: tuple[str, Packet]) -> bool:
        verdicts = (says(place, packet) for place, packet in asked)
        return next((v for v in verdicts if v != "undecided"), "deny") == "allow"

    untracked = says(HOST_UNTRACKED_OUT, there)
    if says(HOST_UNTRACKED_IN, back) == "deny":
        return False
    if untracked == "allow":
        # Nothing knows the replies: they are asked as any packet is.
        return first_word((HOST_UNTRACKED_IN, back), (HOST_PRE_DNAT, back), (HOST_INPUT, back))
    return first_word((HOST_UNTRACKED_OUT, there), (HOST_OUTPUT, there))
