"""Filters in BIRD's language: what a session may bring in, and what it is told.

Pure. Numbers, canonical addresses and hashed names only; `faults` has looked at every value before.

Import: nothing but what the peer is entitled to, never a default route, a martian or an address that hosts live by;
then the filters of the user. They can only take away, or add communities.
Export: only candidates (our blocks, our host routes, what we learnt within the pools) are shown to the filters
of the user; where none decides, blocks and host routes outside them go out, and a reflector passes on.

Source: BIRD 2.0 User's Guide, "Filters"; Calico, BGPFilter (all matches of a rule must hold, first rule wins).
"""

from collections.abc import Collection, Iterable, Sequence

from hopwall_dataplane.moves.phases import ELEVATED, SETTLED
from hopwall_dataplane.routes.route import ROUTE_PROTOCOL
from hopwall_model import cidr
from hopwall_model.bgp import Advertisement, Bgp, FilterRule, PrefixRange, Session
from hopwall_model.cidr import Cidr

#: What nobody may announce (RFC 6890): this host, loopback, link-local, multicast, reserved; in IPv6 also all
#: of ::/8, where addresses with an IPv4 one inside live.
_MARTIANS = {
    4: "0.0.0.0/8+, 127.0.0.0/8+, 169.254.0.0/16+, 224.0.0.0/3+",
    6: "::/8+, fe80::/10+, ff00::/8+",
}
_FULL = {4: 32, 6: 128}

#: A local workload's route, as learnt from the kernel, wins over static ones (200) and over BGP (100).
LOCAL_PREFERENCE = 250
#: That of a workload which is being moved away loses to whatever a peer is entitled to say of its address.
YIELDING_PREFERENCE = 90
#: What a workload that has just arrived is announced with, for all to prefer it. Source: Calico, 2147483647 - 512.
ELEVATED_LOCAL_PREF = 2147483647 - ELEVATED


def of_family(networks: Iterable[str], family: int) -> list[Cidr]:
    """Return the networks of a family, in the order given."""
    return [Cidr(n) for n in networks if cidr.family_of(Cidr(n)) == family]


def definitions(
    bgp: Bgp, family: int, interface_prefixes: Sequence[str], reserved: Collection[str]
) -> list[str]:
    """Render what all filters of a family call: which routes are whose.

    `reserved` are addresses that hosts live by: a route to one of them alone is nobody's to announce.
    """
    full = _FULL[family]
    pools = of_family(bgp.pools, family)
    hosts = [PrefixRange(pool, full, full) for pool in pools]
    learnt = [PrefixRange(pool, cidr.length_of(pool), full) for pool in pools]
    inside = [
        PrefixRange(block, cidr.length_of(block) + 1, full) for block in aggregates(bgp, family)
    ]
    kept = [PrefixRange(net, full, full) for net in of_family(reserved, family)]
    unclaimed = _clamped(_unclaimed(bgp, family))
    workloads = " || ".join(f'ifname ~ "{prefix}*"' for prefix in interface_prefixes)
    ours = f"source = RTS_INHERIT && krt_source = {ROUTE_PROTOCOL} && ({workloads}) && "
    return [
        *_function(f"hw_host{family}", ours, hosts),
        *_function(f"hw_learnt{family}", "source = RTS_BGP && ", learnt),
        *_function(f"hw_arrived{family}", f"{ours}krt_metric = {ELEVATED} && ", hosts),
        *_function(f"hw_settled{family}", f"{ours}krt_metric = {SETTLED} && ", hosts),
        *_function(f"hw_inside{family}", "", inside),
        *_function(f"hw_reserved{family}", "", kept),
        *_function(f"hw_unclaimed{family}", "", unclaimed),
    ]


def aggregates(bgp: Bgp, family: int) -> list[Cidr]:
    """Return the host's own blocks that are more than one address; the others are host routes."""
    return [b for b in of_family(bgp.blocks, family) if not cidr.is_host_cidr(b)]


def has_unclaimed(bgp: Bgp, session: Session) -> bool:
    """Tell whether the peer may announce what is in no host's block: it is one of our hosts."""
    return bool(session.peer_host and _unclaimed(bgp, session.family))


def import_filter(name: str, session: Session, *, unclaimed: bool) -> list[str]:
    """Render what is taken from the peer; with `unclaimed` also what is in no host's block."""
    family = session.family
    shared = f"hw_unclaimed{family}()"
    if session.entitled:
        entitled = _set(_clamped(session.entitled))
        refused = f"!(net ~ {entitled} || {shared})" if unclaimed else f"net !~ {entitled}"
    elif unclaimed:
        refused = f"!{shared}"
    else:
        return [f"filter {name} {{", "  reject;", "}"]
    lines = [
        "if net.len = 0 then reject;",
        f"if net ~ [ {_MARTIANS[family]} ] then reject;",
        f"if {refused} then reject;",
        f"if hw_reserved{family}() then reject;",
    ]
    if is_mesh(session):
        # Who is in the mesh speaks for itself alone: what it announces is reached through it.
        lines.append("if bgp_next_hop != from then reject;")
    lines += _rules(session.imports, session)
    return [f"filter {name} {{", *(f"  {line}" for line in lines), "  accept;", "}"]


def export_filter(
    name: str, session: Session, advertisements: Iterable[Advertisement], *, reflects: bool
) -> list[str]:
    """Render what the peer is told.

    A workload that has just arrived by a migration is announced with preference over all others; it is announced
    also out of a block of this host, and stays so.
    """
    family = session.family
    block = f'proto = "hw_blocks{family}"'
    host, learnt, inside, arrived, settled = (
        f"hw_{kind}{family}()" for kind in ("host", "learnt", "inside", "arrived", "settled")
    )
    lines = [f"if !({block} || {host} || {learnt}) then reject;"]
    lines.append(f"if {arrived} then {{ bgp_local_pref = {ELEVATED_LOCAL_PREF}; }}")
    for one in advertisements:
        if cidr.family_of(Cidr(one.cidr)) == family:
            added = " ".join(map(_add, one.communities))
            lines.append(f"if net ~ [ {one.cidr}+ ] then {{ {added} }}")
    lines += _rules(session.exports, session)
    lines += [f"if {told} then accept;" for told in (block, arrived, settled)]
    lines.append(f"if {host} && !{inside} then accept;")
    if reflects:
        lines.append(f"if {learnt} then accept;")
    return [f"filter {name} {{", *(f"  {line}" for line in lines), "  reject;", "}"]


def is_mesh(session: Session) -> bool:
    """Tell whether the peer is a host of the full mesh, which is never a reflector."""
    return session.name.startswith("mesh/")


# ---------------------------------------------------------------- the rules of a BGPFilter


def _rules(rules: Iterable[FilterRule], session: Session) -> list[str]:
    """Render the rules that can match on this session, in order."""
    internal = session.peer_as == session.local_as
    kind = "ibgp" if internal else "ebgp"
    lines = []
    for rule in rules:
        if rule.family != session.family or rule.peer_type not in ("", kind):
            continue
        conditions = _conditions(rule)
        if conditions is None:
            continue
        body = f"{rule.action};"
        if rule.action == "accept" and (operations := _operations(rule)):
            body = f"{{ {' '.join(operations)} accept; }}"
        lines.append(f"if {' && '.join(conditions) or 'true'} then {body}")
    return lines


def _conditions(rule: FilterRule) -> list[str] | None:
    """Return what must hold, None when it never can."""
    found = _network_condition(rule)
    if found is None:
        return None
    if rule.from_peers:
        found.append("source = RTS_BGP")
    if rule.interface:
        found.append(f'ifname ~ "{rule.interface}"')
    found += [f"{_tuple(c)} ~ {_attribute(c)}" for c in rule.communities]
    if rule.as_path_prefix:
        path = " ".join(map(str, rule.as_path_prefix))
        found.append(f"bgp_path ~ [= {path} * =]")
    return found


def _network_condition(rule: FilterRule) -> list[str] | None:
    full = _FULL[rule.family]
    shortest, longest = rule.shortest, min(rule.longest, full)
    if rule.operator in ("in", "not-in"):
        one = PrefixRange(rule.cidr, max(shortest, cidr.length_of(Cidr(rule.cidr))), longest)
        if one.shortest > one.longest:
            return None if rule.operator == "in" else []
        return [f"net {'~' if rule.operator == 'in' else '!~'} {_set([one])}"]
    found = []
    if rule.operator:
        found.append(f"net {'=' if rule.operator == 'equal' else '!='} {rule.cidr}")
    if shortest > 0:
        found.append(f"net.len >= {shortest}")
    if longest < full:
        found.append(f"net.len <= {longest}")
    return found


def _operations(rule: FilterRule) -> list[str]:
    # Prepending puts a number before those there: the last one first, so that they stand as written.
    prepends = [f"bgp_path.prepend({n});" for n in reversed(rule.prepend_as_path)]
    return [*map(_add, rule.add_communities), *prepends]


def _add(community: str) -> str:
    return f"{_attribute(community)}.add({_tuple(community)});"


def _attribute(community: str) -> str:
    return "bgp_large_community" if community.count(":") == 2 else "bgp_community"


def _tuple(community: str) -> str:
    return f"({', '.join(str(int(n)) for n in community.split(':'))})"


# ---------------------------------------------------------------- networks


def _unclaimed(bgp: Bgp, family: int) -> list[PrefixRange]:
    return [one for one in bgp.unclaimed if cidr.family_of(Cidr(one.cidr)) == family]


def _clamped(ranges: Iterable[PrefixRange]) -> list[PrefixRange]:
    """Leave out networks that are wider than the range's own: they would not be inside it."""
    return [
        PrefixRange(one.cidr, max(one.shortest, cidr.length_of(Cidr(one.cidr))), one.longest)
        for one in ranges
    ]


def _function(name: str, condition: str, ranges: Sequence[PrefixRange]) -> list[str]:
    value = f"{condition}net ~ {_set(ranges)}" if ranges else "false"
    return [f"function {name}() {{", f"  return {value};", "}"]


def _set(ranges: Iterable[PrefixRange]) -> str:
    each = sorted({f"{r.cidr}{{{r.shortest},{r.longest}}}" for r in ranges})
    return f"[ {', '.join(each)} ]"
