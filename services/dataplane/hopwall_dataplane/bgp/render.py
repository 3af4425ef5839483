"""A `Bgp` value → the one configuration of a BIRD that speaks both families.

Pure. Equal values give equal bytes: no time, no order of arrival. A protocol's name is a hash, so no text of
a user is ever in it, save a password, in quotes it cannot leave. What makes no sense is left out and named.

The four settings that let no route go when BIRD crashes: graceful restart of each session; `persist` and
graceful restart of the kernel protocols; and a start with -R (`process`).

Source: BIRD 2.0 User's Guide; Calico's bird.cfg template, for timers and for what the kernel protocol learns.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import astuple, replace

from hopwall_dataplane.bgp import filters
from hopwall_dataplane.bgp.faults import (
    Fault,
    check_communities,
    check_network,
    check_password,
    check_range,
    check_session,
    check_speaker,
)
from hopwall_dataplane.moves.phases import YIELDING
from hopwall_dataplane.routes.route import ROUTE_PROTOCOL
from hopwall_model import cidr
from hopwall_model.bgp import Bgp, Session
from hopwall_model.names import digest

#: What the daemon is asked for to learn which configuration it runs.
CONFIG_SYMBOL = "hw_config"
#: Of the routes BIRD writes. Ours have 0 (IPv6: 1024), so a local workload wins over what was learnt; one that
#: is being moved away yields (`moves.phases`).
KERNEL_METRIC = 2048
#: What the kernel keeps of its news for BIRD, at most: a burst that does not fit is seen at the next scan, seconds
#: later. 10,000 routes overflow the default (some 200 KiB) in 0.1 s.
KERNEL_NEWS_BYTES = 64 * 1024 * 1024
#: How long a daemon started with -R waits for peers before it believes that what they do not say is gone.
RECOVERY_WAIT_S = 60

_LOG = {
    "none": "bug",
    "fatal": "fatal, bug",
    "error": "error, auth, fatal, bug",
    "warning": "warning, error, auth, fatal, bug",
    "info": "info, remote, warning, error, auth, fatal, bug",
    "debug": "debug, trace, info, remote, warning, error, auth, fatal, bug",
}

Secret = tuple[str, str]

#: A speaker without sessions: the daemon has nothing to do.
IDLE = Bgp(router_id="192.0.2.1", as_number=64512)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A configuration, and what it is about.

    Shape: `sessions` maps a protocol's name to its session's; `refused` an object that is left out to why.
    """

    text: str
    digest: str
    sessions: dict[str, str]
    refused: dict[str, str]


def render(
    bgp: Bgp,
    *,
    interface_prefixes: Sequence[str],
    secrets: Mapping[Secret, str],
    reserved: Collection[str] = (),
    left_out: Mapping[str, str] | None = None,
    forgotten: Collection[str] = (),
) -> Rendered:
    """Render a host's configuration; sessions in `left_out` (name → why) are not in it.

    `reserved` are addresses (/32, /128) that this host lives by; those of its peers are added. For sessions in
    `forgotten` a daemon that starts after a crash does not wait.

    Errors: `Fault` when nothing can be rendered.
    Cost:   about 20 µs a session.
    """
    check_speaker(bgp)
    refused: dict[str, str] = {}
    bgp = _sound(bgp, refused)
    sessions: dict[str, Session] = {}
    addresses: set[str] = set()
    for session in sorted(bgp.sessions, key=lambda s: s.name):
        try:
            if session.name in (left_out or {}):
                raise Fault((left_out or {})[session.name])
            check_session(session)
            _password(session, secrets)
            name = protocol_name(session.name)
            if session.peer_ip in addresses or name in sessions:
                raise Fault(f"Another session has its peer's address, {session.peer_ip}.")
        except Fault as fault:
            refused[f"bgp {session.name}"] = str(fault)
            continue
        addresses.add(session.peer_ip)
        sessions[name] = replace(session, restart_s=0) if session.name in forgotten else session
    body = _body(bgp, sessions, interface_prefixes, reserved, secrets)
    known = digest("\n".join(body), 16)
    head = ["# Made by hopwall; changes are lost.", f'define {CONFIG_SYMBOL} = "{known}";']
    text = "".join(f"{line}\n" for line in [*head, *body])
    return Rendered(text, known, {n: s.name for n, s in sessions.items()}, refused)


def protocol_name(session: str) -> str:
    """Return what a session is called in BIRD."""
    return f"hw_{digest(session, 16)}"


def session_at(rendered: Rendered, line: int) -> str | None:
    """Return the session to which a line of the text (from 1) belongs; None for what all share."""
    for text in reversed(rendered.text.splitlines()[:line]):
        if text[:1] in (" ", "}"):
            continue
        words = text.split()
        name = words[2] if words[:2] == ["protocol", "bgp"] else words[1] if words[1:] else ""
        return rendered.sessions.get(name.removesuffix("_in").removesuffix("_out"))
    return None


def _sound(bgp: Bgp, refused: dict[str, str]) -> Bgp:
    """Return the value without the blocks, pools and advertisements that make no sense."""

    def keep(what: str, networks: Iterable[str]) -> tuple[str, ...]:
        found = set()
        for network in networks:
            if _passes(partial(check_network, network, what), f"bgp {what} {network}", refused):
                found.add(network)
        return tuple(sorted(found))

    unclaimed = [
        one
        for one in sorted(set(bgp.unclaimed), key=astuple)
        if _passes(partial(check_range, one), f"bgp range {one.cidr}", refused)
    ]
    advertisements = [
        one
        for one in sorted(bgp.advertisements, key=lambda a: (a.cidr, a.communities))
        if one.communities
        and keep("advertisement", (one.cidr,))
        and _passes(
            partial(check_communities, one.communities),
            f"bgp advertisement {one.cidr}",
            refused,
        )
    ]
    return Bgp(
        **{f: getattr(bgp, f) for f in Bgp.__struct_fields__ if f not in _NETWORKS},
        blocks=keep("block", bgp.blocks),
        pools=keep("pool", bgp.pools),
        unclaimed=tuple(unclaimed),
        advertisements=tuple(advertisements),
    )


_NETWORKS = ("blocks", "pools", "advertisements", "unclaimed")


def _passes(check: Callable[[], None], name: str, refused: dict[str, str]) -> bool:
    try:
        check()
    except Fault as fault:
        refused[name] = str(fault)
        return False
    return True


def _password(session: Session, secrets: Mapping[Secret, str]) -> str:
    """Return the session's password, "" when it has none.

    Errors: `Fault`: without its password a session is closed.
    """
    if session.password is None:
        return ""
    found = secrets.get(session.password)
    if found is None:
        where = "/".join(session.password)
        raise Fault(f"Its password, the secret {where[:100]!r}, cannot be read on this host.")
    check_password(found)
    return found


# ---------------------------------------------------------------- the text


def _body(
    bgp: Bgp,
    sessions: Mapping[str, Session],
    interface_prefixes: Sequence[str],
    reserved: Collection[str],
    secrets: Mapping[Secret, str],
) -> list[str]:
    kept = {*reserved, *(cidr.host_cidr(cidr.Ip(s.peer_ip)) for s in sessions.values())}
    ignored = sorted({*(f"{p}*" for p in interface_prefixes), *bgp.ignored_interfaces})
    interfaces = ", ".join([*(f'-"{name}"' for name in ignored), '"*"'])
    lines = [
        f"log stderr {{ {_LOG[bgp.log_severity]} }};",
        f"router id {bgp.router_id};",
        f"graceful restart wait {RECOVERY_WAIT_S};",
        *_block("protocol device hw_device", ["scan time 10;"]),
        # Where next hops are; without it no route of a peer inside our AS is of use.
        *_block("protocol direct hw_direct", ["ipv4;", "ipv6;", f"interface {interfaces};"]),
    ]
    for family in (4, 6):
        lines += _kernel(family)
        lines += _static(f"hw_blocks{family}", family, _black_holes(bgp, family))
        lines += _static(f"hw_reach{family}", family, _ways(sessions.values(), family))
        lines += filters.definitions(bgp, family, interface_prefixes, kept)
    if any(session.bfd for session in sessions.values()):
        lines += ["protocol bfd hw_bfd {", "}"]
    for name, session in sessions.items():
        lines += filters.import_filter(
            f"{name}_in", session, unclaimed=filters.has_unclaimed(bgp, session)
        )
        lines += filters.export_filter(
            f"{name}_out", session, bgp.advertisements, reflects=bool(bgp.cluster_id)
        )
        lines += _session(name, session, bgp, _password(session, secrets))
    return lines


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"  {line}" for line in lines), "}"]


def _kernel(family: int) -> list[str]:
    """Render what is learnt from the kernel, and what is written to it.

    Both families always stand: a kernel protocol that goes would leave its routes behind (`persist`).
    """
    learn, program = f"hw_learn{family}", f"hw_program{family}"
    ours = f"{{ preference = {filters.LOCAL_PREFERENCE}; accept; }}"
    yields = f"krt_source = {ROUTE_PROTOCOL} && krt_metric = {YIELDING}"
    yielding = f"{{ preference = {filters.YIELDING_PREFERENCE}; accept; }}"
    mine = (f'proto = "hw_{what}{family}"' for what in ("blocks", "reach"))
    return [
        *_block(
            f"filter {learn}",
            [
                f"if {yields} then {yielding}",
                f"if krt_source = {ROUTE_PROTOCOL} then {ours}",
                "accept;",
            ],
        ),
        *_block(
            f"filter {program}",
            [f"if {test} then accept;" for test in ("source = RTS_BGP", *mine)] + ["reject;"],
        ),
        *_block(
            f"protocol kernel hw_kernel{family}",
            [
                "learn on;",
                "persist on;",
                "graceful restart on;",
                "merge paths on limit 16;",
                f"metric {KERNEL_METRIC};",
                f"netlink rx buffer {KERNEL_NEWS_BYTES};",
                "scan time 10;",
                *_channel(family, [f"import filter {learn};", f"export filter {program};"]),
            ],
        ),
    ]


def _channel(family: int, lines: Iterable[str]) -> list[str]:
    return [f"ipv{family} {{", *(f"  {line}" for line in lines), "};"]


def _static(name: str, family: int, routes: Sequence[str]) -> list[str]:
    if not routes:
        return []
    return _block(f"protocol static {name}", [f"ipv{family};", *routes])


def _black_holes(bgp: Bgp, family: int) -> list[str]:
    """An aggregate is black-holed before it is announced: an address nobody has must not go in circles."""
    return [f"route {block} blackhole;" for block in filters.aggregates(bgp, family)]


def _ways(sessions: Iterable[Session], family: int) -> list[str]:
    return [
        f"route {cidr.host_cidr(cidr.Ip(s.peer_ip))} via {s.reachable_by};"
        for s in sessions
        if s.reachable_by and s.family == family
    ]


def _session(name: str, session: Session, bgp: Bgp, password: str) -> list[str]:
    source = f"{session.source_ip} " if session.source_ip else ""
    lines = [
        f"local {source}port {bgp.listen_port} as {session.local_as};",
        f"neighbor {session.peer_ip} port {session.peer_port} as {session.peer_as};",
        *_distance(session),
    ]
    if session.passive:
        lines.append("passive on;")
    if password:
        lines.append(f'password "{password}";')
    if session.reflector_client:
        lines.append("rr client;")
    if bgp.cluster_id and session.peer_as == session.local_as:
        lines.append(f"rr cluster id {bgp.cluster_id};")
    if session.bfd:
        lines.append("bfd on;")
    if session.allow_local_as:
        lines.append(f"allow local as {session.allow_local_as};")
    if session.keepalive_s:
        lines.append(f"keepalive time {session.keepalive_s};")
        lines.append(f"hold time {session.keepalive_s * 3};")
    restart = f"graceful restart time {session.restart_s};"
    lines += ["graceful restart on;", restart] if session.restart_s else ["graceful restart off;"]
    lines += ["connect delay time 1;", "connect retry time 2;", "error wait time 5, 30;"]
    channel = [
        "import keep filtered on;",
        f"import limit {session.import_limit} action block;",
        # Also what is filtered is kept: a peer must not fill the memory with what it may not announce.
        f"receive limit {2 * session.import_limit} action block;",
        "gateway recursive;",
    ]
    if session.family == 6:
        # The peer may name a link-local next hop too, and no filter sees it: it could be another machine's.
        channel.append("next hop prefer global;")
    if session.next_hop != "auto":
        channel.append(f"next hop {session.next_hop};")
    channel += [f"import filter {name}_in;", f"export filter {name}_out;"]
    return _block(f"protocol bgp {name}", [*lines, *_channel(session.family, channel)])


def _distance(session: Session) -> list[str]:
    """Render how far the peer may be: any number of hops, or just as many as its packets prove."""
    hops = session.ttl_security
    if not hops:
        return ["direct;" if session.direct else "multihop;"]
    return ["direct;" if hops == 1 else f"multihop {hops};", "ttl security on;"]
