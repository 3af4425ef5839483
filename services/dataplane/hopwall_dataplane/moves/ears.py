"""Listens on the interfaces where workloads are to arrive: the only code that opens packet sockets.

It refuses to wait: sockets do not block, a call reads a few frames, and the first sign of a workload ends
the listening for it. The filter in the kernel passes hardly anything else (`frames`).

Source: packet(7), socket(7).
"""

import asyncio
import contextlib
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.moves.frames import FILTER, is_sign, packed_filter
from hopwall_dataplane.moves.phases import Expected
from hopwall_model.updates import EndpointId

log = logging.getLogger(__name__)

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_PACKET_OUTGOING = 4
#: How many frames a call reads at most.
_FRAMES = 64
_FRAME_BYTES = 256


@dataclass(slots=True)
class Ears:
    """One socket for each workload that is to arrive.

    Owner: the agent's one task; the callback is called on its loop.
    """

    on_sign: Callable[[EndpointId], None]
    _open: dict[EndpointId, tuple[Expected, socket.socket]] = field(default_factory=dict)
    _failed: dict[EndpointId, str] = field(default_factory=dict)

    def listen(self, expected: Mapping[EndpointId, Expected]) -> None:
        """Listen for exactly these; what cannot be opened is tried again at the next call."""
        for endpoint_id, (held, _) in list(self._open.items()):
            if expected.get(endpoint_id) != held:
                self._close(endpoint_id)
        for endpoint_id in self._failed.keys() - expected.keys():
            del self._failed[endpoint_id]
        for endpoint_id, wanted in expected.items():
            if endpoint_id not in self._open:
                self._start(endpoint_id, wanted)

    def close(self) -> None:
        """Close all sockets."""
        self.listen({})

    @property
    def fault(self) -> Mapping[EndpointId, str]:
        """Why the arrival of some workloads will not be heard; to be read, not changed."""
        return self._failed

    def _start(self, endpoint_id: EndpointId, wanted: Expected) -> None:
        try:
            opened = _socket(wanted)
        except OSError as error:
            reason = f"interface {wanted.interface} cannot be listened to: {error.strerror}"
            if self._failed.get(endpoint_id) != reason:
                log.warning("the arrival of %s will not be heard: %s", endpoint_id, reason)
            self._failed[endpoint_id] = reason
            return
        self._failed.pop(endpoint_id, None)
        self._open[endpoint_id] = (wanted, opened)
        loop = asyncio.get_running_loop()
        loop.add_reader(opened.fileno(), self._on_readable, endpoint_id)

    def _close(self, endpoint_id: EndpointId) -> None:
        _, opened = self._open.pop(endpoint_id)
        asyncio.get_running_loop().remove_reader(opened.fileno())
        opened.close()

    def _on_readable(self, endpoint_id: EndpointId) -> None:
        wanted, opened = self._open[endpoint_id]
        for _ in range(_FRAMES):
            try:
                frame, sender = opened.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                # The interface went down or away; the turn that follows from that listens again.
                log.info("interface %s: %s", wanted.interface, error.strerror)
                self._close(endpoint_id)
                return
            if sender[2] != _PACKET_OUTGOING and is_sign(frame, wanted.addresses):
                self._close(endpoint_id)
                self.on_sign(endpoint_id)
                return


def _socket(wanted: Expected) -> socket.socket:
    """Open a socket that gets what the filter passes of one interface.

    Errors: OSError.
    """
    # Protocol 0 gets nothing until it is bound: no frame comes in before the filter stands.
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    with contextlib.ExitStack() as undo:
        undo.callback(opened.close)
        opened.setblocking(False)
        code = ctypes.create_string_buffer(packed_filter())
        program = struct.pack("@HP", len(FILTER), ctypes.addressof(code))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        opened.bind((wanted.interface, _ETH_P_ALL))
        if socket.if_nametoindex(wanted.interface) != wanted.index:
            raise OSError(0, "it is being replaced")
        undo.pop_all()
    return opened
