"""BGP configurations, peers and filters: what `validate` checks of them, and their canonical form."""

import re

from msgspec.structs import replace

from hopwall_model import cidr
from hopwall_model import validate_fields as check
from hopwall_model.bgp_specs import (
    DEFAULT_CONFIGURATION,
    NODE_CONFIGURATION_PREFIX,
    BgpConfigurationSpec,
    BgpFilterRule,
    BgpFilterSpec,
    BgpPassword,
    BgpPeerSpec,
    CommunityMatch,
    FilterOperation,
    FilterRules,
    PrefixAdvertisement,
)
from hopwall_model.names import valid_ifname
from hopwall_model.not_implemented import refuse_unimplemented
from hopwall_model.problems import Code, Findings, step
from hopwall_model.resource_names import valid_name

#: RFC 4724: the restart time has 12 bits.
MAX_RESTART_S = 4095
#: The hold time, three times this, has 16 bits (RFC 4271).
MAX_KEEPALIVE_S = 21845

_DURATION = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,4})m)?(?:(\d{1,6})s)?", re.ASCII)
_COMMUNITY = re.compile(r"\d{1,10}(?::\d{1,10}){1,2}", re.ASCII)
_COMMUNITY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}", re.ASCII)
# It becomes a step of a path on the host: never "..".
_SECRET_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_MAX_PORT = 65535


# ---------------------------------------------------------------- configuration


def configuration(
    found: Findings, pointer: str, name: str, spec: BgpConfigurationSpec
) -> BgpConfigurationSpec:
    """Return the configuration; what both ends of the mesh must agree on is said for all hosts only."""
    refuse_unimplemented(found, pointer, spec)
    if name != DEFAULT_CONFIGURATION:
        _of_one_host(found, pointer, name, spec)
    for index, pattern in enumerate(spec.ignored_interfaces):
        _interfaces(found, step(step(pointer, "ignoredInterfaces"), index), pattern)
    named: dict[str, str] = {}
    for index, community in enumerate(spec.communities):
        place = step(step(pointer, "communities"), index)
        if not _COMMUNITY_NAME.fullmatch(community.name):
            found.add(step(place, "name"), f"{community.name[:32]!r} is not a community's name.")
        if community.name in named:
            found.add(step(place, "name"), "The name is given twice.", Code.CONFLICT)
        _community(found, step(place, "value"), community.value)
        named[community.name] = community.value
    restart = step(pointer, "nodeMeshMaxRestartTime")
    _duration(found, restart, spec.node_mesh_max_restart_time, MAX_RESTART_S)
    if spec.node_mesh_password is not None:
        _password(found, step(pointer, "nodeMeshPassword"), spec.node_mesh_password)
    advertisements = step(pointer, "prefixAdvertisements")
    return replace(
        spec,
        as_number=check.as_number(found, step(pointer, "asNumber"), spec.as_number),
        prefix_advertisements=tuple(
            _advertisement(found, step(advertisements, index), advertisement, named)
            for index, advertisement in enumerate(spec.prefix_advertisements)
        ),
    )


def _of_one_host(found: Findings, pointer: str, name: str, spec: BgpConfigurationSpec) -> None:
    host = name.removeprefix(NODE_CONFIGURATION_PREFIX)
    if host == name or not valid_name(host):
        reason = "A BGPConfiguration is named default, or node.<host>; use such a name."
        found.add("/metadata/name", reason, Code.CONFLICT)
    given = {
        "nodeToNodeMeshEnabled": spec.node_to_node_mesh_enabled is not None,
        "nodeMeshPassword": spec.node_mesh_password is not None,
        "nodeMeshMaxRestartTime": bool(spec.node_mesh_max_restart_time),
    }
    for field, is_given in given.items():
        if is_given:
            reason = f"{field} is said for all hosts, in the BGPConfiguration default."
            found.add(step(pointer, field), reason, Code.CONFLICT)


def _advertisement(
    found: Findings, pointer: str, given: PrefixAdvertisement, named: dict[str, str]
) -> PrefixAdvertisement:
    for index, text in enumerate(given.communities):
        place = step(step(pointer, "communities"), index)
        if text not in named and _COMMUNITY_NAME.fullmatch(text):
            reason = f"No community here has the name {text}; give it a value in communities."
            found.add(place, reason)
        elif text not in named:
            _community(found, place, text)
    return replace(given, cidr=found.parsed(step(pointer, "cidr"), cidr.parse_cidr, given.cidr))


def _interfaces(found: Findings, pointer: str, pattern: str) -> None:
    if not valid_ifname(pattern.replace("*", "x")):
        found.add(pointer, f"{pattern[:32]!r} is not an interface name; '*' stands for any text.")


def _community(found: Findings, pointer: str, text: str) -> None:
    parts = text.split(":")
    most = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    canonical = _COMMUNITY.fullmatch(text) and all(str(int(part)) == part for part in parts)
    if not canonical or any(int(part) > most for part in parts):
        reason = (
            f"{text[:64]!r} is no community: like 65000:1 (16 bits each) or 65000:1:2 (32 bits)."
        )
        found.add(pointer, reason)


def duration_s(text: str) -> int | None:
    """Return the seconds of a duration like "120s" or "1m30s"; None if it is none of whole seconds."""
    parts = _DURATION.fullmatch(text)
    if not text or parts is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def _duration(found: Findings, pointer: str, text: str, most: int) -> None:
    if not text:
        return
    seconds = duration_s(text)
    if seconds is None:
        found.add(pointer, f"{text[:32]!r} is not a duration; write it like 120s or 2m.")
    elif not 1 <= seconds <= most:
        found.add(pointer, f"The time is from 1 to {most} seconds.")


def _password(found: Findings, pointer: str, password: BgpPassword) -> None:
    place, reference = step(pointer, "secretKeyRef"), password.secret_key_ref
    check.name(found, step(place, "name"), reference.name)
    if not _SECRET_KEY.fullmatch(reference.key):
        reason = (
            f"{reference.key[:64]!r} is not a secret's key: letters, digits, '_.-', no '.' first."
        )
        found.add(step(place, "key"), reason)


# ---------------------------------------------------------------- peers


def peer(found: Findings, pointer: str, spec: BgpPeerSpec) -> BgpPeerSpec:
    """Return the peer in canonical form."""
    refuse_unimplemented(found, pointer, spec)
    if spec.node:
        check.name(found, step(pointer, "node"), spec.node)
    if spec.node and spec.node_selector:
        reason = "Give node or nodeSelector, not both."
        found.add(step(pointer, "nodeSelector"), reason, Code.CONFLICT)
    check.selector(found, step(pointer, "nodeSelector"), spec.node_selector)
    check.selector(found, step(pointer, "peerSelector"), spec.peer_selector)
    _whom(found, pointer, spec)
    if spec.keep_original_next_hop and spec.next_hop_mode not in (None, "Keep"):
        reason = f"keepOriginalNextHop is nextHopMode Keep, not {spec.next_hop_mode}; remove one."
        found.add(step(pointer, "keepOriginalNextHop"), reason, Code.CONFLICT)
    _duration(found, step(pointer, "maxRestartTime"), spec.max_restart_time, MAX_RESTART_S)
    _duration(found, step(pointer, "keepaliveTime"), spec.keepalive_time, MAX_KEEPALIVE_S)
    if spec.password is not None:
        _password(found, step(pointer, "password"), spec.password)
    for index, name in enumerate(spec.filters):
        check.name(found, step(step(pointer, "filters"), index), name)
    local_as = step(pointer, "localASNumber")
    peer_ip = _peer_ip(found, step(pointer, "peerIP"), spec.peer_ip)
    return replace(
        spec,
        peer_ip=peer_ip,
        as_number=check.as_number(found, step(pointer, "asNumber"), spec.as_number),
        local_as_number=check.as_number(found, local_as, spec.local_as_number),
        reachable_by=_reachable_by(found, pointer, spec, peer_ip),
        filters=tuple(dict.fromkeys(spec.filters)),
    )


def _whom(found: Findings, pointer: str, spec: BgpPeerSpec) -> None:
    """Check that the peer is one address with its number, or hosts, whose numbers are known."""
    if bool(spec.peer_ip) == bool(spec.peer_selector):
        reason = "Give peerIP (with asNumber) or peerSelector, one of them."
        code = Code.CONFLICT if spec.peer_ip else Code.MISSING
        found.add(step(pointer, "peerIP"), reason, code)
    elif spec.peer_ip and spec.as_number is None:
        reason = "A peerIP needs the peer's asNumber."
        found.add(step(pointer, "asNumber"), reason, Code.MISSING)
    if not spec.peer_selector:
        return
    given = {
        "asNumber": spec.as_number is not None,
        "localASNumber": spec.local_as_number is not None,
        "reachableBy": bool(spec.reachable_by),
    }
    for field, is_given in given.items():
        if is_given:
            reason = f"{field} goes with peerIP; of the hosts of a peerSelector it is known."
            found.add(step(pointer, field), reason, Code.CONFLICT)


def split_peer_ip(text: str) -> tuple[str, int]:
    """Return the address and the port (0: none given) of "ip", "ip:port" or "[ip]:port".

    Errors: `ValueError` with a sentence.
    """
    head, port = text, ""
    if text.startswith("["):
        head, _, port = text[1:].partition("]")
        if not port.startswith(":") or ":" not in head:
            raise ValueError(f"{text[:64]!r} is not [address]:port.")
        port = port[1:] or "x"
    elif text.count(":") == 1:
        head, _, port = text.partition(":")
        port = port or "x"
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _MAX_PORT):
        raise ValueError(f"{text[:64]!r} has no valid port; write a number from 1 to {_MAX_PORT}.")
    address = cidr.parse_ip(head)
    if not cidr.is_workload_address(address):
        raise ValueError(f"{address} is not an address that a session can be made to.")
    return address, int(port or 0)


def _peer_ip(found: Findings, pointer: str, text: str) -> str:
    if not text:
        return text
    try:
        address, port = split_peer_ip(text)
    except ValueError as error:
        found.add(pointer, str(error))
        return text
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _reachable_by(found: Findings, pointer: str, spec: BgpPeerSpec, peer_ip: str) -> str:
    place = step(pointer, "reachableBy")
    gateway = check.address(found, place, spec.reachable_by)
    if gateway and peer_ip and (":" in gateway) != (peer_ip.count(":") > 1):
        found.add(place, f"{gateway} is not of the peer's IP version.", Code.CONFLICT)
    return gateway


# ---------------------------------------------------------------- filters


def bgp_filter(found: Findings, pointer: str, spec: BgpFilterSpec) -> BgpFilterSpec:
    """Return the filter in canonical form."""
    return replace(
        spec,
        export_v4=_rules(found, step(pointer, "exportV4"), spec.export_v4, 4),
        import_v4=_rules(found, step(pointer, "importV4"), spec.import_v4, 4),
        export_v6=_rules(found, step(pointer, "exportV6"), spec.export_v6, 6),
        import_v6=_rules(found, step(pointer, "importV6"), spec.import_v6, 6),
    )


def _rules(found: Findings, pointer: str, rules: FilterRules, family: int) -> FilterRules:
    return tuple(
        _rule(found, step(pointer, index), rule, family) for index, rule in enumerate(rules)
    )


def _rule(found: Findings, pointer: str, rule: BgpFilterRule, family: int) -> BgpFilterRule:
    refuse_unimplemented(found, pointer, rule)
    range_ = _range(found, pointer, rule, family)
    if rule.interface:
        _interfaces(found, step(pointer, "interface"), rule.interface)
    if rule.communities is not None:
        _match(found, step(pointer, "communities"), rule.communities)
    if rule.operations and rule.action != "Accept":
        reason = "A route that is rejected cannot be changed; remove the operations."
        found.add(step(pointer, "operations"), reason, Code.CONFLICT)
    return replace(
        rule,
        cidr=range_,
        as_path_prefix=_as_numbers(found, step(pointer, "asPathPrefix"), rule.as_path_prefix),
        operations=tuple(
            _operation(found, step(step(pointer, "operations"), index), operation)
            for index, operation in enumerate(rule.operations)
        ),
    )


def _range(found: Findings, pointer: str, rule: BgpFilterRule, family: int) -> str:
    """Return the rule's network; it, its operator and its lengths go together."""
    if bool(rule.cidr) != (rule.match_operator is not None):
        missing = "matchOperator" if rule.cidr else "cidr"
        found.add(step(pointer, missing), "Give cidr and matchOperator together.", Code.MISSING)
    lengths, place = rule.prefix_length, step(pointer, "prefixLength")
    if lengths is not None:
        most = 32 if family == 4 else 128
        shortest = 0 if lengths.min is None else lengths.min
        longest = most if lengths.max is None else lengths.max
        if not rule.cidr:
            found.add(place, "A prefixLength needs a cidr.", Code.CONFLICT)
        if not shortest <= longest <= most:
            found.add(place, f"Give min up to max, both at most {most}.")
    if not rule.cidr:
        return rule.cidr
    range_ = found.parsed(step(pointer, "cidr"), cidr.parse_cidr, rule.cidr)
    if (":" in range_) != (family == 6):
        found.add(step(pointer, "cidr"), f"{range_} is not of IP version {family}.", Code.CONFLICT)
    return range_


def _match(found: Findings, pointer: str, match: CommunityMatch) -> None:
    for index, text in enumerate(match.values):
        _community(found, step(step(pointer, "values"), index), text)


def _operation(found: Findings, pointer: str, operation: FilterOperation) -> FilterOperation:
    refuse_unimplemented(found, pointer, operation)
    added, prepended = operation.add_community, operation.prepend_as_path
    given = [part for part in (added, prepended, operation.set_priority) if part is not None]
    if len(given) != 1:
        reason = "Give one of addCommunity and prependASPath for each operation."
        found.add(pointer, reason, Code.CONFLICT)
    if added is not None:
        _community(found, step(step(pointer, "addCommunity"), "value"), added.value)
    if prepended is None:
        return operation
    place = step(step(pointer, "prependASPath"), "prefix")
    numbers = _as_numbers(found, place, prepended.prefix)
    return replace(operation, prepend_as_path=replace(prepended, prefix=numbers))


def _as_numbers(
    found: Findings, pointer: str, given: tuple[int | str, ...]
) -> tuple[int | str, ...]:
    numbers = (
        check.as_number(found, step(pointer, index), value) for index, value in enumerate(given)
    )
    return tuple(number for number in numbers if number is not None)
