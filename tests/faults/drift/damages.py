"""Every kind of damage that others can do to what is ours: the commands, and what must come of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

#: event: the kernel tells at once. audit: found by looking. foreign: not ours, so it stays; it is told or not.
Found = Literal["event", "audit", "foreign"]

LOCAL = {4: "10.65.0.10", 6: "fd65::10"}
REMOTE = {4: "10.66.0.9", 6: "fd66::9"}
NEIGHBOUR = {4: "192.0.2.2", 6: "fd00:2::2"}
_IP = {4: "ip", 6: "ip -6"}


@dataclass(frozen=True)
class Damage:
    """One kind of damage to one family with one backend.

    Shape: `commands` are run one after the other by a shell; `after` takes away what was put beside ours,
           once it is seen that it stood. `stays` is a text that must be found in what others have after the
           repair. `told` is the object that is published.
    """

    kind: str
    name: str
    family: int
    backend: str
    found: Found
    commands: tuple[str, ...]
    told: str = ""
    after: tuple[str, ...] = ()
    stays: str = ""
    #: Also done while the quick form runs.
    quick: bool = False
    fixes: tuple[str, ...] = field(default=())


def damages(backend: str) -> Iterator[Damage]:
    """List all kinds of damage for one backend, both families."""
    for family in (4, 6):
        yield from _tables(backend, family)
        if backend == "nft":
            yield from _native(family)
        yield from _sets(backend, family)
        yield from _routes(backend, family)
        yield from _sysctls(backend, family)
    yield from _links(backend)


class _Tool:
    """Makes damages that one command of iptables does, or some."""

    def __init__(self, backend: str, family: int) -> None:
        self.backend, self.family = backend, family
        self.name = f"{'iptables' if family == 4 else 'ip6tables'}-{backend}"
        self.net = "198.51.100.7" if family == 4 else "fd99::7"
        self.found: Found = "event" if backend == "nft" else "audit"

    def one(
        self, name: str, *commands: str, told: str = "chain", after: str = "", stays: str = "",
        quick: bool = False, found: Found | None = None,
    ) -> Damage:  # fmt: skip
        """Return a damage done by these arguments to the tool."""
        lines = tuple(f"{self.name} {command}" for command in commands)
        undo = (f"{self.name} {after}",) if after else ()
        return Damage(
            "table", name, self.family, self.backend, found or self.found, lines, told, undo, stays, quick
        )  # fmt: skip

    def restored(self, name: str, text: str, options: str = "") -> Damage:
        """Return a damage done by the restore tool."""
        command = f"printf '{text}' | {self.name}-restore{options}"
        return Damage(
            "table", name, self.family, self.backend, self.found, (command,), "chain"
        )  # fmt: skip

    def above(self, table: str, chain: str, *, quick: bool = False) -> Damage:
        """Return the damage of a line put before ours."""
        line = f"-s {self.net} -j ACCEPT"
        return self.one(
            f"accept put above ours in {table} {chain}",
            f"-t {table} -I {chain} 1 {line}",
            told="jump", after=f"-t {table} -D {chain} {line}", stays=self.net, quick=quick,
        )  # fmt: skip


def _tables(backend: str, family: int) -> Iterator[Damage]:
    tool = _Tool(backend, family)
    one, net = tool.one, tool.net
    for table in ("filter", "mangle", "raw", "nat"):
        quick = table == "filter"
        yield one(f"flush of {table}", f"-t {table} -F", quick=quick)
    for table, chain in (
        ("filter", "FORWARD"),
        ("filter", "INPUT"),
        ("raw", "PREROUTING"),
        ("mangle", "FORWARD"),
        ("mangle", "INPUT"),
        ("mangle", "PREROUTING"),
        ("raw", "OUTPUT"),
        ("filter", "OUTPUT"),
        ("nat", "PREROUTING"),
        ("nat", "OUTPUT"),
    ):
        yield one(
            f"jump removed from {table} {chain}",
            f"-t {table} -D {chain} 1",
            told="jump", quick=chain == "PREROUTING",
        )  # fmt: skip
        yield tool.above(table, chain, quick=(table, chain) == ("filter", "FORWARD"))
    yield one("jump removed from nat POSTROUTING", "-t nat -D POSTROUTING 1", told="jump")
    yield one(
        "accept of all put above ours",
        "-I FORWARD 1 -j ACCEPT",
        told="jump",
        after="-D FORWARD -j ACCEPT",
    )
    yield from _chains(tool)
    yield one(
        "policy of FORWARD set to DROP",
        "-P FORWARD DROP",
        told="",
        found="foreign",
        after="-P FORWARD ACCEPT",
    )
    yield one("foreign chain and line below ours", "-N theirs", f"-A FORWARD -s {net} -j theirs", told="", found="foreign",
              after=f"-D FORWARD -s {net} -j theirs", stays="theirs")  # fmt: skip
    yield tool.restored("filter loaded anew without ours", "*filter\\nCOMMIT\\n")


def _chains(tool: _Tool) -> Iterator[Damage]:
    """Damage to chains of ours."""
    one = tool.one
    yield one("flush of hw-known", "-F hw-known")
    yield one("flush of the tree hw-to", "-F hw-to", quick=True)
    yield one("flush of hw-antispoof", "-t raw -F hw-antispoof")
    gone = "*filter\\n:hw-FORWARD - [0:0]\\n-D FORWARD 1\\n-X hw-FORWARD\\nCOMMIT\\n"
    yield tool.restored("chain hw-FORWARD removed", gone, " --noflush")
    yield one("line put first into hw-FORWARD", "-I hw-FORWARD 1 -j ACCEPT")
    yield one("line of hw-FORWARD replaced", "-R hw-FORWARD 1 -i tap+ -j hw-to")
    yield one("line of hw-FORWARD removed", "-D hw-FORWARD 3")
    for chain, name in (("hw-FORWARD", "theirs1"), ("hw-known", "theirs2")):
        yield one(
            f"{chain} given another name", f"-E {chain} {name}", after=f"-F {name}",
            quick=chain == "hw-FORWARD",
        )  # fmt: skip
    yield one(
        "our jump repeated below",
        "-A FORWARD -j hw-FORWARD -m comment --comment hw:AAAAAAAAAAAAAAAA",
        told="jump",
    )


def _native(family: int) -> Iterator[Damage]:
    fam = "ip" if family == 4 else "ip6"

    def one(
        name: str, *commands: str, told: str = "chain", after: str = "", stays: str = "",
        found: Found = "event", quick: bool = False,
    ) -> Damage:  # fmt: skip
        undo = (after,) if after else ()
        return Damage("nft", name, family, "nft", found, commands, told, undo, stays, quick)

    drop = f"h=$(nft -a list chain {fam} filter FORWARD | sed -n 's/.*length 1-99.*handle //p'); nft delete rule {fam} filter FORWARD handle $h"
    for table in ("filter", "raw", "mangle", "nat"):
        yield one(f"delete of table {fam} {table}", f"nft delete table {fam} {table}")
    yield from _roots(fam, one)
    yield one("flush of the whole ruleset", "nft flush ruleset", quick=family == 4)
    yield one(
        "rule that iptables-save cannot print above ours",
        f"nft insert rule {fam} filter FORWARD meta length 1-99 counter accept",
        told="jump", after=drop, stays="length 1-99", quick=True,
    )  # fmt: skip
    yield one(
        "rule that iptables-save cannot print below ours",
        f"nft add rule {fam} filter FORWARD meta length 1-99 counter accept",
        told="", found="foreign", after=drop, stays="length 1-99",
    )  # fmt: skip
    yield one(
        "the same, and our jump removed",
        f"nft add rule {fam} filter FORWARD meta length 1-99 counter accept",
        f"h=$(nft -a list chain {fam} filter FORWARD | sed -n 's/.*jump hw-FORWARD.*handle //p' | head -1); nft delete rule {fam} filter FORWARD handle $h",
        told="jump", after=drop, stays="length 1-99",
    )  # fmt: skip
    yield one(
        "the same, and hw-FORWARD flushed",
        f"nft add rule {fam} filter FORWARD meta length 1-99 counter accept",
        f"nft flush chain {fam} filter hw-FORWARD",
        after=drop, stays="length 1-99",
    )  # fmt: skip
    yield one(
        "native rule inside hw-FORWARD",
        f"nft insert rule {fam} filter hw-FORWARD meta length 1-99 counter accept",
    )
    yield one(
        "native table beside ours",
        f"nft add table inet theirs{family}",
        f"nft add chain inet theirs{family} c '{{ type filter hook forward priority -50; }}'",
        f"nft add rule inet theirs{family} c counter accept",
        told="", found="foreign", after=f"nft delete table inet theirs{family}", stays=f"theirs{family}",
    )  # fmt: skip


def _roots(fam: str, one: Callable[..., Damage]) -> Iterator[Damage]:
    """Damage to how tables hang in the kernel, which the iptables tools do not show."""
    for table in ("filter", "raw"):
        yield one(
            f"table {table} put to sleep",
            f"nft add table {fam} {table} '{{ flags dormant; }}'",
            told="table", quick=table == "filter",
        )  # fmt: skip
    other = "{ type filter hook forward priority 25; }"
    for table, chain, what, means in (
        ("filter", "FORWARD", "another priority", other),
        ("filter", "FORWARD", "another hook", other.replace("forward", "input")),
        ("filter", "FORWARD", "no hook", ""),
        ("mangle", "FORWARD", "another priority", other),
        ("raw", "PREROUTING", "no hook", ""),
        ("nat", "PREROUTING", "no hook", ""),
    ):
        away = f"flush chain {fam} {table} {chain}; delete chain {fam} {table} {chain}"
        theirs = f"{fam} {table} {chain}-foreign"
        if what == "no hook":
            yield one(f"kernel chain {chain} of {table} deleted", f"nft '{away}'", told="jump")
        yield one(
            f"kernel chain {chain} of {table} replaced by one with {what}",
            # All at once: the agent would take an empty place back.
            f"nft '{away}; add chain {fam} {table} {chain} {means}; "
            f"add rule {fam} {table} {chain} meta length 1-99 counter'",
            told="jump", stays="length 1-99", quick=what != "another hook" and table == "filter",
            after=f"nft flush chain {theirs}; nft delete chain {theirs}",
        )  # fmt: skip


def _sets(backend: str, family: int) -> Iterator[Damage]:
    v = f"hw{family}-"
    inet = "inet" if family == 4 else "inet6"
    host = LOCAL[family]

    def one(name: str, *commands: str, quick: bool = False) -> Damage:
        return Damage("set", name, family, backend, "audit", commands, "set", quick=quick)

    deny = f"$(ipset list -n | grep '^{v}s-' | tail -1)"
    yield one(f"flush of {v}from", f"ipset flush {v}from")
    yield one(f"flush of {v}to", f"ipset flush {v}to")
    yield one(
        "flush of the sets of members",
        f"for s in $(ipset list -n | grep '^{v}s-'); do ipset flush $s; done",
        quick=True,
    )
    yield one("member taken out", f"ipset del {v}to {host}")
    yield one(
        "member added",
        f"ipset add {v}from 0.0.0.0/1,tapa" if family == 4 else f"ipset add {v}from ::/1,tapa",
    )
    yield one("mark of a member changed", f"ipset add {v}to {host} skbmark 0x0/0xffffff00 -exist")
    other = "10.9.9.9" if family == 4 else "fd09::9"
    yield one(
        "as many members, another one",
        f"ipset del {v}to {host}",
        f"ipset add {v}to {other} skbmark 0x100/0xffffff00",
        quick=True,
    )
    yield one(
        "member that excepts instead",
        f"m=$(ipset list {deny} | tail -1); ipset del {deny} $m; ipset add {deny} $m nomatch",
    )
    yield one("sender added who may report for others", f"ipset add {v}relay {host},tapa")
    yield one(
        "swapped with an empty set",
        f"s={deny}; ipset create theirs hash:net family {inet}; ipset swap $s theirs; ipset destroy theirs",
    )
    tool = f"{'iptables' if family == 4 else 'ip6tables'}-{backend}"
    yield Damage(
        "set", "all lines flushed, and a set destroyed", family, backend, "audit",
        (f"{tool} -F", f"sleep 0.02; for s in $(ipset list -n | grep '^{v}s-'); do ipset destroy $s 2>/dev/null; done; true"),
        "",
    )  # fmt: skip


def _routes(backend: str, family: int) -> Iterator[Damage]:
    ip, bits = _IP[family], 32 if family == 4 else 128
    local, remote = f"{LOCAL[family]}/{bits}", f"{REMOTE[family]}/{bits}"

    def one(
        name: str, *commands: str, told: str = "route", found: Found = "event", after: str = "", quick: bool = False
    ) -> Damage:  # fmt: skip
        return Damage(
            "route",
            name,
            family,
            backend,
            found,
            commands,
            told,
            (after,) if after else (),
            quick=quick,
        )

    yield one("route to a workload deleted", f"{ip} route del {local}", quick=True)
    yield one("route to another host's workload deleted", f"{ip} route del {remote}")
    yield one("all our routes flushed", f"{ip} route flush proto 80")
    yield one(
        "route replaced by another's",
        f"{ip} route replace {local} dev tapb proto static",
        quick=True,
    )
    yield one(
        "route replaced by a black hole", f"{ip} route replace blackhole {local} proto static"
    )
    yield one(
        "next hop of a route of ours changed", f"{ip} route replace {remote} dev eth0 proto 80"
    )
    yield one(
        "deleted, and another's of another metric made",
        f"{ip} route del {local}", f"{ip} route add {local} dev tapb proto static metric 4000",
        after=f"{ip} route del {local} dev tapb metric 4000",
    )  # fmt: skip
    yield one(
        "another size of packets given to ours",
        f"{ip} route change {local} dev tapa proto 80{' scope link' if family == 4 else ''} mtu 1280",
    )
    yield from _beside(one, family, local)
    yield one(
        "address of another host's workload given to the host", f"{ip} addr add {remote} dev eth0",
        found="foreign", after=f"{ip} addr del {remote} dev eth0",
    )  # fmt: skip
    yield one(
        "rule of routing made", f"{ip} rule add pref 77 to {NEIGHBOUR[family]} lookup main",
        told="routing rule", found="foreign", after=f"{ip} rule del pref 77",
    )  # fmt: skip


def _beside(one: Callable[..., Damage], family: int, local: str) -> Iterator[Damage]:
    """Damage by routes that stand beside ours."""
    ip = _IP[family]
    if family == 4:
        yield one("link-local gateway deleted", "ip route del local 169.254.1.1 table local")
        for whose, proto in (("another's", "static"), ("one of our number", "80")):
            yield one(
                f"{whose} put before ours",
                f"ip route prepend {local} dev tapb proto {proto}",
                quick=proto == "static",
            )
        yield one("one of our number put behind ours", f"ip route append {local} dev tapb proto 80")
        yield one(
            "another's for a type of service", f"ip route add {local} tos 0x10 dev tapb proto static",
            found="foreign", after=f"ip route del {local} tos 0x10 dev tapb",
        )  # fmt: skip
    else:
        yield one(
            "another's of a better metric", f"{ip} route add {local} dev tapb proto static metric 5",
            told="route", found="foreign", after=f"{ip} route del {local} dev tapb metric 5",
        )  # fmt: skip


def _links(backend: str) -> Iterator[Damage]:
    commands = ("ip link set tapb down", "sleep 0.2", "ip link set tapb up")
    for family in (4, 6):
        name = "interface of a workload down and up"
        yield Damage("link", name, family, backend, "event", commands, "", quick=family == 4)


def _sysctls(backend: str, family: int) -> Iterator[Damage]:
    def one(name: str, value: str, found: Found, *, quick: bool = False) -> Damage:
        command = f"echo {value} > /proc/sys/net/ipv{family}/{name}"
        return Damage(
            "sysctl", f"{name} = {value}", family, backend, found, (command,), "sysctl", quick=quick
        )

    yield one("conf/tapa/forwarding", "0", "event", quick=family == 4)
    yield one("conf/all/forwarding", "0", "event", quick=family == 6)
    yield one("conf/tapa/accept_redirects", "1", "audit")
    if family == 4:
        yield one("ip_forward", "0", "event")
        yield one("conf/tapa/proxy_arp", "0", "event")
        yield one("conf/tapa/rp_filter", "0", "audit")
        yield one("conf/tapa/send_redirects", "1", "audit")
        yield one("conf/tapa/route_localnet", "1", "audit", quick=True)
        yield one("neigh/tapa/proxy_delay", "80", "audit")
    else:
        yield one("conf/tapa/accept_ra", "2", "audit", quick=True)
        yield one("conf/eth0/accept_ra", "1", "audit")
