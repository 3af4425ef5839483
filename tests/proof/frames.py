"""Bytes of packets that the kernel takes for the first of a flow, and the mark by which they are known again.

Source: RFC 791, 8200, 9293, 768, 9260 (an INIT chunk, without its checksum), 792, 4443.
"""

import ipaddress
import socket
import struct

from tests.proof.cloud import Flow

_MAGIC = b"hopwall-proof-"
TTL = 64
ETH_P = {4: 0x0800, 6: 0x86DD}


def mark(index: int) -> bytes:
    """Return the payload by which packet number `index` is known."""
    return _MAGIC + struct.pack("!I", index)


def arrived(frame: bytes, sent: dict[bytes, int]) -> int | None:
    """Return the number of the packet in a frame that came through; None if it is none of ours.

    An error message that quotes a packet is not that packet. `sent` is what `through` gives for each.
    """
    return sent.get(through(frame[14:]))


def through(packet: bytes) -> bytes:
    """Return what of a packet a router leaves as it is: all from its addresses on."""
    return packet[12 if packet[:1] == b"\x45" else 8 :]


def frame(flow: Flow, index: int, destination_mac: str, source_mac: str) -> bytes:
    """Return the flow's first packet as an Ethernet frame."""
    macs = bytes.fromhex((destination_mac + source_mac).replace(":", ""))
    return macs + struct.pack("!H", ETH_P[flow.version]) + packet(flow, index)


def packet(flow: Flow, index: int) -> bytes:
    """Return the flow's first packet, from its IP header on."""
    source, destination = (
        ipaddress.ip_address(text).packed for text in (flow.source, flow.destination)
    )
    inner = _inner(flow, index, source, destination)
    if flow.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(inner), flow.protocol, TTL)
        return head + source + destination + inner
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(inner), index & 0xFFFF, 0x4000, TTL, flow.protocol, 0
    )
    whole = _checksum(head + source + destination)
    return head[:10] + struct.pack("!H", whole) + source + destination + inner


def _inner(flow: Flow, index: int, source: bytes, destination: bytes) -> bytes:
    data = mark(index)
    ports = struct.pack("!HH", flow.source_port, flow.destination_port)
    pseudo = source + destination
    number = flow.protocol
    if number == socket.IPPROTO_TCP:
        syn = ports + struct.pack("!IIHHHH", index, 0, 0x5002, 65535, 0, 0) + data
        return _with_checksum(syn, 16, pseudo, number)
    if number in (socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE):
        whole = ports + struct.pack("!HH", 8 + len(data), 0) + data
        return _with_checksum(whole, 6, pseudo, number)
    if number == socket.IPPROTO_SCTP:
        init = struct.pack("!BBHIIHHI", 1, 0, 20, index + 1, 65535, 1, 1, 1)
        # The mark travels in a parameter that a receiver skips (RFC 9260, 3.2.1).
        skipped = struct.pack("!HH", 0x8001, 4 + len(data)) + data
        skipped += b"\0" * (-len(skipped) % 4)
        chunk = init[:2] + struct.pack("!H", len(init) + len(skipped)) + init[4:] + skipped
        return ports + bytes(8) + chunk
    if (number, flow.version) in ((1, 4), (58, 6)):
        echo = struct.pack("!BBHHH", flow.icmp_type, flow.icmp_code, 0, index & 0xFFFF, 1) + data
        return _with_checksum(echo, 2, pseudo if flow.version == 6 else b"", number)
    return b"\0" * 8 + data


def _with_checksum(whole: bytes, at: int, pseudo: bytes, number: int) -> bytes:
    head = pseudo + struct.pack("!II", len(whole), number) if pseudo else b""
    value = _checksum(head + whole) or 0xFFFF
    return whole[:at] + struct.pack("!H", value) + whole[at + 2 :]


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
