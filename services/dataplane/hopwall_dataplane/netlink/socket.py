"""One blocking netlink socket: packed batches, dumps, questions, and events.

It refuses to interpret what it carries: an error is an errno and the kernel's own words, and the
drivers make outcomes of them. It lives in the network namespace its maker was in.

Source: netlink(7).
"""

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from hopwall_dataplane.netlink.codec import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Failure,
    failure_in,
    messages_in,
    number,
)

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

# linux/netlink.h and asm-generic/socket.h; the socket module has no names for them.
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_DROP_MEMBERSHIP = 2
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_MESSAGES_PER_SEND = 1000
_BYTES_PER_SEND = 512 * 1024
_SEND_BUFFER_BYTES = 2 * 1024 * 1024
#: The longest single datagram: ipset repeats a request of 64 kB in its error.
_RECEIVE_BYTES = 160 * 1024
#: A dump that the kernel marks as inconsistent is asked for again this often.
_DUMP_TRIES = 10
_ANSWER_TIMEOUT_S = 10


class NetlinkSocket:
    """A netlink socket of one protocol.

    Errors: `OSError` when the socket itself fails; what the kernel says of a message is a value.
    Owner:  one thread at a time.
    """

    def __init__(
        self, protocol: int, *, groups: int = 0, receive_buffer_bytes: int = 4 * 1024 * 1024
    ) -> None:
        """Open the socket in the current network namespace and join multicast groups (a bit mask)."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        try:
            self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._set_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer_bytes)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            timeout = struct.pack("@ll", _ANSWER_TIMEOUT_S, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise
        self._seq = 0

    def _set_buffer(self, forced: int, plain: int, size: int) -> None:
        """Size a buffer beyond the system's limit if we may, within it if not."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, size)

    def __enter__(self) -> Self:
        """Return the socket."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the socket."""
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._socket.fileno()

    @property
    def portid(self) -> int:
        """The number the kernel knows this socket by; events of what it changed bear it."""
        portid: int = self._socket.getsockname()[0]
        return portid

    def listen(self, group: int, *, on: bool) -> None:
        """Join a multicast group (a number, not a mask), or leave it."""
        option = _NETLINK_ADD_MEMBERSHIP if on else _NETLINK_DROP_MEMBERSHIP
        self._socket.setsockopt(_SOL_NETLINK, option, group)

    def batch(self, requests: Sequence[bytes], begin: bytes, end: bytes) -> Failure | None:
        """Have messages carried out, all or none, between the two that netfilter's transactions need.

        Shape: the first failure. `requests` ask to be acknowledged.
        Not `send`: kernels before 6.10 do not acknowledge the end of a transaction.
        """
        seq = self._reserve(len(requests) + 2)
        last = seq + len(requests)
        data = b"".join(_numbered(one, seq + i) for i, one in enumerate((begin, *requests, end)))
        self._socket.sendto(data, (0, 0))
        while True:
            answer = self._socket.recv(_RECEIVE_BYTES)
            for found in messages_in(answer):
                if found.kind != NLMSG_ERROR or not seq <= found.seq <= last + 1:
                    continue
                failure = failure_in(answer, found)
                if failure is not None or found.seq == last:
                    return failure

    def send(self, messages: Sequence[bytes]) -> dict[int, Failure]:
        """Have the kernel carry out the messages in order, and return those that failed.

        Shape:  failure per index into `messages`; what is not in it was done.
        Errors: when answers were lost (ENOBUFS) or never came (ETIMEDOUT), every message in doubt
                carries that errno.
        Cost:   O(messages); one system call for about 1000 of them, and one answer plus the errors.
        """
        failures: dict[int, Failure] = {}
        begin = 0
        while begin < len(messages):
            end = begin + 1
            size = len(messages[begin])
            limit = min(len(messages), begin + _MESSAGES_PER_SEND)
            while end < limit and size + len(messages[end]) <= _BYTES_PER_SEND:
                size += len(messages[end])
                end += 1
            self._send_chunk(messages[begin:end], begin, failures)
            begin = end
        return failures

    def _send_chunk(
        self, messages: Sequence[bytes], begin: int, failures: dict[int, Failure]
    ) -> None:
        """Send what fits one datagram and collect the answers."""
        first = self._reserve(len(messages))
        last = first + len(messages) - 1
        try:
            self._socket.sendto(number(messages, first), (0, 0))
            answered = False
            while not answered:
                data = self._socket.recv(_RECEIVE_BYTES)
                for found in messages_in(data):
                    if found.kind != NLMSG_ERROR or not first <= found.seq <= last:
                        continue
                    failure = failure_in(data, found)
                    if failure is not None:
                        failures[begin + found.seq - first] = failure
                    answered = answered or found.seq == last
        except OSError as error:
            self._drain()
            lost = _lost(error)
            for i in range(begin, begin + len(messages)):
                failures.setdefault(i, lost)

    def _drain(self) -> None:
        """Throw away late answers, so that the next request finds an empty queue."""
        with contextlib.suppress(OSError):
            self.events()

    def dump(self, request: bytes) -> list[tuple[int, bytes]]:
        """Ask for a table and return its messages as (type, body).

        Errors: `OSError` with the kernel's errno, or EINTR when the table never stood still.
        """
        for _ in range(_DUMP_TRIES):
            rows, consistent = self._dump_once(request)
            if consistent:
                return rows
        raise OSError(errno.EINTR, "the kernel table changed during each of 10 dumps")

    def _dump_once(self, request: bytes) -> tuple[list[tuple[int, bytes]], bool]:
        """Make one pass over a table; say whether it stood still meanwhile."""
        seq = self._reserve(1)
        self._socket.sendto(number([request], seq), (0, 0))
        rows: list[tuple[int, bytes]] = []
        consistent = True
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            for found in messages_in(data):
                if found.seq != seq:
                    continue
                if found.flags & NLM_F_DUMP_INTR:
                    consistent = False
                if found.kind in (NLMSG_DONE, NLMSG_ERROR):
                    failure = failure_in(data, found)
                    if failure is not None:
                        raise OSError(failure.errno, failure.text or "the kernel refused a dump")
                    return rows, consistent
                rows.append((found.kind, data[found.start : found.end]))

    def start(self, request: bytes) -> int:
        """Ask for a table that is taken part by part (`receive`); return the request's number."""
        seq = self._reserve(1)
        self._socket.sendto(number([request], seq), (0, 0))
        return seq

    def receive(self) -> bytes:
        """Return the next datagram.

        Errors: `OSError` when none came in time.
        """
        return self._socket.recv(_RECEIVE_BYTES)

    def ask(self, request: bytes) -> bytes | Failure:
        """Ask a question that has one answer, and return the answer's body."""
        seq = self._reserve(1)
        self._socket.sendto(number([request], seq), (0, 0))
        answer: bytes | None = None
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            for found in messages_in(data):
                if found.seq != seq:
                    continue
                if found.kind != NLMSG_ERROR:
                    answer = data[found.start : found.end]
                    continue
                failure = failure_in(data, found)
                if failure is not None or answer is None:
                    return failure or Failure(errno.ENODATA)
                return answer

    def events(self) -> list[tuple[int, bytes]]:
        """Take all events that have arrived, as (type, body), without waiting.

        Errors: `OSError` with ENOBUFS when some were lost; the reader must then ask for the table.
        """
        return [
            (found.kind, data[found.start : found.end])
            for data in self.datagrams()
            for found in messages_in(data)
        ]

    def datagrams(self) -> list[bytes]:
        """Take all events that have arrived, as they came, without waiting.

        Errors: as `events`.
        """
        rows: list[bytes] = []
        lost: OSError | None = None
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The kernel reports a loss once and then drops silently until the queue was seen empty:
                # whoever asks for the table before that misses what happens meanwhile.
                lost = error
                continue
            rows.append(data)
        if lost is not None:
            raise lost
        return rows

    def _reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that follow each other; never 0, as events are."""
        if self._seq + count >= 1 << 32:
            self._seq = 0
        first = self._seq + 1
        self._seq += count
        return first


def _numbered(message: bytes, seq: int) -> bytes:
    """Give one message its number, and nothing else."""
    return message[:8] + seq.to_bytes(4, sys.byteorder) + message[12:]


def _lost(error: OSError) -> Failure:
    """Say what an error of the socket itself means for the messages whose answers it ate."""
    if error.errno == errno.EAGAIN:
        return Failure(errno.ETIMEDOUT, "the kernel did not answer")
    return Failure(error.errno or errno.EIO, "the kernel's answer was lost")
