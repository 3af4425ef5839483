"""Where the kernel is asked to check senders by the routes, and that legal ones are never stopped by it."""

from pathlib import Path

import pytest

from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sources import (
    CHECK,
    STRANGERS,
    Senders,
    askers_rate,
    checks,
    why_unchecked,
)
from hopwall_dataplane.links.sysctl import SysctlDriver

A, B, V6 = "10.65.0.1/32", "10.65.0.2/32", "fd65::1/128"


@pytest.mark.parametrize(
    ("who", "wanted", "standing", "is_on"),
    [
        (Senders((A, V6), False), {A: "tap0"}, {A: "tap0"}, True),
        (Senders((A, B), False), {A: "tap0", B: "tap0"}, {A: "tap0", B: "tap0"}, True),
        # A route still to come: as it is.
        (Senders((A, B), False), {A: "tap0", B: "tap0"}, {A: "tap0", B: ""}, None),
        # About to go, or to lead elsewhere, though it stands.
        (Senders((A,), False), {A: ""}, {A: "tap0"}, False),
        (Senders((A,), False), {A: "tap1"}, {A: "tap0"}, False),
        (Senders((A,), True), {A: "tap0"}, {A: "tap0"}, False),
        # Nobody sends anything legal; and nobody is declared.
        (Senders((), False), {}, {}, True),
        (STRANGERS, {}, {}, False),
        (Senders((V6,), False), {}, {}, True),
    ],
)
def test_senders_are_checked_while_every_route_leads_back(
    who: Senders, wanted: dict[str, str], standing: dict[str, str], is_on: bool | None
) -> None:
    """Off before a route goes, on when all stand; what is sent from extra prefixes has no route at all."""
    found = checks({"tap0": who}, wanted, standing)
    assert ("tap0" in found.on, "tap0" in found.off) == (is_on is True, is_on is False)


def test_a_check_is_written_once_and_again_when_somebody_else_changed_it(tmp_path: Path) -> None:
    """What is right is not written; what was changed is told and then put right."""
    file = tmp_path / CHECK.format("tap0")
    file.parent.mkdir(parents=True)
    file.write_text("2")
    (tmp_path / "net/ipv4/ip_forward").write_text("1")
    setup = InterfaceSetup(SysctlDriver(tmp_path), prefixes=("tap",), ipv6=False)
    index = {"tap0": 3}
    setup.apply(index, ())
    assert [op.value for op, _ in setup.check(index, ["tap0", "tap9"], on=True)] == ["1"]
    assert setup.check(index, ["tap0"], on=True) == []
    file.write_text("0")
    assert [(op.name, was) for op, was in setup.look_again(index)] == [(CHECK.format("tap0"), "0")]
    assert len(setup.check(index, ["tap0"], on=True)) == 1
    assert file.read_text() == "1"
    assert [op.value for op, _ in setup.check({"tap0": 4}, ["tap0"], on=False)] == ["0"]


def test_a_value_for_all_interfaces_that_overrules_theirs_is_told() -> None:
    """The kernel takes the greater of both: 1 stops legal senders, 2 checks nothing where there is a default route."""
    assert why_unchecked("0") == why_unchecked(None) == ""
    assert "extra source prefixes" in why_unchecked("1")
    assert "table of neighbours" in why_unchecked("2")


@pytest.mark.parametrize(
    ("held", "rate"), [(None, 51), ("1024", 51), ("16384", 819), ("16", 10), ("9999999", 5000)]
)
def test_askers_leave_room_in_the_table_of_neighbours(held: str | None, rate: int) -> None:
    """In the 5 s in which the kernel takes no entry back, they take a quarter of it."""
    assert askers_rate(held) == rate
