"""The walker of lines does what the kernel does, and says so when it does not know."""

from collections.abc import Callable

import pytest

from hopwall_dataplane.iptables.quotes import ABOUT_ITS_OWN
from hopwall_dataplane.outcome import Family
from tests.proof.kernel_sets import read_sets
from tests.proof.lines import Tables
from tests.proof.packets import NotUnderstood, Packet

SETS = """create nets hash:net family inet
add nets 10.0.0.0/8
create who hash:net,iface family inet skbinfo
add who 10.0.0.0/8,tapa skbmark 0x100/0xff00
add who 10.0.0.2,tapa skbmark 0x200/0xff00
create ports hash:ip,port family inet
add ports 10.0.0.2,tcp:80
"""


def tables(*lines: str, table: str = "filter", chains: str = "") -> Tables:
    """Return tables with these lines in FORWARD; `chains` declares more."""
    made = Tables(4, read_sets(SETS))
    text = [f"*{table}", ":FORWARD ACCEPT [0:0]", *(f":{name} -" for name in chains.split())]
    made.read(
        "\n".join(
            (*text, *(s if s[:1] == "-" and s[1] == "A" else f"-A FORWARD {s}" for s in lines))
        )
    )
    return made


def packet(source: str = "10.0.0.2", protocol: int = 6, **more: object) -> Packet:
    """Return a packet from tapa to port 80."""
    numbers = [int(part) for part in source.split(".")]
    return Packet(
        4, int.from_bytes(numbers), int.from_bytes(numbers), protocol,
        destination_port=80, came_in="tapa", **more,  # type: ignore[arg-type]
    )  # fmt: skip


def error(version: int, source: int, destination: int, quoted: tuple[int, int]) -> Packet:
    """Return an ICMP error about a packet from one address to another."""
    protocol, kind = {4: (1, 3), 6: (58, 1)}[version]
    about = Packet(version, *quoted, 17)
    return Packet(
        version, source, destination, protocol, icmp_type=kind, quote=about.quoted(), came_in="tapa"
    )


def passes(made: Tables, given: Packet, table: str = "filter") -> bool:
    """Walk FORWARD of a table."""
    return made.pass_hook(given, (table, "FORWARD"))


DROPPED = [
    "-s 10.0.0.0/24 -j DROP",
    "! -s 10.0.1.0/24 -j DROP",
    "-p 6 -m multiport --dports 79,80:81 -j DROP",
    "-p tcp -m multiport ! --sports 80 -j DROP",
    "-p 0 -j DROP",
    "-m set --match-set nets src -j DROP",
    "-m set --match-set ports dst,dst -j DROP",
    "-m set ! --match-set who dst,dst -j DROP",
    "-m iprange --src-range 10.0.0.1-10.0.0.2 -j DROP",
    "-m conntrack --ctstate NEW,RELATED -j DROP",
    "-i tap+ -j DROP",
    '-i tapa -m comment --comment "hw:x" -j DROP',
]
PASSED = [
    "! -p 6 -j DROP",
    "-p 17 -j DROP",
    "-p 6 -m multiport --dports 81:90 -j DROP",
    "-p 6 -m multiport ! --dports 1:65535 -j DROP",
    "-m set ! --match-set nets src -j DROP",
    "-m set --match-set who src,dst -j DROP",
    "-m mark --mark 0x1/0x1 -j DROP",
    "-o tap+ -j DROP",
    "-j RETURN",
    "-j NFLOG --nflog-group 1 --nflog-prefix x",
]


@pytest.mark.parametrize("line", DROPPED)
def test_a_line_that_matches_drops(line: str) -> None:
    """Each match holds where it should."""
    assert not passes(tables(line), packet())


@pytest.mark.parametrize("line", PASSED)
def test_a_line_that_does_not_match_is_passed(line: str) -> None:
    """Each match fails where it should, and what is no verdict ends nothing."""
    assert passes(tables(line), packet())


def test_a_goto_does_not_come_back_and_a_jump_does() -> None:
    """Who leaves a chain by goto returns to where that chain was called from."""
    lines = ("-j a", "-j DROP", "-A a -g b", "-A a -j ACCEPT", "-A b -j RETURN")
    assert not passes(tables(*lines, chains="a b"), packet())
    assert passes(tables("-j a", "-j DROP", "-A a -j b", "-A a -j ACCEPT", chains="a b"), packet())


def test_marks_are_set_and_mapped_as_the_kernel_does() -> None:
    """The narrowest element gives the mark; bits outside the mask stay."""
    made = tables(
        "-j MARK --set-xmark 0xf1/0xff", "-j SET --map-set who src,src --map-mark", table="mangle"
    )
    given = packet()
    assert passes(made, given, "mangle")
    assert given.mark == 0x2F1
    given = packet("10.0.0.3")
    assert passes(made, given, "mangle")
    assert given.mark == 0x1F1


def test_icmp_types_and_codes_are_told_apart() -> None:
    """A type alone means every code of it."""
    line = "-p 1 -m icmp --icmp-type 8/1 -j DROP"
    assert passes(tables(line), packet(protocol=1, icmp_type=8))
    assert not passes(tables(line), packet(protocol=1, icmp_type=8, icmp_code=1))
    assert not passes(
        tables("-p 1 -m icmp ! --icmp-type 3 -j DROP"), packet(protocol=1, icmp_type=8)
    )


REFUSED: list[Callable[[], object]] = [
    lambda: tables("-m time --timestart 1 -j DROP"),
    lambda: tables("-m multiport --dports 80 -j DROP"),
    lambda: tables("-p 6 -m multiport --dports " + ",".join(map(str, range(16))) + " -j DROP"),
    lambda: tables("-p 6 --dports 80 -j DROP"),
    lambda: tables("-s fd00::/8 -j DROP"),
    lambda: tables("-j nowhere"),
    lambda: tables("-m set --match-set absent src -j DROP"),
    lambda: tables("-m set --match-set who src -j DROP"),
    lambda: tables("-j SET --map-set who src,src --map-mark"),
    lambda: tables("-s 10.0.0.1 -s 10.0.0.2 -j DROP"),
    lambda: tables("! -p 0 -j DROP"),
    lambda: tables("-j DROP ! -p 6"),
    lambda: tables("-j TEE --gateway 10.0.0.1"),
    lambda: tables("-m limit --limit 1/s -j DROP"),
    lambda: passes(tables("-j a", "-A a -j a", chains="a"), packet()),
    lambda: read_sets("create a hash:net family inet\nadd a 0.0.0.0/0"),
    lambda: read_sets("create a bitmap:port range 1-2"),
]


@pytest.mark.parametrize("question", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_understood_is_refused(question: Callable[[], object]) -> None:
    """A judge that guesses is worth nothing."""
    with pytest.raises(NotUnderstood):
        question()


@pytest.mark.parametrize("version", [4, 6])
def test_a_program_is_run_over_the_packet_with_what_it_quotes(version: int) -> None:
    """An error about what its sender was sent is matched, one about the packets of others is not."""
    made = Tables(version, {})
    program = ABOUT_ITS_OWN[Family.V4 if version == 4 else Family.V6]
    made.read(f'*raw\n:FORWARD DROP\n-A FORWARD -m bpf --bytecode "{program}" -j ACCEPT\n')
    assert passes(made, error(version, 7, 8, (8, 7)), "raw")
    assert not passes(made, error(version, 7, 8, (8, 9)), "raw")
    assert not passes(made, error(version, 7, 8, (9, 7)), "raw")


def test_a_program_that_the_kernel_would_not_take_is_none() -> None:
    """It must have as many instructions as it says, end in a return, and jump only within."""
    for program in ("2,6 0 0 1", "1,48 0 0 6", "2,21 1 0 1,6 0 0 1", "0"):
        with pytest.raises(NotUnderstood):
            tables(f'-m bpf --bytecode "{program}" -j DROP')
