"""Which ICMP errors are about a packet that was sent to their sender: programs for the kernel's `xt_bpf`.

An error quotes the packet it is about. The kernel takes one for RELATED whoever sent it, if it knows the quoted
flow; so without these lines a workload that guesses a flow of others can break it, or lower its path MTU. No
other match of iptables compares two addresses of one packet.

Pure. Refuses to look behind extension headers before ICMPv6: what stands there is no error that it knows.
Source: RFC 792, 4443; linux/filter.h, linux/bpf_common.h (codes); iptables-extensions(8), bpf.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hopwall_dataplane.outcome import Family

#: Destination unreachable, source quench, redirect, time exceeded, parameter problem.
ERRORS_V4 = (3, 4, 5, 11, 12)
#: Of ICMPv6 all below are errors, known or not.
FIRST_INFORMATIONAL = 128

# Offsets from the beginning of the IP header; in a quote, from the beginning of ICMP, which takes 8 bytes.
_SOURCE = {Family.V4: 12, Family.V6: 8}
_DESTINATION = {Family.V4: 16, Family.V6: 24}
_HEAD_V6 = 40
_QUOTE = 8
_NEXT_HEADER = 6
_ICMPV6 = 58

_RETURN, _LOAD_BYTE, _LOAD_WORD = 0x06, 0x30, 0x20
_LOAD_BYTE_BEHIND_X, _LOAD_WORD_BEHIND_X = 0x50, 0x40
#: X becomes the length of the IPv4 header that begins there.
_HEAD_LENGTH_TO_X, _A_TO_X = 0xB1, 0x07
_IF_EQUAL, _IF_X, _IF_AT_LEAST = 0x15, 0x1D, 0x35
_NEXT = ""


class Step(NamedTuple):
    """One instruction; a jump names a label for each case, or goes on to the next."""

    code: int
    value: int = 0
    then: str = _NEXT
    otherwise: str = _NEXT


def assemble(program: Sequence[Step | str]) -> str:
    """Spell a program, in which labels stand before what they name, as `--bytecode` takes it."""
    places: dict[str, int] = {}
    steps: list[Step] = []
    for part in program:
        if isinstance(part, str):
            places[part] = len(steps)
        else:
            steps.append(part)
    spelt = (
        f"{code} {places.get(then, i) - i} {places.get(otherwise, i) - i} {value}"
        for i, (code, value, then, otherwise) in enumerate(steps, 1)
    )
    return ",".join((str(len(steps)), *spelt))


def _same(one: int, load: Sequence[Step]) -> Iterator[Step]:
    """Go on if a word of the header is the one of the quote; `load` brings that one to A."""
    yield from load
    yield Step(_A_TO_X)
    yield Step(_LOAD_WORD, one)
    yield Step(_IF_X, otherwise="wrong")


def _v4() -> Iterator[Step | str]:
    yield Step(_HEAD_LENGTH_TO_X)
    yield Step(_LOAD_BYTE_BEHIND_X)
    yield from (Step(_IF_EQUAL, number, then="error") for number in ERRORS_V4)
    yield Step(_RETURN, 1)
    yield "error"
    for one, quoted in _ENDS[Family.V4]:
        load = (Step(_HEAD_LENGTH_TO_X), Step(_LOAD_WORD_BEHIND_X, _QUOTE + quoted))
        yield from _same(one, load)
    yield Step(_RETURN, 1)
    yield "wrong"
    yield Step(_RETURN, 0)


def _v6() -> Iterator[Step | str]:
    yield Step(_LOAD_BYTE, _NEXT_HEADER)
    yield Step(_IF_EQUAL, _ICMPV6, otherwise="wrong")
    yield Step(_LOAD_BYTE, _HEAD_V6)
    yield Step(_IF_AT_LEAST, FIRST_INFORMATIONAL, then="right")
    for one, quoted in _ENDS[Family.V6]:
        for at in range(0, 16, 4):
            load = (Step(_LOAD_WORD, _HEAD_V6 + _QUOTE + quoted + at),)
            yield from _same(one + at, load)
    yield "right"
    yield Step(_RETURN, 1)
    yield "wrong"
    yield Step(_RETURN, 0)


#: An address of the header, and the one of the quoted packet that it must be: who was sent to answers who sent.
_ENDS = {
    family: (
        (_SOURCE[family], _DESTINATION[family]),
        (_DESTINATION[family], _SOURCE[family]),
    )
    for family in Family
}

#: Matches an ICMP packet that is no error, or one that goes from whom the quoted packet was sent to, to who sent it.
#: One that ends before the quoted addresses do is not matched, as a load beyond its end ends the program with 0.
ABOUT_ITS_OWN = {Family.V4: assemble(tuple(_v4())), Family.V6: assemble(tuple(_v6()))}
