"""What the legacy iptables tables hold, as one digest each: they tell nobody when they change.

The only code that asks the kernel for these tables' bytes. It refuses to understand them: equal digests,
equal tables, whatever their packet counters.

Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h.
"""

import ctypes
import errno
import hashlib
import os
import socket
import struct
from typing import Final, NamedTuple

from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.outcome import Family

_GET_INFO, _GET_ENTRIES = 64, 65
_NAME_BYTES = 32
_INFO_BYTES = 84
_INFO_SIZE_AT = 80
_ENTRIES_HEAD = 40
_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")
_TRIES = 5


class _Layout(NamedTuple):
    """Where an entry's counters and the offset of the next one are."""

    level: int
    next_at: int
    counters_at: int
    family: int


_LAYOUT: Final = {
    Family.V4: _Layout(socket.IPPROTO_IP, 90, 96, socket.AF_INET),
    Family.V6: _Layout(socket.IPPROTO_IPV6, 142, 152, socket.AF_INET6),
}
_ZERO = bytes(16)


class LegacyTables:
    """Digests of the legacy tables of one family.

    Owner: one thread at a time.
    """

    def __init__(self, family: Family) -> None:
        """Open a socket in the current network namespace.

        Errors: `OSError` without CAP_NET_RAW.
        """
        self._layout = _LAYOUT[family]
        self._socket = socket.socket(self._layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def digest(self, table: TableName) -> bytes:
        """Return the digest of a table.

        Errors: `OSError` when the kernel does not give it.
        Cost:   about 0.3 µs a line.
        """
        for _ in range(_TRIES):
            info = self._ask(_GET_INFO, table, _INFO_BYTES)
            (size,) = _U32.unpack_from(info, _INFO_SIZE_AT)
            try:
                entries = self._ask(_GET_ENTRIES, table, _ENTRIES_HEAD + size, size)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue  # it changed between the two questions
                raise
            return digest_of(entries, _ENTRIES_HEAD, self._layout.next_at, self._layout.counters_at)
        raise OSError(errno.EAGAIN, f"table {table} would not stand still")

    def _ask(self, option: int, table: str, length: int, size: int = 0) -> bytearray:
        buffer = bytearray(length)
        buffer[: len(table)] = table.encode()
        if size:
            _U32.pack_into(buffer, _NAME_BYTES, size)
        held = (ctypes.c_char * length).from_buffer(buffer)
        filled = ctypes.c_uint32(length)
        done = self._libc.getsockopt(
            self._socket.fileno(), self._layout.level, option, held, ctypes.byref(filled)
        )
        if done != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        del held
        return buffer


def digest_of(entries: bytearray, start: int, next_at: int, counters_at: int) -> bytes:
    """Return the digest of a table's entries, their packet counters left out; `entries` is changed."""
    at, end = start, len(entries)
    offset_of = _U16.unpack_from
    while at + next_at + 2 <= end:
        (step,) = offset_of(entries, at + next_at)
        if not step:
            break
        entries[at + counters_at : at + counters_at + 16] = _ZERO
        at += step
    return hashlib.blake2b(entries, digest_size=16).digest()
