"""The inside of a workload that moves: it echoes datagrams, and says that it has arrived when it is told to.

Run in its namespace as `python -m tests.support.moving_vm`; orders are lines on standard input: `garp`, `rarp`,
`na`. Little is imported, so that it starts fast.
"""

import selectors
import socket
import struct
import sys

from hopwall_cli.lab.flow import make_room

PORT = 7000
INTERFACE = "eth0"


def frame(kind: str, mac: bytes, v4: bytes, v6: bytes) -> bytes:
    """Return what a workload or its hypervisor sends after a migration."""
    if kind == "na":
        icmp = bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + v6 + b"\x02\x01" + mac
        ends = v6 + socket.inet_pton(socket.AF_INET6, "ff02::1")
        pseudo = ends + struct.pack("!II", len(icmp), 58)
        total = sum(struct.unpack(f"!{(len(pseudo) + len(icmp)) // 2}H", pseudo + icmp))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        icmp = icmp[:2] + struct.pack("!H", ~total & 0xFFFF) + icmp[4:]
        head = struct.pack("!IHBB", 6 << 28, len(icmp), 58, 255)
        return bytes.fromhex("333300000001") + mac + b"\x86\xdd" + head + ends + icmp
    ether, operation = (0x0806, 1) if kind == "garp" else (0x8035, 3)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    if kind == "garp":
        body += mac + v4 + bytes(6) + v4
    else:
        body += mac + bytes(4) + mac + bytes(4)
    return b"\xff" * 6 + mac + struct.pack("!H", ether) + body


def main() -> None:
    """Serve until standard input ends."""
    v4, v6 = (socket.inet_pton(f, a) for f, a in zip((2, 10), sys.argv[1:], strict=True))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.bind((INTERFACE, 0))
    mac = wire.getsockname()[4]
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    make_room(echo)
    echo.bind(("::", PORT))
    waiting = selectors.DefaultSelector()
    waiting.register(echo, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in waiting.select():
            if key.fileobj is echo:
                data, who = echo.recvfrom(64)
                try:
                    echo.sendto(data, who)
                except OSError:
                    continue
                continue
            order = sys.stdin.readline().strip()
            if not order:
                return
            wire.send(frame(order, mac, v4, v6))


if __name__ == "__main__":
    main()
