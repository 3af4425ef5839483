"""Which ICMP errors the programs let by, read by an interpreter of our own and by the kernel's tools."""

import ipaddress
import struct
from random import Random

import pytest

from hopwall_dataplane.iptables.backend import choose, why_no_bpf
from hopwall_dataplane.iptables.driver import Backend
from hopwall_dataplane.iptables.quotes import ABOUT_ITS_OWN, ERRORS_V4, Step, assemble
from hopwall_dataplane.iptables.static import ERRORS, static_chains
from hopwall_dataplane.iptables.table import chain_hashes, with_hash
from hopwall_dataplane.outcome import Family
from tests.dataplane.iptables.test_static import SETTINGS
from tests.support import bpf
from tests.support.netns import Netns

ADDRESSES = {
    Family.V4: ("10.65.0.10", "10.65.0.11", "192.0.2.2"),
    # Each differs from another in one word alone.
    Family.V6: ("fd65::10", "fd65::11", "fd65:0:0:1::10", "fd65::1:0:0:10", "fd66::10"),
}


def header(family: Family, source: str, destination: str, options: int = 0) -> bytes:
    """Return an IP header of an ICMP packet."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    if family is Family.V6:
        return struct.pack("!IHBB", 6 << 28, 0, 58, 64) + ends
    return bytes([0x45 + options]) + bytes(8) + b"\x01\0\0" + ends + b"\x01" * 4 * options


def error(
    kind: int, outer: tuple[str, str], inner: tuple[str, str], options: int = 0, inside: int = 0
) -> bytes:
    """Return an ICMP message about a packet; `options` are words of them, in the header and in the quote."""
    family = Family.of(outer[0])
    quote = header(family, *inner, inside) + bytes(8)
    return header(family, *outer, options) + bytes([kind]) + bytes(7) + quote


def is_its_own(packet: bytes, family: Family) -> bool:
    """Run the family's program."""
    return bool(bpf.run(ABOUT_ITS_OWN[family], packet))


def is_error(kind: int, family: Family) -> bool:
    """Tell whether connection tracking takes a type for an error (nf_conntrack_proto_icmp(v6).c)."""
    return kind in (3, 4, 5, 11, 12) if family is Family.V4 else kind < 128


@pytest.mark.parametrize("family", list(Family))
def test_an_error_goes_from_whom_the_packet_was_sent_to_to_who_sent_it(family: Family) -> None:
    """Of all types and addresses, in every word: all that is no error passes, and of errors those alone."""
    chance = Random(1)
    n_own = 0
    for _ in range(4000):
        kind = chance.choice((*ERRORS_V4, 0, 1, 2, 8, 100, 127, 128, 129, 135, 255))
        outer, inner = (tuple(chance.choices(ADDRESSES[family], k=2)) for _ in range(2))
        if chance.random() < 0.4:
            inner = outer[::-1]
        options, inside = chance.choices((0, 1, 10), k=2) if family is Family.V4 else (0, 0)
        packet = error(kind, outer, inner, options, inside)  # type: ignore[arg-type]  # of two each
        own = not is_error(kind, family) or inner == outer[::-1]
        n_own += own
        assert is_its_own(packet, family) == own, (kind, outer, inner)
    assert 1000 < n_own < 3600


@pytest.mark.parametrize("family", list(Family))
def test_a_quote_that_is_cut_short_is_nobodys(family: Family) -> None:
    """Nothing is let by of which the quoted addresses are not there; one byte more of them makes none."""
    ends = ADDRESSES[family][:2]
    whole = error(3, ends, ends[::-1])  # type: ignore[arg-type]
    need = (20 + 8 + 20) if family is Family.V4 else (40 + 8 + 40)
    assert [n for n in range(len(whole) + 1) if is_its_own(whole[:n], family)] == [
        *range(need, len(whole) + 1)
    ]


def test_behind_an_extension_header_nothing_is_known_to_be_its_own() -> None:
    """ICMPv6 that is not right behind the header is for the lines that follow, whatever its bytes look like."""
    ends = ADDRESSES[Family.V6][:2]
    packet = bytearray(error(129, ends, ends[::-1]))  # type: ignore[arg-type]
    for number in (0, 43, 44, 51, 60):
        packet[6] = number
        assert not is_its_own(bytes(packet), Family.V6)


def test_labels_lead_where_they_stand() -> None:
    """A jump is the number of instructions it leaves out."""
    program = (
        Step(0x30, 6),
        Step(0x15, 58, "a", "b"),
        Step(0x06, 7),
        "a",
        Step(0x06, 1),
        "b",
        Step(0x06, 0),
    )
    assert assemble(program) == "5,48 0 0 6,21 1 2 58,6 0 0 7,6 0 0 1,6 0 0 0"


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["nft", "legacy"])
async def test_the_kernel_takes_the_program_and_gives_it_back(kind: str) -> None:
    """What is saved is what was written, is taken again, and bears the comment it is known by."""
    with Netns("ipq") as ns:
        prefix = ("ip", "netns", "exec", ns.name)
        backend = await choose(kind, command_prefix=prefix)  # type: ignore[arg-type]
        assert await why_no_bpf(backend, tuple(Family), command_prefix=prefix) == ""
        for family, tool in ((Family.V4, "iptables"), (Family.V6, "ip6tables")):
            assert "hw-" not in ns.run([f"{tool}-{kind}-save"])
            body = static_chains(family, SETTINGS)["raw"][ERRORS][0]
            line = with_hash(body, chain_hashes(ERRORS, (body,))[0])
            text = f"*raw\n:{ERRORS} - [0:0]\n-A {ERRORS} {line}\nCOMMIT\n"
            ns.run([f"{tool}-{kind}-restore", "--noflush"], text=text)
            saved = ns.run([f"{tool}-{kind}-save", "-t", "raw"])
            assert f'--bytecode "{ABOUT_ITS_OWN[family]}" ' in saved
            assert line.rpartition(" ")[2].strip('"') in saved
            ns.run([f"{tool}-{kind}-restore"], text=saved)
            again = ns.run([f"{tool}-{kind}-save", "-t", "raw"])
            assert [x for x in again.splitlines() if x[:1] == "-"] == [
                x for x in saved.splitlines() if x[:1] == "-"
            ]
        broken = Backend(kind, dict.fromkeys(Family, "/nowhere"), backend.save_path)  # type: ignore[arg-type]
        assert await why_no_bpf(broken, tuple(Family), command_prefix=prefix) == ""
