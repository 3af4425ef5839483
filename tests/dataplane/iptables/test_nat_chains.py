"""The nat table's chains: when there are any, and what a packet costs."""

import ipaddress
import re

from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.nat_chains import from_chain, nat_chains
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import Nat

GOTO = re.compile(r"-d (\S+) -g (\S+)")


def nat(external: int, internal: int = 1) -> Nat:
    """Return a floating address by number."""
    return Nat(f"{ipaddress.IPv4Address(external)}/32", f"{ipaddress.IPv4Address(internal)}/32")


def walk(chains: dict[str, tuple[str, ...]], address: int) -> tuple[str, int, int]:
    """Return where a new connection to the address goes, the lines it met and the chains it came through."""
    ip = ipaddress.IPv4Address(address)
    chain, met, depth = "hw-nat-to", 0, 1
    while True:
        for line in chains[chain]:
            met += 1
            if (goto := GOTO.fullmatch(line)) and ip in ipaddress.ip_network(goto[1]):
                chain, depth = goto[2], depth + 1
                break
            if line.startswith("-j DNAT "):
                return line.rpartition(" ")[2], met, depth
        else:
            return "", met, depth


@given(st.sets(st.integers(0, 2**32 - 1) | st.integers(0, 999), max_size=80))
def test_each_floating_address_leads_to_its_own_and_no_other_does(numbers: set[int]) -> None:
    """Whatever the addresses; and no path is longer than nft takes."""
    chains, _ = nat_chains(
        Family.V4, [nat(n, n ^ 1) for n in sorted(numbers)], pools=False, outgoing=False
    )
    for number in numbers:
        found, _, depth = walk(chains, number)
        assert found == str(ipaddress.IPv4Address(number ^ 1))
        assert depth <= 9
    for other in {n + 1 for n in numbers if n + 1 < 2**32} - numbers:
        if chains:
            assert walk(chains, other)[0] == ""


def test_a_packet_pays_for_the_depth_and_not_for_the_number_of_addresses() -> None:
    """Of 2,000 in a row one is found within a few dozen lines, and a stranger is let go at the root."""
    chains, _ = nat_chains(
        Family.V4, [nat(0xCB007100 + n, n) for n in range(2000)], pools=False, outgoing=False
    )
    assert max(walk(chains, 0xCB007100 + n)[1] for n in range(2000)) <= 40
    assert walk(chains, 0x0A000001)[1] <= 8


def test_a_host_that_translates_nothing_has_nothing_in_the_nat_table() -> None:
    """Neither chains nor jumps; nor where natOutgoing cannot be told from inside."""
    for outgoing, pools in ((False, True), (False, False), (True, False)):
        assert nat_chains(Family.V4, [], pools=pools, outgoing=outgoing) == ({}, ())


def test_the_lowest_of_several_floating_addresses_is_the_one_seen() -> None:
    """By number, not by text."""
    chains, jumps = nat_chains(Family.V4, [nat(10, 1), nat(9, 1)], pools=True, outgoing=True)
    assert chains["hw-nat-from"] == (f"-s 0.0.0.1/32 -g {from_chain('0.0.0.1/32')}",)
    to_source = [line.partition("--to-source ")[2] for line in chains[from_chain("0.0.0.1/32")]]
    assert to_source == ["0.0.0.9", "0.0.0.9"]
    assert chains["hw-nat-post"] == ("-j hw-nat-from", "-j hw-nat-out")
    assert chains["hw-nat-out"][0].endswith("-j MASQUERADE --random-fully")
    assert [(j.builtin, j.where) for j in jumps] == [
        ("PREROUTING", "first"),
        ("OUTPUT", "first"),
        ("POSTROUTING", "last"),
    ]
