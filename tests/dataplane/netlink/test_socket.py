"""The netlink socket against a real kernel, in a namespace of its own."""

import errno
import struct
from collections.abc import Iterator

import pytest

from hopwall_dataplane.netlink.codec import NLM_F_CREATE, Failure, attribute, message
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

Failures = dict[int, Failure]


@pytest.fixture
def ns() -> Iterator[Netns]:
    """A host with nothing but `lo`."""
    with Netns("socket") as made:
        yield made


def blackhole(i: int) -> bytes:
    """Return the request for a route that needs no interface."""
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 80, 0, 6, 0)
    return message(24, NLM_F_CREATE, body + attribute(1, struct.pack(">I", (10 << 24) + i)))


def nonsense() -> bytes:
    """Return a request that is refused."""
    return message(24, 0, struct.pack("=BBBBBBBBI", 2, 99, 0, 0, 254, 80, 0, 6, 0))


def send(messages: list[bytes], receive_buffer_bytes: int = 1 << 22) -> tuple[Failures, Failures]:
    """Send messages, then one good one, on the same socket."""
    with NetlinkSocket(NETLINK_ROUTE, receive_buffer_bytes=receive_buffer_bytes) as sock:
        return sock.send(messages), sock.send([blackhole(1 << 20)])


def test_silence_is_success(ns: Netns) -> None:
    """A batch without errors has no failures, over several datagrams."""
    assert ns.python(send, [blackhole(i) for i in range(2500)]) == ({}, {})
    assert len(ns.run(["ip", "route", "show", "proto", "80"]).splitlines()) == 2501


def test_empty_batch_is_no_system_call(ns: Netns) -> None:
    """Nothing to send is nothing done."""
    assert ns.python(send, []) == ({}, {})


def test_failures_are_found_at_their_places(ns: Netns) -> None:
    """First, last and in between: each error is at the index of its message, with the kernel's words."""
    bad = {0, 7, 999, 1000, 1500}
    messages = [nonsense() if i in bad else blackhole(i) for i in range(1501)]
    failures, after = ns.python(send, messages)
    assert set(failures) == bad
    assert {failure.errno for failure in failures.values()} == {errno.EINVAL}
    assert "prefix" in failures[0].text.lower()
    assert after == {}


def test_lost_answers_put_all_in_doubt_and_the_socket_lives_on(ns: Netns) -> None:
    """When the buffer overflows nothing is claimed, and the next batch is not harmed."""
    failures, after = ns.python(send, [nonsense()] * 900, 2048)
    assert len(failures) == 900
    assert errno.ENOBUFS in {failure.errno for failure in failures.values()}
    assert after == {}


def refused_dump() -> int:
    """Ask for a table that there is not."""
    with NetlinkSocket(NETLINK_ROUTE) as sock:
        try:
            sock.dump(message(26, 0x300, b"\2" + bytes(10) + b"\1"))
        except OSError as error:
            return error.errno or 0
    return 0


def test_refused_dump_raises_with_the_kernels_errno(ns: Netns) -> None:
    """A dump that cannot be is an error, not an empty table."""
    assert ns.python(refused_dump) == errno.EINVAL


def closed() -> bool:
    """Say whether a closed socket says so."""
    sock = NetlinkSocket(NETLINK_ROUTE)
    sock.close()
    sock.close()
    return sock.send([blackhole(1)])[0].errno == errno.EBADF


def test_closed_socket_fails_and_does_not_pretend(ns: Netns) -> None:
    """Sending on a closed socket is a failure of every message."""
    assert ns.python(closed)
