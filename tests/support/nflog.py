"""A listener to NFLOG messages in the caller's network namespace, and packets to provoke them with.

Source: linux/netfilter/nfnetlink_log.h (messages and attributes), RFC 791, RFC 8200, RFC 768.
"""

import ipaddress
import socket
import struct
import time

_NETLINK_NETFILTER = 12
_SUBSYS_ULOG = 4
_MSG_PACKET, _MSG_CONFIG = 0, 1
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_CMD_BIND = 1
_COPY_META = 1
_ATTR_PREFIX = 10
_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2


class NflogListener:
    """Everything one NFLOG group says, as prefixes, in order."""

    def __init__(self, group: int) -> None:
        """Bind to the group: from here on the kernel sends, each message at once."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        for attribute in (
            _attribute(_CFG_CMD, bytes([_CMD_BIND])),
            _attribute(_CFG_MODE, struct.pack(">IBB", 0, _COPY_META, 0)),
            _attribute(_CFG_QTHRESH, struct.pack(">I", 1)),
        ):
            self._configure(group, attribute)

    def _configure(self, group: int, attribute: bytes) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + attribute
        kind = _SUBSYS_ULOG << 8 | _MSG_CONFIG
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK, 1, 0) + body)
        answer = self._socket.recv(65536)
        (kind,) = struct.unpack_from("=H", answer, 4)
        (code,) = struct.unpack_from("=i", answer, 16)
        assert (kind, code) == (_NLMSG_ERROR, 0), (kind, code)

    def prefixes(
        self, *, at_least: int, quiet_s: float = 1.0, patience_s: float = 60.0
    ) -> list[str]:
        """Return the prefix of each message that came: as many as there must be, and then until all is quiet."""
        found: list[str] = []
        while True:
            self._socket.settimeout(quiet_s if len(found) >= at_least else patience_s)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return found
            found += _prefixes(data)

    def close(self) -> None:
        """Leave the group."""
        self._socket.close()


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _prefixes(data: bytes) -> list[str]:
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == _SUBSYS_ULOG << 8 | _MSG_PACKET:
            found.append(_prefix(data[at + 20 : at + length]))
        at += length + -length % 4
    return found


def _prefix(attributes: bytes) -> str:
    at = 0
    while at < len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind & 0x7FFF == _ATTR_PREFIX:
            return attributes[at + 4 : at + length].rstrip(b"\0").decode()
        at += length + -length % 4
    raise AssertionError(attributes)


def send_udp(interface: str, mac: str, src: str, dst: str, port: int, *, n: int = 1) -> int:
    """Send UDP datagrams as a workload would, each of a new flow; return the bytes of each IP packet.

    `mac` is that of the host's end of the cable.
    """
    version = ipaddress.ip_address(src).version
    kind = 0x0800 if version == 4 else 0x86DD
    frame_head = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        for source_port in range(20000, 20000 + n):
            packet = _udp(src, dst, source_port, port)
            wire.send(frame_head + struct.pack(">H", kind) + packet)
    time.sleep(0.05)
    return len(packet)


def _udp(src: str, dst: str, source_port: int, port: int) -> bytes:
    one, other = ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed
    datagram = struct.pack(">HHHH", source_port, port, 12, 0) + b"ping"
    if len(one) == 16:
        pseudo = one + other + struct.pack(">II", 12, 17)
        datagram = datagram[:6] + struct.pack(">H", _checksum(pseudo + datagram)) + datagram[8:]
        return struct.pack(">IHBB", 6 << 28, 12, 17, 64) + one + other + datagram
    head = struct.pack(">BBHHHBBH", 0x45, 0, 32, 0, 0, 64, 17, 0) + one + other
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + datagram


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
