"""The kernel's text of the tracked flows, for one question: is there none of these addresses?

Reading it takes no locks, so it costs 0.5 ms where a walk by netlink takes 10 (262,144 places, few flows). It is
believed only where all of it comes with one read: from one read to the next the kernel finds its place by
counting, and passes over an entry when one before it has gone meanwhile.

Source: ct_seq_show() in net/netfilter/nf_conntrack_standalone.c; seq_read_iter() in fs/seq_file.c.
"""

import contextlib
import os
import re
import socket
from collections.abc import Container

#: Of the thread's own network namespace. Not every kernel has it (CONFIG_NF_CONNTRACK_PROCFS).
PATH = "/proc/thread-self/net/nf_conntrack"
_READ_BYTES = 64 * 1024
_ADDRESS = re.compile(rb"(?:src|dst)=(\S+)")


class Listing:
    """The text, kept open: it lives in the network namespace its maker was in."""

    def __init__(self, path: str = PATH) -> None:
        """Open it, where there is one that may be read."""
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def has_none_of(self, watched: Container[bytes]) -> bool:
        """Tell whether surely no flow has one of these (packed) addresses; False also where that is not known."""
        text = self._read()
        return text is not None and not any(address in watched for address in addresses_in(text))

    def _read(self) -> bytes | None:
        """Return all of the text, None where that takes more than one read."""
        if self._fd < 0:
            return None
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            text = os.read(self._fd, _READ_BYTES)
            return None if text and os.read(self._fd, _READ_BYTES) else text
        except OSError:
            return None


def addresses_in(text: bytes) -> set[bytes]:
    """Return the (packed) addresses of a listing, of both directions.

    Errors: OSError for an address that is none.
    """
    return {
        socket.inet_pton(socket.AF_INET6 if b":" in one else socket.AF_INET, one.decode())
        for one in set(_ADDRESS.findall(text))
    }
