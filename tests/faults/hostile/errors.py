"""ICMP errors: about what the sender was sent, and about flows of others, whole, cut short and hidden."""

from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    fragment6,
)
from scapy.packet import Raw

from tests.faults.hostile.maker import FLOW, OPEN, Maker, Places, Shape, marker

_MTU = 576
_MTU_V6 = 1280


def _kinds(family: int) -> dict[str, Any]:
    if family == 4:
        return {
            "host unreachable": ICMP(type=3, code=1),
            "port unreachable": ICMP(type=3, code=3),
            "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=_MTU),
            "source quench": ICMP(type=4),
            "time exceeded": ICMP(type=11),
            "parameter problem": ICMP(type=12),
        }
    return {
        "host unreachable": ICMPv6DestUnreach(code=1),
        "port unreachable": ICMPv6DestUnreach(code=4),
        "packet too big": ICMPv6PacketTooBig(mtu=_MTU_V6),
        "time exceeded": ICMPv6TimeExceeded(),
        "parameter problem": ICMPv6ParamProblem(code=1),
        "error of an unknown type": ICMPv6Unknown(type=100, msgbody=bytes(4)),
    }


def errors(p: Places, family: int) -> Iterator[Shape]:
    """Errors of the hostile workload to b: the genuine ones pass, those about b's flow with others do not."""
    make = Maker(p, family)

    def quoted(name: str, dst: str, **fields: Any) -> Any:
        ports = UDP(sport=FLOW, dport=OPEN)
        return make.ip(src=p.b[family], dst=dst, **fields) / ports / make.load(name)

    head = make.ip(src=p.a[family], dst=p.b[family])
    for what, error in _kinds(family).items():
        name = f"genuine error, {what}"
        if (
            what != "error of an unknown type"
        ):  # whether a receiver can do with it is its own matter
            yield make.shape(name, head / error / quoted(name, p.a[family]), passes=("b",))
        name = f"error about a flow of others, {what}"
        yield make.shape(name, head / error / quoted(name, p.remote[family]))
    error = next(iter(_kinds(family).values()))
    remote = p.remote[family]
    name = "error about a flow of others, to its other end"
    answer = make.ip(src=remote, dst=p.b[family]) / UDP(sport=OPEN, dport=FLOW) / make.load(name)
    yield make.shape(name, make.ip(src=p.a[family], dst=remote) / error / answer)
    name = "error about a flow of others, to who did not send it"
    yield make.shape(name, make.ip(src=p.a[family], dst=remote) / error / quoted(name, remote))
    name = "error about what it was sent, to who did not send it"
    yield make.shape(name, make.ip(src=p.a[family], dst=remote) / error / quoted(name, p.a[family]))
    name = "error about a flow of others, from the remote machine's address"
    yield make.shape(name, make.ip(src=remote, dst=p.b[family]) / error / quoted(name, remote))
    yield from _hidden4(make, quoted, error) if family == 4 else _hidden6(make, quoted, error)


def _hidden4(make: Maker, quoted: Any, error: Any) -> Iterator[Shape]:
    p = make.p
    filler = [IPOption_NOP()] * 8
    name = "error about a flow of others, behind IP options"
    options = IP(src=p.a[4], dst=p.b[4], options=filler)
    yield make.shape(name, options / error / quoted(name, p.remote[4]))
    name = "genuine error behind IP options"
    yield make.shape(name, options / error / quoted(name, p.a[4]), passes=("b",))
    name = "error about a flow of others, with IP options in the quote"
    head = IP(src=p.a[4], dst=p.b[4])
    yield make.shape(name, head / error / quoted(name, p.remote[4], options=filler))
    name = "error about a flow of others, in fragments"
    # So often that one is whole in a fragment, however they are cut again.
    body = Raw(bytes(quoted(name, p.remote[4])) + marker(name, 4) * 6)
    yield make.shape(name, *fragment(head / error / body, fragsize=200))
    name = "error with half a quote"
    yield make.shape(name, head / error / Raw(bytes(quoted(name, p.remote[4]))[:18]))
    name = "error without a quote"
    yield make.shape(name, head / error)


def _hidden6(make: Maker, quoted: Any, error: Any) -> Iterator[Shape]:
    p = make.p
    head = IPv6(src=p.a[6], dst=p.b[6])
    for what, header in (
        ("hop-by-hop options", IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])),
        ("destination options", IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])),
        ("an atomic fragment header", IPv6ExtHdrFragment(id=5)),
    ):
        name = f"error about a flow of others, behind {what}"
        yield make.shape(name, head / header / error / quoted(name, p.remote[6]))
        name = f"error of an unknown type about a flow of others, behind {what}"
        unknown = ICMPv6Unknown(type=100, msgbody=bytes(4))
        yield make.shape(name, head / header / unknown / quoted(name, p.remote[6]))
    name = "error about a flow of others, in fragments"
    body = error / Raw(bytes(quoted(name, p.remote[6])) + marker(name, 6).ljust(2000))
    whole = IPv6(src=p.a[6], dst=p.b[6]) / IPv6ExtHdrFragment(id=6) / body
    yield make.shape(name, *fragment6(whole, 1280))
    name = "error with half a quote"
    yield make.shape(name, head / error / Raw(bytes(quoted(name, p.remote[6]))[:30]))
