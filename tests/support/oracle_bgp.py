"""The dumb answer to what a host's BGP daemon is to do: every question asked of every host and address.

What may be announced is not compared as text alone: `announceable` asks it of single networks, from the
documents' sentences.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from hopwall_model import selectors
from hopwall_model.bgp import Advertisement, Bgp, FilterRule, PrefixRange, Session
from hopwall_model.names import digest
from hopwall_model.resources import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    IPAMBlock,
    IPPool,
    Node,
    NodeBgp,
    Resource,
)

Network = IPv4Network | IPv6Network


class BgpOracle:
    """Answers for one set of resources; `living` says which addresses live on a host."""

    def __init__(self, values: list[Resource], living: Callable[[str], list[str]]) -> None:
        self.living = living
        self.nodes = {r.metadata.name: r for r in values if isinstance(r, Node)}
        self.speakers = {name: n.spec.bgp for name, n in self.nodes.items() if n.spec.bgp}
        self.configs = {r.metadata.name: r.spec for r in values if isinstance(r, BGPConfiguration)}
        self.peers = {r.metadata.name: r.spec for r in values if isinstance(r, BGPPeer)}
        self.filters = {r.metadata.name: r.spec for r in values if isinstance(r, BGPFilter)}
        self.pools = [r.spec for r in values if isinstance(r, IPPool)]
        self.exported = [ip_network(p.cidr) for p in self.pools if not p.disable_bgp_export]
        blocks = [r.spec for r in values if isinstance(r, IPAMBlock)]
        self.blocks = [(ip_network(b.cidr), b.affinity[5:]) for b in blocks if b.affinity]

    def of(self, host: str) -> Bgp:
        """Return what the host's daemon is to do."""
        bgp = self.speakers.get(host)
        if bgp is None:
            return Bgp(router_id="192.0.2.1", as_number=64512)
        hashed = int.from_bytes(digest(host, 8).encode(), "big") % (2**32 - 1) + 1
        severity: Any = (self.said(host, "log_severity_screen") or "Info").lower()
        sessions = self.sessions(host)
        peers = {s.peer_host for s in sessions.values()} - {""}
        return Bgp(
            router_id=_bare(bgp.ipv4_address) or str(ip_network(hashed)[0]),
            as_number=self.as_number(host),
            listen_port=self.said(host, "listen_port") or 179,
            cluster_id=bgp.route_reflector_cluster_id,
            log_severity=severity,
            ignored_interfaces=self.said(host, "ignored_interfaces") or (),
            sessions=tuple(sorted(sessions.values(), key=lambda s: s.name)),
            blocks=tuple(sorted(str(net) for net in self.own_blocks(host))),
            pools=_texts(self.exported),
            unclaimed=() if all(map(self.cluster, peers)) else self.unclaimed(),
            advertisements=self.advertisements(host),
        )

    def said(self, host: str, field: str) -> Any:
        """Return what the host's own configuration says, else that of all."""
        found = [self.configs.get(f"node.{host}"), self.configs.get("default")]
        return next((v for c in found if c is not None and (v := getattr(c, field))), None)

    def as_number(self, host: str) -> Any:
        """Return the host's number."""
        return self.speakers[host].as_number or self.said(host, "as_number") or 64512

    def advertisements(self, host: str) -> tuple[Advertisement, ...]:
        """Return the communities of ranges, each by value."""
        for name in (f"node.{host}", "default"):
            config = self.configs.get(name)
            if config is not None and config.prefix_advertisements:
                values = {c.name: c.value for c in config.communities}
                return tuple(
                    Advertisement(
                        cidr=a.cidr, communities=tuple(values.get(c, c) for c in a.communities)
                    )
                    for a in config.prefix_advertisements
                )
        return ()

    # ------------------------------------------------------------ sessions

    def sessions(self, host: str) -> dict[str, Session]:
        """Return the sessions by address: the strongest declaration of each first."""
        found: dict[str, Session] = {}
        for strength in range(6):
            for name in sorted(self.peers):
                peer = self.peers[name]
                forward = 0 if peer.node else 1 if peer.node_selector else 2
                if strength == forward and self.is_local(peer, host):
                    for session in self.of_peer(host, name, forwards=True):
                        found.setdefault(session.peer_ip, session)
                if strength == forward + 3 and self.is_remote(peer, host):
                    for session in self.of_peer(host, name, forwards=False):
                        found.setdefault(session.peer_ip, session)
        for session in self.of_mesh(host):
            found.setdefault(session.peer_ip, session)
        return found

    def is_local(self, peer: Any, host: str) -> bool:
        """Tell whether the peering is for the host."""
        if peer.node:
            return bool(peer.node == host)
        return not peer.node_selector or self.matches(peer.node_selector, host)

    def is_remote(self, peer: Any, host: str) -> bool:
        """Tell whether the host is the other side and gets its session of itself."""
        auto = peer.peer_selector and peer.reverse_peering == "Auto"
        return bool(auto) and self.matches(peer.peer_selector, host)

    def matches(self, text: str, host: str) -> bool:
        """Tell whether the selector means the host."""
        return selectors.parse(text).matches(self.nodes[host].metadata.labels)

    def of_peer(self, host: str, name: str, *, forwards: bool) -> Iterable[Session]:
        """Yield the sessions that a BGPPeer gives the host."""
        peer = self.peers[name]
        if peer.peer_ip:
            yield from self.to_address(host, name)
            return
        for other in sorted(self.speakers):
            is_other = (
                self.matches(peer.peer_selector, other) if forwards else self.is_local(peer, other)
            )
            if not is_other or other == host:
                continue
            for mine, its in zip(self.ips(host), self.ips(other), strict=True):
                if mine and its and mine != its:
                    yield self.session(
                        host, name, its, other, self.as_number(other), self.port(other)
                    )

    def to_address(self, host: str, name: str) -> Iterable[Session]:
        """Yield the session with an address, if the host has one of its family."""
        peer = self.peers[name]
        text, port = peer.peer_ip, 0
        if text.startswith("["):
            text, port = text[1:].split("]:")[0], int(text.split("]:")[1])
        elif text.count(":") == 1:
            text, port = text.split(":")[0], int(text.split(":")[1])
        mine = self.ips(host)[":" in text]
        if mine and mine != text:
            owners = [h for h in sorted(self.speakers) if text in self.ips(h)]
            other = owners[0] if owners else ""
            usual = self.port(other) if other else 179
            yield self.session(host, name, text, other, peer.as_number, port or usual)

    def session(
        self, host: str, name: str, its: str, other: str, number: Any, port: int
    ) -> Session:
        """Return one session of a BGPPeer."""
        peer, v6 = self.peers[name], ":" in its
        mine = self.ips(host)[v6]
        imports, exports = self.rules(name, "import", v6=v6), self.rules(name, "export", v6=v6)
        if not other:
            imports = (*imports, FilterRule(action="reject", family=6 if v6 else 4))
        local: Any = peer.local_as_number or self.as_number(host)
        mode = "Keep" if peer.keep_original_next_hop else peer.next_hop_mode or "Auto"
        modes: Any = {"Keep": "keep", "Self": "self", "Auto": "auto"}
        secret = peer.password.secret_key_ref if peer.password else None
        auto = bool(peer.peer_selector) and peer.reverse_peering == "Auto"
        return Session(
            name=f"peer/{name}/{its}",
            family=6 if v6 else 4,
            peer_ip=its,
            peer_port=port,
            peer_as=number,
            local_as=local,
            peer_host=other,
            reflector_client=self.reflects(host, other) and local == number,
            passive=auto and its > mine,
            password=(secret.name, secret.key) if secret else None,
            source_ip=mine if peer.source_address == "UseNodeIP" else "",
            next_hop=modes[mode],
            restart_s=_seconds(peer.max_restart_time, 120),
            keepalive_s=_seconds(peer.keepalive_time, 0),
            allow_local_as=peer.num_allowed_local_as_numbers,
            ttl_security=peer.ttl_security,
            reachable_by=peer.reachable_by,
            bfd=peer.bfd,
            direct=bool(peer.bfd and not peer.ttl_security and not peer.reachable_by)
            and self.on_link(host, its)
            and (not other or self.on_link(other, mine)),
            entitled=self.entitled(other, v6=v6) if other else self.outsider(imports, v6=v6),
            imports=imports,
            exports=exports,
        )

    def of_mesh(self, host: str) -> Iterable[Session]:
        """Yield a session with every other host of the mesh."""
        default = self.configs.get("default")
        secret = default.node_mesh_password if default else None
        if default is not None and default.node_to_node_mesh_enabled is False:
            return
        for other in sorted(self.speakers):
            if other == host or self.cluster(host) or self.cluster(other):
                continue
            for mine, its in zip(self.ips(host), self.ips(other), strict=True):
                if mine and its and mine != its:
                    yield Session(
                        name=f"mesh/{other}/{its}",
                        family=6 if ":" in its else 4,
                        peer_ip=its,
                        peer_port=self.port(other),
                        peer_as=self.as_number(other),
                        local_as=self.as_number(host),
                        peer_host=other,
                        passive=its > mine,
                        password=(secret.secret_key_ref.name, secret.secret_key_ref.key)
                        if secret
                        else None,
                        source_ip=mine,
                        restart_s=_seconds(
                            default.node_mesh_max_restart_time if default else "", 120
                        ),
                        entitled=self.entitled(other, v6=":" in its),
                    )

    def ips(self, host: str) -> tuple[str, str]:
        """Return the host's BGP addresses of both families."""
        bgp = self.speakers.get(host, NodeBgp())
        return _bare(bgp.ipv4_address), _bare(bgp.ipv6_address)

    def on_link(self, host: str, address: str) -> bool:
        """Tell whether the address is in a network that the host says it has an address in."""
        bgp = self.speakers[host]
        own = [ip_network(t, strict=False) for t in (bgp.ipv4_address, bgp.ipv6_address) if t]
        return any(ip_address(address) in net for net in own)

    def port(self, host: str) -> int:
        """Return where the host listens."""
        return self.said(host, "listen_port") or 179

    def cluster(self, host: str) -> str:
        """Return the host's cluster id."""
        bgp = self.speakers.get(host)
        return bgp.route_reflector_cluster_id if bgp else ""

    def reflects(self, host: str, other: str) -> bool:
        """Tell whether the host reflects to another, if they are of one number."""
        return bool(self.cluster(host)) and self.cluster(host) != self.cluster(other)

    def rules(self, name: str, direction: str, *, v6: bool) -> tuple[FilterRule, ...]:
        """Return the rules of a BGPPeer's filters."""
        rules: list[FilterRule] = []
        for filter_ in self.peers[name].filters:
            if filter_ not in self.filters:
                rules.append(FilterRule(action="reject", family=6 if v6 else 4))
                break
            given = getattr(self.filters[filter_], f"{direction}_v{6 if v6 else 4}")
            rules += [_rule(rule, v6=v6) for rule in given]
        return tuple(rules)

    # ------------------------------------------------------------ what is believed

    def own_blocks(self, host: str) -> list[Network]:
        """Return the host's blocks in announced pools."""
        own = {net for net, owner in self.blocks if owner == host}
        return [net for net in own if any(_inside(net, pool) for pool in self.exported)]

    def entitled(self, host: str, *, v6: bool) -> tuple[PrefixRange, ...]:
        """Return what one of our hosts may announce, or pass on if it is a reflector."""
        longest = 128 if v6 else 32
        if self.cluster(host):
            lengths = [net.prefixlen for net, _ in self.blocks if (net.version == 6) == v6]
            return tuple(
                PrefixRange(pool, length, length)
                for pool in _texts(self.exported)
                for length in sorted({*lengths, longest})
                if (":" in pool) == v6 and length >= int(pool.split("/")[1])
            )
        found = [str(net) for net in sorted(self.own_blocks(host), key=str)]
        strays = []
        for address in self.living(host):
            net = ip_network(address)
            around = {owner for block, owner in self.blocks if _inside(net, block)}
            if around and host not in around and any(_inside(net, p) for p in self.exported):
                strays.append(address)
        return tuple(
            PrefixRange(text, int(text.split("/")[1]), longest)
            for text in found + sorted(strays)
            if (":" in text) == v6
        )

    def unclaimed(self) -> tuple[PrefixRange, ...]:
        """Return the single addresses of announced pools in nobody's block."""
        left: list[Network] = [ip_network(text) for text in _texts(self.exported)]
        for block, _ in self.blocks:
            left = [part for net in left for part in _less(net, block)]
        return tuple(
            PrefixRange(text, *(2 * [128 if ":" in text else 32])) for text in _texts(left, merge=0)
        )

    def outsider(self, rules: Iterable[FilterRule], *, v6: bool) -> tuple[PrefixRange, ...]:
        """Return what a machine that is none of ours may announce."""
        longest = 128 if v6 else 32
        found: dict[PrefixRange, None] = {}
        for rule in rules:
            if rule.action != "accept":
                continue
            inside = rule.operator in ("equal", "in")
            net = ip_network(rule.cidr) if inside else ip_network("::/0" if v6 else "0.0.0.0/0")
            first = max(rule.shortest, net.prefixlen if inside else 1)
            last = min(rule.longest, net.prefixlen if rule.operator == "equal" else longest)
            if first <= last:
                found[PrefixRange(str(net), first, last)] = None
        ours = _texts([ip_network(p.cidr) for p in self.pools if (":" in p.cidr) == v6])
        left = list(found)
        for pool in map(ip_network, ours):
            left = [part for range_ in left for part in _beside(range_, pool)]
        return tuple(left)


def announceable(bgp: Bgp, session: Session, network: str) -> bool:
    """Tell whether the session's peer may announce the network."""
    given = (*session.entitled, *(bgp.unclaimed if session.peer_host else ()))
    net = ip_network(network)
    return any(
        _inside(net, ip_network(r.cidr)) and r.shortest <= net.prefixlen <= r.longest for r in given
    )


def _beside(range_: PrefixRange, pool: Network) -> list[PrefixRange]:
    whole = ip_network(range_.cidr)
    if _inside(whole, pool):
        return []
    if not _inside(pool, whole):
        return [range_]
    above = PrefixRange(range_.cidr, range_.shortest, min(range_.longest, pool.prefixlen - 1))
    first = max(range_.shortest, pool.prefixlen)
    below = [PrefixRange(str(n), first, range_.longest) for n in sorted(_less(whole, pool))]
    return [r for r in (above, *below) if r.shortest <= r.longest]


def _less(net: Network, taken: Network) -> list[Any]:
    if _inside(net, taken):
        return []
    return list(net.address_exclude(taken)) if _inside(taken, net) else [net]  # type: ignore[arg-type]


def _inside(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _texts(given: Iterable[Network], *, merge: int = 1) -> tuple[str, ...]:
    """Return networks in order, IPv4 first, and with `merge` neighbours as one."""
    nets: list[Any] = sorted(set(given), key=lambda n: (n.version, int(n[0]), n.prefixlen))
    while merge:
        kept = [n for n in nets if not any(_inside(n, other) for other in nets if other != n)]
        pairs = [(a, b) for a in kept for b in kept if a != b and a.version == b.version
                 and a.prefixlen == b.prefixlen and a.prefixlen and a.supernet() == b.supernet()]  # fmt: skip
        nets = kept
        if not pairs:
            break
        a, b = pairs[0]
        nets = [n for n in kept if n not in (a, b)] + [a.supernet()]
        nets.sort(key=lambda n: (n.version, int(n[0]), n.prefixlen))
    return tuple(map(str, nets))


def _bare(text: str) -> str:
    return text.split("/")[0]


def _seconds(text: str, default: int) -> int:
    if not text:
        return default
    return int(text[:-1]) * (60 if text.endswith("m") else 1)


def _rule(given: Any, *, v6: bool) -> FilterRule:
    operators: Any = {"Equal": "equal", "NotEqual": "not-equal", "In": "in", "NotIn": "not-in"}
    lengths = given.prefix_length
    path: tuple[int, ...] = ()
    for operation in given.operations:
        if operation.prepend_as_path:
            path = (*operation.prepend_as_path.prefix, *path)
    return FilterRule(
        action=given.action.lower(),
        family=6 if v6 else 4,
        operator=operators.get(given.match_operator, ""),
        cidr=given.cidr,
        shortest=lengths.min if lengths and lengths.min is not None else 0,
        longest=lengths.max if lengths and lengths.max is not None else 128 if v6 else 32,
        from_peers=given.source is not None,
        interface=given.interface,
        peer_type=given.peer_type.lower() if given.peer_type else "",
        communities=given.communities.values if given.communities else (),
        as_path_prefix=tuple(given.as_path_prefix),
        add_communities=tuple(o.add_community.value for o in given.operations if o.add_community),
        prepend_as_path=path,
    )
