"""Count packets on a wire, beside whoever filters them: the proof that a packet was there, or was not."""

import asyncio
import contextlib
import socket
from typing import Any

_ETH_P_ALL = 0x0003  # linux/if_ether.h; a bridge's port shows its packets to no narrower socket


class Witnessed:
    """What a witness saw; known after its block."""

    packets = 0


class Witness:
    """Running counts of one namespace, by interface, source and destination."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, str, str], socket.socket] = {}
        self._counts: dict[tuple[str, str, str], int] = {}

    async def start(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin to count the IPv4 packets from `src` to `dst` on `interface`."""
        key = (order["interface"], order["src"], order["dst"])
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        sock.setblocking(False)
        sock.bind((key[0], _ETH_P_ALL))
        self._sockets[key] = sock
        self._counts[key] = 0
        asyncio.get_running_loop().add_reader(sock, self._look, key, sock)
        return {"ok": True}

    def _look(self, key: tuple[str, str, str], sock: socket.socket) -> None:
        wanted = socket.inet_aton(key[1]) + socket.inet_aton(key[2])
        self._counts[key] += sock.recv(2048)[12:20] == wanted

    async def stop(self, order: dict[str, Any]) -> dict[str, Any]:
        """End a count and return it."""
        key = (order["interface"], order["src"], order["dst"])
        sock = self._sockets.pop(key)
        asyncio.get_running_loop().remove_reader(sock)
        with contextlib.suppress(BlockingIOError):  # what has come already counts
            while True:
                self._look(key, sock)
        sock.close()
        return {"ok": True, "count": self._counts.pop(key)}
