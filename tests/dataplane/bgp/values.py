"""Any valid `Bgp` value, for tests that hold for all of them."""

from hypothesis import strategies as st

from hopwall_model.bgp import Advertisement, Bgp, FilterRule, PrefixRange, Session
from hopwall_model.cidr import Cidr, length_of, parse_cidr

PASSWORDS = {("bgp", "mesh"): "a b';{}\\#$", ("bgp", "tor"): "sesame"}
FULL = {4: 32, 6: 128}
numbers = st.integers(1, 2**32 - 1)
names = st.from_regex(r"[A-Za-z0-9.\-_/:]{1,40}", fullmatch=True)
patterns = st.from_regex(r"[A-Za-z0-9_.\-]{1,14}\*?", fullmatch=True)
communities = st.one_of(
    st.builds("{}:{}".format, st.integers(0, 65535), st.integers(0, 65535)),
    st.builds("{}:{}:{}".format, numbers, numbers, st.integers(0, 2**32 - 1)),
)
families = st.sampled_from([4, 6])


def hosts(family: int) -> st.SearchStrategy[str]:
    """Make addresses that a peer can have."""
    if family == 4:
        return st.builds("10.{}.{}.{}".format, *[st.integers(0, 255)] * 3)
    return st.integers(1, 0xFFFF).map(lambda n: f"fd30::{n:x}")


@st.composite
def networks(draw: st.DrawFn, family: int, least: int = 1) -> str:
    """Make canonical networks."""
    return parse_cidr(f"{draw(hosts(family))}/{draw(st.integers(least, FULL[family]))}")


@st.composite
def ranges(draw: st.DrawFn, family: int) -> PrefixRange:
    """Make what a peer may be entitled to."""
    net = Cidr(draw(networks(family, 0)))
    longest = draw(st.integers(length_of(net), FULL[family]))
    return PrefixRange(net, draw(st.integers(0, longest)), longest)


@st.composite
def rules(draw: st.DrawFn) -> FilterRule:
    """Make rules of a BGPFilter."""
    family = draw(families)
    operator = draw(st.sampled_from(["equal", "not-equal", "in", "not-in", ""]))
    return FilterRule(
        action=draw(st.sampled_from(["accept", "reject"])),
        family=family,  # type: ignore[arg-type]
        operator=operator,  # type: ignore[arg-type]
        cidr=draw(networks(family, 0)) if operator else "",
        shortest=draw(st.integers(0, 128)),
        longest=draw(st.integers(0, 128)),
        from_peers=draw(st.booleans()),
        interface=draw(st.just("") | patterns),
        peer_type=draw(st.sampled_from(["ebgp", "ibgp", ""])),
        communities=tuple(draw(st.lists(communities, max_size=2))),
        as_path_prefix=tuple(draw(st.lists(numbers, max_size=3))),
        add_communities=tuple(draw(st.lists(communities, max_size=2))),
        prepend_as_path=tuple(draw(st.lists(numbers, max_size=3))),
    )


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Make sessions."""
    family = draw(families)
    local_as, peer_as = draw(numbers), draw(numbers)
    client = draw(st.booleans())
    source, hops = draw(st.just("") | hosts(family)), draw(st.integers(0, 255))
    direct = draw(st.booleans())
    return Session(
        name=draw(names),
        family=family,  # type: ignore[arg-type]
        peer_ip=draw(hosts(family)),
        peer_as=local_as if client else peer_as,
        local_as=local_as,
        peer_host=draw(st.sampled_from(["", "h2"])),
        peer_port=draw(st.integers(1, 65535)),
        reflector_client=client,
        passive=draw(st.booleans()),
        password=draw(st.none() | st.sampled_from(sorted(PASSWORDS))),
        source_ip=source,
        next_hop=draw(st.sampled_from(["auto", "self", "keep"])),
        restart_s=draw(st.integers(0, 4095)),
        keepalive_s=draw(st.integers(0, 21845)),
        allow_local_as=draw(st.integers(0, 255)),
        ttl_security=hops,
        reachable_by=draw(st.just("") | hosts(family)),
        bfd=draw(st.booleans()) if source or hops == 1 or (direct and not hops) else False,
        direct=direct,
        entitled=tuple(draw(st.lists(ranges(family), max_size=3))),
        import_limit=draw(st.integers(1, 2**30)),
        imports=tuple(draw(st.lists(rules(), max_size=3))),
        exports=tuple(draw(st.lists(rules(), max_size=3))),
    )


@st.composite
def speakers(draw: st.DrawFn) -> Bgp:
    """Make whole values; no two sessions have one address or name."""
    nets = [tuple(draw(st.lists(families.flatmap(networks), max_size=3))) for _ in range(3)]
    return Bgp(
        router_id=draw(hosts(4)),
        as_number=draw(numbers),
        listen_port=draw(st.integers(1, 65535)),
        cluster_id=draw(st.just("") | hosts(4)),
        log_severity=draw(st.sampled_from(["none", "debug", "info", "warning", "error", "fatal"])),
        ignored_interfaces=tuple(draw(st.lists(patterns, max_size=2))),
        sessions=tuple(
            draw(
                st.lists(sessions(), max_size=3, unique_by=(lambda s: s.peer_ip, lambda s: s.name))
            )
        ),
        unclaimed=tuple(draw(st.lists(families.flatmap(ranges), max_size=2))),
        blocks=nets[0],
        pools=nets[1],
        advertisements=tuple(
            Advertisement(cidr=net, communities=tuple(draw(st.lists(communities, max_size=2))))
            for net in nets[2]
        ),
    )
