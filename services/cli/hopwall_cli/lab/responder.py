"""The process inside a workload: it answers TCP and UDP, and probes others when it is told to.

Orders come as JSON lines on standard input and answers leave as JSON lines on standard output, in any
order, matched by `id`. It ends with its input. Standard library only, so that it starts fast.
Source: RFC 792 and RFC 4443 (echo), RFC 826 (ARP), packet(7).
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any, cast

from hopwall_cli.lab.flow import Flows, make_room
from hopwall_cli.lab.witness import Witness

DEFAULT_PORT = 7000
_ETH_P_ARP = 0x0806  # linux/if_ether.h
#: Ports below the kernel's ephemeral range (ip-sysctl.rst, ip_local_port_range).
_FIRST_SOURCE_PORT = 12_000
_SOURCE_PORTS = 20_000
#: By which the time for an answer is counted.
_SLICE_S = 0.05
_FAMILY = {False: socket.AF_INET, True: socket.AF_INET6}

Order = dict[str, Any]
Answer = dict[str, Any]


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with itself."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        # The loop's own datagram transports are not subclasses of DatagramTransport.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self._transport.sendto(data, addr)


async def _echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Responder:
    """Listeners and probes of one namespace."""

    def __init__(self) -> None:
        self._ports: set[int] = set()
        # Each probe is a flow of its own to connection tracking: a number that comes again within minutes
        # would ride on what an earlier probe was allowed.
        self._numbers = itertools.count(int.from_bytes(os.urandom(2), "big"))
        self._flows = Flows()
        self._witness = Witness()
        self.orders: dict[str, Callable[[Order], Coroutine[Any, Any, Answer]]] = {
            "listen": self.listen,
            "tcp": self.tcp,
            "udp": self.udp,
            "icmp": self.icmp,
            "arp": self.arp,
            "witness-start": self._witness.start,
            "witness-stop": self._witness.stop,
            "flow-start": self._flows.start,
            "flow-look": self._flows.look,
            "flow-stop": self._flows.stop,
        }

    async def listen(self, order: Order) -> Answer:
        """Answer on a TCP and a UDP port, both families."""
        port = int(order["port"])
        if port not in self._ports:
            self._ports.add(port)
            loop = asyncio.get_running_loop()
            await asyncio.start_server(_echo_stream, port=port)
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - the namespace has one customer
                sock = socket.socket(family, socket.SOCK_DGRAM)
                make_room(sock)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
                await loop.create_datagram_endpoint(Echo, sock=sock)
        return {"ok": True}

    async def tcp(self, order: Order) -> Answer:
        """Connect, say something and hear it again."""
        source = (order["src"], 0) if order.get("src") else None
        reader, writer = await asyncio.open_connection(
            order["dst"], int(order["port"]), local_addr=source
        )
        try:
            writer.write(b"hopwall")
            return {"ok": await reader.readexactly(7) == b"hopwall"}
        finally:
            writer.transport.abort()

    async def udp(self, order: Order) -> Answer:
        """Send a datagram, twice if need be, and hear it again."""
        with self._socket(order, socket.SOCK_DGRAM, 0, numbered=True) as sock:
            sock.connect((order["dst"], int(order["port"])))
            nonce = os.urandom(8)
            return {"ok": await _ask(sock, nonce, lambda data: data == nonce)}

    async def icmp(self, order: Order) -> Answer:
        """Send an echo request, twice if need be, and hear the reply."""
        six = ":" in order["dst"]
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        with self._socket(order, socket.SOCK_RAW, int(protocol)) as sock:
            sock.connect((order["dst"], 0))
            nonce = os.urandom(8)
            ident = next(self._numbers) & 0xFFFF
            head = struct.pack("!BBHHH", 128 if six else 8, 0, 0, ident, 1)
            packet = head + nonce
            packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
            reply = 129 if six else 0

            def mine(data: bytes) -> bool:
                body = data if six else data[(data[0] & 15) * 4 :]
                return bool(body) and body[0] == reply and body[8:] == nonce

            return {"ok": await _ask(sock, packet, mine)}

    async def arp(self, order: Order) -> Answer:
        """Ask who has an address on eth0 and return the hardware address that answers."""
        interface = order.get("interface", "eth0")
        target = socket.inet_aton(order["dst"])
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as sock:
            sock.setblocking(False)
            sock.bind((interface, _ETH_P_ARP))
            mine = sock.getsockname()[4]
            body = mine + socket.inet_aton(order["src"]) + bytes(6) + target
            frame = b"\xff" * 6 + mine + struct.pack("!HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, 1)
            found = b""

            def answers(data: bytes) -> bool:
                nonlocal found
                if data[20:22] == b"\x00\x02" and data[28:32] == target:
                    found = data[22:28]
                return bool(found)

            await _ask(sock, frame + body, answers)
        return {"ok": True, "mac": found.hex(":")}

    def _socket(
        self, order: Order, kind: int, protocol: int, *, numbered: bool = False
    ) -> socket.socket:
        """Open a socket for a probe; a numbered one takes the next port instead of one at random."""
        sock = socket.socket(_FAMILY[":" in order["dst"]], kind, protocol)
        sock.setblocking(False)
        source = order.get("src", "")
        if numbered:
            for number in itertools.islice(self._numbers, _SOURCE_PORTS):
                with contextlib.suppress(OSError):
                    sock.bind((source, _FIRST_SOURCE_PORT + number % _SOURCE_PORTS))
                    break
        elif source:
            sock.bind((source, 0))
        return sock


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


async def _ask(sock: socket.socket, packet: bytes, mine: Callable[[bytes], bool]) -> bool:
    """Send until something of ours comes back; the caller bounds the time."""
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(sock, packet)
        try:
            async with asyncio.timeout(0.3):
                while not mine(await loop.sock_recv(sock, 2048)):
                    pass
                return True
        except TimeoutError:
            continue


async def _patiently(work: Coroutine[Any, Any, Answer], seconds: float) -> Answer:
    """Wait for an answer so long as this process runs: time for which a busy machine lets it wait is not counted.

    Errors: TimeoutError; those of the work.
    """
    # A loop method, not a TaskGroup: an exception of the work is its own, not one of a group.
    task = asyncio.get_running_loop().create_task(work)
    try:
        for _ in range(max(1, round(seconds / _SLICE_S))):
            if (await asyncio.wait([task], timeout=_SLICE_S))[0]:
                return await task
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _obey(responder: Responder, order: Order) -> None:
    answer: Answer
    try:
        work = responder.orders[order["op"]](order)
        answer = await _patiently(work, float(order.get("timeout", 5.0)))
    except (OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
        answer = {"ok": False, "why": type(error).__name__}
    sys.stdout.write(json.dumps({"id": order["id"], **answer}) + "\n")
    sys.stdout.flush()


async def serve() -> None:
    """Obey orders until standard input ends."""
    responder = Responder()
    await responder.listen({"port": DEFAULT_PORT})
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sys.stdout.write('{"id": 0, "ok": true}\n')
    sys.stdout.flush()
    async with asyncio.TaskGroup() as tasks:
        while line := await reader.readline():
            tasks.create_task(_obey(responder, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(serve())
