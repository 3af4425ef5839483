"""What in a `Bgp` value makes no sense, said before a line of it is rendered.

Pure. Whatever passes here renders to text that BIRD accepts; what does not closes its session, block or pool
alone. The whole value is refused only for what all sessions share.
"""

import re
from collections.abc import Iterable

from hopwall_model import cidr
from hopwall_model.bgp import Bgp, FilterRule, PrefixRange, Session

#: BGP numbers are 32 bits (RFC 6793); the hold time, which is three keepalives, 16 (RFC 4271); the restart
#: time 12 (RFC 4724).
_MAX_AS = 2**32 - 1
_MAX_KEEPALIVE_S = 65535 // 3
_MAX_RESTART_S = 4095
_MAX_HOPS = 255
_MAX_LIMIT = 2**30
_MAX_PREPENDED = 64
#: Of an interface, with BIRD's wildcards.
_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,15}", re.ASCII)
_COMMUNITY = re.compile(r"(0|[1-9][0-9]{0,9})(:(0|[1-9][0-9]{0,9})){1,2}", re.ASCII)
#: TCP_MD5SIG_MAXKEYLEN in linux/tcp.h is 80; BIRD's strings have no way to write a quote or a line end.
_PASSWORD = re.compile(r"[ !#-~]{1,80}", re.ASCII)


class Fault(ValueError):
    """The value makes no sense; the text is one sentence."""


def check_speaker(bgp: Bgp) -> None:
    """Check what all sessions share.

    Errors: `Fault`.
    """
    _address("the router ID", bgp.router_id, 4)
    if bgp.cluster_id:
        _address("the cluster ID", bgp.cluster_id, 4)
    _within("the AS number", bgp.as_number, 1, _MAX_AS)
    _within("the listening port", bgp.listen_port, 1, 65535)
    _patterns(bgp.ignored_interfaces)


def check_session(session: Session) -> None:
    """Check one session by itself.

    Errors: `Fault`.
    """
    family = session.family
    _unicast("the peer's address", session.peer_ip, family)
    if session.source_ip:
        _unicast("the source address", session.source_ip, family)
    if session.reachable_by:
        _unicast("reachableBy", session.reachable_by, family)
    _within("the peer's AS number", session.peer_as, 1, _MAX_AS)
    _within("the local AS number", session.local_as, 1, _MAX_AS)
    _within("the peer's port", session.peer_port, 1, 65535)
    _within("the restart time", session.restart_s, 0, _MAX_RESTART_S)
    _within("the keepalive time", session.keepalive_s, 0, _MAX_KEEPALIVE_S)
    _within("numAllowedLocalASNumbers", session.allow_local_as, 0, 255)
    _within("TTL security", session.ttl_security, 0, _MAX_HOPS)
    _within("the import limit", session.import_limit, 1, _MAX_LIMIT)
    if session.reflector_client and session.peer_as != session.local_as:
        raise Fault("A client of a reflector must have our AS number.")
    near = session.ttl_security == 1 or (session.direct and not session.ttl_security)
    if session.bfd and not session.source_ip and not near:
        raise Fault("BFD needs the session's source address where the peer may be some hops away.")
    for one in session.entitled:
        check_range(one, family)
    for rule in (*session.imports, *session.exports):
        _check_rule(rule)


def check_network(text: str, what: str) -> None:
    """Check that the text is a canonical network that is not everything.

    Errors: `Fault`.
    """
    if _network(what, text) == 0:
        raise Fault(f"{what} {text} is every address; it cannot be announced.")


def check_communities(communities: Iterable[str]) -> None:
    """Check that each is two 16-bit or three 32-bit numbers (RFC 1997, RFC 8092).

    Errors: `Fault`.
    """
    for text in communities:
        numbers = [int(n) for n in text.split(":")] if _COMMUNITY.fullmatch(text) else []
        if not numbers or max(numbers) >= (2**16 if len(numbers) == 2 else 2**32):
            raise Fault(f"{text[:40]!r} is no community; write it like 65000:1 or 65000:1:2.")


def check_password(text: str) -> None:
    """Check that BIRD and the kernel can take the password.

    Errors: `Fault`, which never holds the password.
    """
    if not _PASSWORD.fullmatch(text):
        raise Fault(
            "The password must be 1 to 80 printable ASCII characters without a double quote."
        )


def check_range(one: PrefixRange, family: int | None = None) -> None:
    """Check that a range is of the family, and that there are networks in it.

    Errors: `Fault`.
    """
    length = _network("an entitled network", one.cidr, family)
    longest = 128 if ":" in one.cidr else 32
    _within("the shortest entitled prefix", one.shortest, 0, longest)
    _within("the longest entitled prefix", one.longest, max(length, one.shortest), longest)


def _check_rule(rule: FilterRule) -> None:
    if rule.operator:
        _network("the network of a filter rule", rule.cidr, rule.family)
    elif rule.cidr:
        raise Fault("A filter rule has a network and no operator.")
    _within("the shortest prefix of a filter rule", rule.shortest, 0, 128)
    _within("the longest prefix of a filter rule", rule.longest, 0, 128)
    if rule.interface:
        _patterns((rule.interface,))
    check_communities((*rule.communities, *rule.add_communities))
    _within("the length of a path", len(rule.as_path_prefix), 0, _MAX_PREPENDED)
    _within("the length of what is prepended", len(rule.prepend_as_path), 0, _MAX_PREPENDED)
    for number in (*rule.as_path_prefix, *rule.prepend_as_path):
        _within("an AS number of a filter rule", number, 1, _MAX_AS)


def _patterns(texts: Iterable[str]) -> None:
    for text in texts:
        if not _PATTERN.fullmatch(text):
            raise Fault(
                f"{text[:40]!r} cannot name an interface; only '*' stands for more letters."
            )


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise Fault(f"{what} is {value}; it must be {least} to {most}.")


def _address(what: str, text: str, family: int) -> None:
    try:
        found = cidr.parse_ip(text)
    except ValueError as error:
        raise Fault(f"{what}: {error}") from None
    if found != text or cidr.family_of(found) != family:
        raise Fault(f"{what}, {text}, must be a canonical IPv{family} address.")


def _unicast(what: str, text: str, family: int) -> None:
    _address(what, text, family)
    if not cidr.is_workload_address(cidr.Ip(text)):
        raise Fault(f"{what}, {text}, is not an address that a peer can have beyond its link.")


def _network(what: str, text: str, family: int | None = None) -> int:
    """Return the prefix length of a canonical network."""
    try:
        found = cidr.parse_cidr(text)
    except ValueError as error:
        raise Fault(f"{what}: {error}") from None
    if found != text or family not in (None, cidr.family_of(found)):
        raise Fault(f"{what}, {text}, must be a canonical IPv{family or '4 or IPv6'} network.")
    return cidr.length_of(found)
