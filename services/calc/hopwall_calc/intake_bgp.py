"""What calc keeps of the BGP resources and of blocks of addresses, checked as `intake` does."""

import sys
from collections.abc import Iterable
from typing import Literal, cast

from msgspec import Struct
from msgspec.structs import replace

from hopwall_calc.intake import checked
from hopwall_model import selectors, validate_bgp, validate_ipam
from hopwall_model.bgp import Advertisement, FilterRule, NextHopMode
from hopwall_model.bgp_specs import BgpConfigurationSpec, BgpFilterRule, BgpPassword, PrefixLength
from hopwall_model.ipam_specs import IpamBlockSpec
from hopwall_model.problems import Findings
from hopwall_model.resources import BGPConfiguration, BGPFilter, BGPPeer, IPAMBlock
from hopwall_model.selectors import Selector

Severity = Literal["none", "debug", "info", "warning", "error", "fatal"]
#: Name and key of a secret.
Password = tuple[str, str]

DEFAULT_RESTART_S = 120


class BgpConfigInput(Struct, frozen=True, kw_only=True):
    """What matters of a BGP configuration; None and () say nothing."""

    severity: Severity | None = None
    mesh: bool | None = None
    as_number: int | None = None
    listen_port: int | None = None
    ignored_interfaces: tuple[str, ...] = ()
    advertisements: tuple[Advertisement, ...] = ()
    mesh_password: Password | None = None
    mesh_restart_s: int = DEFAULT_RESTART_S


class BgpPeerInput(Struct, frozen=True, kw_only=True):
    """What matters of a BGP peer. Without `node` and `nodes` it is for all hosts."""

    name: str
    node: str
    nodes: Selector | None
    #: An address with its port and number, or hosts.
    peer_ip: str
    peer_port: int
    peer_as: int
    peers: Selector | None
    reverse: bool
    local_as: int | None
    next_hop: NextHopMode
    password: Password | None
    from_node_ip: bool
    restart_s: int
    keepalive_s: int
    allow_local_as: int
    ttl_security: int
    reachable_by: str
    bfd: bool
    filters: tuple[str, ...]


class BgpFilterInput(Struct, frozen=True):
    """What matters of a filter: rules by family."""

    imports: dict[int, tuple[FilterRule, ...]]
    exports: dict[int, tuple[FilterRule, ...]]


class BlockInput(Struct, frozen=True, gc=False):
    """A block of addresses and the host that has it."""

    cidr: str
    host: str


def configuration(resource: BGPConfiguration) -> BgpConfigInput:
    """Return what matters of a BGP configuration."""
    name = resource.metadata.name

    def check(found: Findings, place: str, spec: BgpConfigurationSpec) -> BgpConfigurationSpec:
        return validate_bgp.configuration(found, place, name, spec)

    spec = checked(check, resource.spec)
    named = {community.name: community.value for community in spec.communities}
    severity = spec.log_severity_screen
    return BgpConfigInput(
        severity=None if severity is None else cast(Severity, severity.lower()),
        mesh=spec.node_to_node_mesh_enabled,
        as_number=_number(spec.as_number),
        listen_port=spec.listen_port,
        ignored_interfaces=spec.ignored_interfaces,
        advertisements=tuple(
            Advertisement(
                cidr=given.cidr,
                communities=tuple(named.get(text, text) for text in given.communities),
            )
            for given in spec.prefix_advertisements
        ),
        mesh_password=_password(spec.node_mesh_password),
        mesh_restart_s=_seconds(spec.node_mesh_max_restart_time, DEFAULT_RESTART_S),
    )


def peer(resource: BGPPeer) -> BgpPeerInput:
    """Return what matters of a BGP peer."""
    spec = checked(validate_bgp.peer, resource.spec)
    address, port = validate_bgp.split_peer_ip(spec.peer_ip) if spec.peer_ip else ("", 0)
    mode = (spec.next_hop_mode or ("Keep" if spec.keep_original_next_hop else "Auto")).lower()
    return BgpPeerInput(
        name=resource.metadata.name,
        node=spec.node,
        nodes=selectors.parse(spec.node_selector) if spec.node_selector else None,
        peer_ip=address,
        peer_port=port,
        peer_as=_number(spec.as_number) or 0,
        peers=selectors.parse(spec.peer_selector) if spec.peer_selector else None,
        reverse=spec.reverse_peering == "Auto",
        local_as=_number(spec.local_as_number),
        next_hop=cast(NextHopMode, mode),
        password=_password(spec.password),
        from_node_ip=spec.source_address == "UseNodeIP",
        restart_s=_seconds(spec.max_restart_time, DEFAULT_RESTART_S),
        keepalive_s=_seconds(spec.keepalive_time, 0),
        allow_local_as=spec.num_allowed_local_as_numbers,
        ttl_security=spec.ttl_security,
        reachable_by=spec.reachable_by,
        bfd=spec.bfd,
        filters=spec.filters,
    )


def bgp_filter(resource: BGPFilter) -> BgpFilterInput:
    """Return what matters of a BGP filter."""
    spec = checked(validate_bgp.bgp_filter, resource.spec)
    return BgpFilterInput(
        imports={4: _rules(spec.import_v4, 4), 6: _rules(spec.import_v6, 6)},
        exports={4: _rules(spec.export_v4, 4), 6: _rules(spec.export_v6, 6)},
    )


def block(resource: IPAMBlock) -> BlockInput | None:
    """Return a block and its host; None when it is no host's, and so anybody's."""
    name = resource.metadata.name

    def check(found: Findings, place: str, spec: IpamBlockSpec) -> IpamBlockSpec:
        return validate_ipam.block(found, place, name, spec)

    # Who has which address of it is of no interest here, and many.
    spec = checked(check, replace(resource.spec, allocations=(), released=()))
    return BlockInput(spec.cidr, sys.intern(spec.host)) if spec.host else None


def _rules(given: Iterable[BgpFilterRule], family: Literal[4, 6]) -> tuple[FilterRule, ...]:
    return tuple(_rule(rule, family) for rule in given)


_OPERATORS: dict[str | None, Literal["equal", "not-equal", "in", "not-in", ""]] = {
    None: "",
    "Equal": "equal",
    "NotEqual": "not-equal",
    "In": "in",
    "NotIn": "not-in",
}
_PEER_TYPES: dict[str | None, Literal["ebgp", "ibgp", ""]] = {
    None: "",
    "eBGP": "ebgp",
    "iBGP": "ibgp",
}


def _rule(rule: BgpFilterRule, family: Literal[4, 6]) -> FilterRule:
    lengths = rule.prefix_length or PrefixLength()
    added = (op.add_community.value for op in rule.operations if op.add_community)
    prefixes = [op.prepend_as_path.prefix for op in rule.operations if op.prepend_as_path]
    # Each operation puts its numbers before what is there: the last one's are the first.
    prepended = (number for prefix in reversed(prefixes) for number in prefix)
    return FilterRule(
        action="accept" if rule.action == "Accept" else "reject",
        family=family,
        operator=_OPERATORS[rule.match_operator],
        cidr=rule.cidr,
        shortest=lengths.min or 0,
        longest=(32 if family == 4 else 128) if lengths.max is None else lengths.max,
        from_peers=rule.source == "RemotePeers",
        interface=rule.interface,
        peer_type=_PEER_TYPES[rule.peer_type],
        communities=rule.communities.values if rule.communities else (),
        as_path_prefix=_numbers(rule.as_path_prefix),
        add_communities=tuple(added),
        prepend_as_path=_numbers(prepended),
    )


def _number(value: int | str | None) -> int | None:
    assert not isinstance(value, str)  # admission made a number of it
    return value


def _numbers(values: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _password(password: BgpPassword | None) -> Password | None:
    if password is None:
        return None
    return password.secret_key_ref.name, password.secret_key_ref.key


def _seconds(text: str, default: int) -> int:
    seconds = validate_bgp.duration_s(text)
    return default if seconds is None else seconds
