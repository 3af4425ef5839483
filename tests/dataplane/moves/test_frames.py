"""What is a sign of a workload that has begun to run, and what is not."""

import struct
from ipaddress import ip_address

import pytest

from hopwall_dataplane.moves.frames import is_sign

MINE = frozenset({"10.65.0.5/32", "fd65::5/128"})
MAC, ALL = bytes.fromhex("fa163e000005"), b"\xff" * 6


def arp(
    sender: str = "10.65.0.5", target: str = "10.65.0.5", operation: int = 1, kind: int = 0x0806
) -> bytes:
    """Return an ARP frame."""
    head = ALL + MAC + struct.pack("!HHHBBH", kind, 1, 0x0800, 6, 4, operation)
    return head + MAC + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def rarp(operation: int = 3, about: bytes = MAC) -> bytes:
    """Return what a hypervisor sends for a guest: a reverse ARP that names no address."""
    head = ALL + MAC + struct.pack("!HHHBBH", 0x8035, 1, 0x0800, 6, 4, operation)
    return head + MAC + bytes(4) + about + bytes(4)


def advertisement(
    target: str = "fd65::5", flags: int = 0x20, hops: int = 255, kind: int = 136, next_: int = 58
) -> bytes:
    """Return a neighbour advertisement to all nodes."""
    icmp = bytes([kind, 0, 0, 0, flags, 0, 0, 0]) + ip_address(target).packed
    head = struct.pack("!IHBB", 6 << 28, len(icmp), next_, hops)
    ends = ip_address("fe80::5").packed + ip_address("ff02::1").packed
    return bytes.fromhex("333300000001") + MAC + b"\x86\xdd" + head + ends + icmp


SIGNS = {
    "a gratuitous request": arp(),
    "a gratuitous reply": arp(operation=2),
    "a reverse request": rarp(),
    "a reverse reply": rarp(4),
    "an unsolicited advertisement": advertisement(),
}
OTHERS = {
    "a question for the gateway": arp(target="169.254.1.1"),
    "a probe before an address is used": arp(sender="0.0.0.0"),
    "a gratuitous ARP about another address": arp("10.65.0.6", "10.65.0.6"),
    "an ARP of another operation": arp(operation=8),
    "a reverse ARP about somebody else": rarp(about=b"\x02" * 6),
    "a reverse ARP of another operation": rarp(1),
    "an answer to a solicitation": advertisement(flags=0x60),
    "an advertisement of another address": advertisement("fd65::6"),
    "an advertisement that was forwarded": advertisement(hops=64),
    "a neighbour solicitation": advertisement(kind=135),
    "no ICMPv6": advertisement(next_=17),
    "another protocol": arp(kind=0x0800),
    "nothing": b"",
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_one(name: str) -> None:
    """The three frames that workloads and hypervisors send by themselves are signs."""
    assert is_sign(SIGNS[name], MINE)


@pytest.mark.parametrize("name", OTHERS)
def test_other_frames_are_none(name: str) -> None:
    """What who is only being prepared may send, or what is about others, is no sign."""
    assert not is_sign(OTHERS[name], MINE)


@pytest.mark.parametrize("name", SIGNS)
def test_a_cut_frame_is_none(name: str) -> None:
    """However short a frame is, it is read without a fault and is no sign."""
    frame = SIGNS[name]
    assert not any(is_sign(frame[:length], MINE) for length in range(len(frame)))
