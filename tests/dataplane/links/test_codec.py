import ipaddress
import struct

from hopwall_dataplane.links.codec import Link, LinkTable
from hopwall_dataplane.netlink.codec import attribute, string

NEW, DEL = 16, 17
UP, LOWER_UP = 0x1, 0x10000


def body(index: int, name: str, flags: int = 0, family: int = 0) -> bytes:
    """Return a link message's body as the kernel lays it out."""
    head = struct.pack("=BBHiII", family, 0, 1, index, flags, 0)
    tail = attribute(1, bytes.fromhex("0200000000ff")) + attribute(7, b"\xff" * 200)
    return head + string(3, name) + attribute(4, b"\0" * 4) + tail


def test_flags_and_address_are_read() -> None:
    """Admin state and carrier are told apart, and the address is written as people write it."""
    table = LinkTable()
    assert table.fold(NEW, body(3, "tap0", UP | LOWER_UP))
    assert table.fold(NEW, body(4, "tap1", UP))
    assert table.by_name() == {
        "tap0": Link("tap0", 3, "02:00:00:00:00:ff", up=True, carrier=True),
        "tap1": Link("tap1", 4, "02:00:00:00:00:ff", up=True, carrier=False),
    }


def test_event_that_changes_nothing_is_not_a_change() -> None:
    """Repeated events, and removals of what is unknown, are no news."""
    table = LinkTable()
    assert table.fold(NEW, body(3, "tap0"))
    assert not table.fold(NEW, body(3, "tap0"))
    assert not table.fold(DEL, body(9, "tap9"))


def test_link_leaving_a_bridge_is_still_there() -> None:
    """A bridge's DELLINK is about the port, not about the link."""
    table = LinkTable()
    table.fold(NEW, body(3, "tap0"))
    assert not table.fold(DEL, body(3, "tap0", family=7))
    assert list(table.by_name()) == ["tap0"]


def test_rename_and_re_creation_follow_the_index() -> None:
    """A renamed link has one name; a name that comes back has the new index."""
    table = LinkTable()
    table.fold(NEW, body(3, "tap0"))
    table.fold(NEW, body(3, "vm0"))
    assert list(table.by_name()) == ["vm0"]
    table.fold(DEL, body(3, "vm0"))
    table.fold(NEW, body(4, "vm0"))
    assert table.by_name()["vm0"].index == 4


def test_dump_replaces_everything() -> None:
    """What a dump does not show is gone."""
    table = LinkTable()
    table.fold(NEW, body(3, "tap0"))
    assert table.replace([(NEW, body(4, "tap1"))])
    assert list(table.by_name()) == ["tap1"]
    assert not table.replace([(NEW, body(4, "tap1"))])


def address(index: int, own: str, other: str = "") -> bytes:
    """Return an address message's body; on a point-to-point link the other end has an address too."""
    packed = ipaddress.ip_address(own).packed
    head = struct.pack("=BBBBI", 2 if len(packed) == 4 else 10, 24, 0, 0, index)
    if not other:
        return head + attribute(1, packed)
    return head + attribute(1, ipaddress.ip_address(other).packed) + attribute(2, packed)


NEW_ADDRESS, DEL_ADDRESS = 20, 21


def test_addresses_come_and_go_with_their_link() -> None:
    """Own addresses only, in any order with the link itself; a new link of that index begins with none."""
    table = LinkTable()
    assert table.fold(NEW_ADDRESS, address(3, "192.0.2.1", "192.0.2.2"))
    table.fold(NEW, body(3, "eth0"))
    assert table.fold(NEW_ADDRESS, address(3, "fd00::1"))
    assert not table.fold(NEW_ADDRESS, address(3, "fd00::1"))
    assert table.by_name()["eth0"].addresses == {"192.0.2.1", "fd00::1"}
    assert table.fold(DEL_ADDRESS, address(3, "fd00::1"))
    assert table.by_name()["eth0"].addresses == {"192.0.2.1"}
    table.fold(DEL, body(3, "eth0"))
    table.fold(NEW, body(3, "eth0"))
    assert table.by_name()["eth0"].addresses == frozenset()
    assert not table.replace([(NEW, body(3, "eth0"))])
    assert table.replace([(NEW, body(3, "eth0")), (NEW_ADDRESS, address(3, "192.0.2.9"))])
