"""Checks of single fields: each notes what is wrong and returns the canonical value.

What is wrong is returned as it was, so that the walk can go on; the findings then stop it.
"""

import re
from collections.abc import Callable, Iterable

from hopwall_model import cidr
from hopwall_model.cidr import Cidr, Ip
from hopwall_model.names import valid_ifname
from hopwall_model.problems import Code, Findings, step
from hopwall_model.protocols import canonical_protocol
from hopwall_model.resource_names import (
    MAX_LABELS,
    MAX_SELECTOR,
    MAX_TEXT,
    valid_dns_label,
    valid_label_key,
    valid_label_value,
    valid_name,
)
from hopwall_model.selectors import SelectorError, mentions_global, parse

_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}")


def name(found: Findings, pointer: str, text: str) -> None:
    """Check a resource's name, or the name of a resource referred to."""
    if not valid_name(text):
        reason = (
            f"{text[:64]!r} is not a name: lower-case letters, digits, '-' and '.', at most 253."
        )
        found.add(pointer, reason)


def dns_label(found: Findings, pointer: str, text: str) -> None:
    """Check the name of a namespace or a tier."""
    if not valid_dns_label(text):
        reason = f"{text[:64]!r} is not a name: lower-case letters, digits and '-', at most 63."
        found.add(pointer, reason)


def short_text(found: Findings, pointer: str, text: str) -> None:
    """Check a text that is only kept."""
    if len(text) > MAX_TEXT:
        found.add(pointer, f"The text is longer than {MAX_TEXT} characters.", Code.LIMIT)


def labels(found: Findings, pointer: str, given: dict[str, str]) -> None:
    """Check labels by Kubernetes' rules."""
    if len(given) > MAX_LABELS:
        found.add(pointer, f"There are more than {MAX_LABELS} labels.", Code.LIMIT)
    for key, value in given.items():
        if not valid_label_key(key):
            found.add(step(pointer, key), f"{key[:64]!r} is not a label's key.")
        if not valid_label_value(value):
            reason = f"{value[:64]!r} is not a label's value: letters, digits, '-_.', at most 63."
            found.add(step(pointer, key), reason)


def interface_name(found: Findings, pointer: str, text: str) -> None:
    """Check the name of a kernel interface."""
    if not valid_ifname(text):
        reason = f"{text!r} is not an interface name: letters, digits, '_.-', no '-' first."
        found.add(pointer, reason)


def selector(found: Findings, pointer: str, text: str, *, may_be_global: bool = False) -> None:
    """Check a selector; its text stays the user's."""
    if len(text) > MAX_SELECTOR:
        found.add(pointer, f"A selector is at most {MAX_SELECTOR} characters long.", Code.LIMIT)
        return
    try:
        parsed = parse(text)
    except SelectorError as error:
        found.add(pointer, str(error))
        return
    if not may_be_global and mentions_global(parsed):
        found.add(pointer, "global() is only allowed in a rule's namespaceSelector.")


def protocol(found: Findings, pointer: str, value: int | str | None) -> int | str | None:
    """Return the protocol in its canonical spelling."""
    if value is None:
        return None
    try:
        return canonical_protocol(value)
    except ValueError as error:
        found.add(pointer, str(error))
        return value


def _each(
    found: Findings, pointer: str, texts: Iterable[str], parse_one: Callable[[str], Cidr]
) -> list[tuple[str, Cidr]]:
    """Return the canonical value of each valid text, with its pointer."""
    good: list[tuple[str, Cidr]] = []
    for index, text in enumerate(texts):
        try:
            good.append((step(pointer, index), parse_one(text)))
        except ValueError as error:
            found.add(step(pointer, index), str(error))
    return good


def cidrs(
    found: Findings, pointer: str, texts: tuple[str, ...], *, ip_version: int | None = None
) -> tuple[str, ...]:
    """Return networks in canonical text, without repeats, in the order given."""
    good = _each(found, pointer, texts, cidr.parse_cidr)
    for place, net in good:
        if ip_version is not None and cidr.family_of(net) != ip_version:
            reason = f"{net} is not of IP version {ip_version}, which the rule is for."
            found.add(place, reason, Code.CONFLICT)
    return tuple(dict.fromkeys(net for _, net in good))


def workload_addresses(found: Findings, pointer: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the single addresses of an endpoint as /32 and /128; a repeat is refused."""
    seen: dict[str, None] = {}
    for place, net in _each(found, pointer, texts, cidr.parse_cidr):
        if not cidr.is_host_cidr(net):
            reason = f"{net} is not a single address; an endpoint has /32 and /128 networks only."
            found.add(place, reason)
        elif not cidr.is_workload_address(cidr.address_of(net)):
            found.add(place, f"{net} is not an address that an endpoint can own.")
        elif net in seen:
            found.add(place, f"{net} is given more than once; keep one.", Code.CONFLICT)
        seen[net] = None
    return tuple(seen)


def address(found: Findings, pointer: str, text: str, family: int | None = None) -> str:
    """Return one unicast address in canonical text; "" stays."""
    if not text:
        return text

    def unicast(given: str) -> Ip:
        parsed = cidr.parse_ip(given)
        _check_unicast(parsed, family)
        return parsed

    return found.parsed(pointer, unicast, text)


def if_address(found: Findings, pointer: str, text: str, family: int) -> str:
    """Return a host's `address/length` in canonical text, host bits kept; "" stays."""
    if not text:
        return text

    def unicast(given: str) -> cidr.IfAddress:
        parsed = cidr.parse_if_address(given)
        _check_unicast(cidr.address_of(parsed), family)
        return parsed

    return found.parsed(pointer, unicast, text)


def _check_unicast(ip: Ip, family: int | None) -> None:
    if family is not None and cidr.family_of(ip) != family:
        raise ValueError(f"{ip} is not an IPv{family} address.")
    if not cidr.is_unicast(ip):
        raise ValueError(f"{ip} is not the address of one machine.")


def mac(found: Findings, pointer: str, text: str) -> str:
    """Return the hardware address in lower case with colons; "" stays."""
    plain = text.lower()
    if text and not _MAC.fullmatch(plain):
        found.add(pointer, f"{text[:32]!r} is not a MAC address; write it like 02:00:0a:41:00:15.")
    elif text and (int(plain[:2], 16) & 1 or not plain.strip("0:-")):
        found.add(pointer, f"{text} is not the MAC address of one interface.")
    return plain.replace("-", ":")


def as_number(found: Findings, pointer: str, value: int | str | None) -> int | None:
    """Return a BGP number; `high.low` is understood (RFC 5396)."""
    if value is None:
        return None
    number = _as_number(value)
    if not 0 < number < 2**32:
        found.add(pointer, f"{str(value)[:32]} is not an AS number: 1 to 4294967295, or like 1.10.")
    return number


def _as_number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    parts = value.split(".")
    if len(value) > 11 or len(parts) > 2 or not all(p.isascii() and p.isdigit() for p in parts):
        return 0
    numbers = [int(part) for part in parts]
    if len(numbers) == 1:
        return numbers[0]
    return numbers[0] * 65536 + numbers[1] if max(numbers) < 65536 else 0
