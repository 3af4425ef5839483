"""Which sysctls are put right, on a tree of files that stands in for /proc/sys."""

from pathlib import Path

import pytest

from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sysctl import TRACK_UDPLITE, SysctlDriver, workload_sysctls

INDICES = {"lo": 1, "eth0": 2, "tap0": 3, "tap9": 4}
ACCEPT_RA = "net/ipv6/conf/{}/accept_ra"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make the tree of a host that does not forward: an uplink, a declared workload and a stranger."""
    names = {"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}
    for interface in INDICES:
        names |= dict.fromkeys(workload_sysctls("tap0"), "7") if interface == "tap0" else {}
        names[ACCEPT_RA.format(interface)] = "1"
    for name, value in names.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value)
    return tmp_path


def values(tree: Path) -> dict[str, str]:
    """Return every value by name."""
    return {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file()}


def test_an_undeclared_workload_is_no_uplink(tree: Path) -> None:
    """A host that forwards must not begin to heed the router advertisements of a stranger."""
    setup = InterfaceSetup(SysctlDriver(tree), prefixes=("tap",))
    setup.apply(INDICES, {"tap0"})
    now = values(tree)
    assert now["net/ipv6/conf/all/forwarding"] == "1"
    assert now[ACCEPT_RA.format("eth0")] == "2"
    assert now[ACCEPT_RA.format("tap9")] == "1"
    assert now[ACCEPT_RA.format("tap0")] == "0"


def test_without_ipv6_the_host_does_not_begin_to_forward_it(tree: Path) -> None:
    """Only IPv4 is touched."""
    before = values(tree)
    InterfaceSetup(SysctlDriver(tree), prefixes=("tap",), ipv6=False).apply(INDICES, {"tap0"})
    now = values(tree)
    assert {name for name in now if now[name] != before[name]} <= {
        name for name in now if name.startswith("net/ipv4/")
    }
    assert now["net/ipv4/ip_forward"] == "1"


@pytest.mark.parametrize(("udplite", "wanted"), [(True, "0"), (False, "1")])
def test_connection_tracking_is_made_to_take_udplite(
    tree: Path, udplite: bool, wanted: str
) -> None:
    """At the start and at each refresh, unless the settings say to leave it."""
    (name,) = TRACK_UDPLITE
    (tree / name).parent.mkdir(parents=True)
    setup = InterfaceSetup(SysctlDriver(tree), prefixes=("tap",), udplite=udplite)
    for _ in range(2):
        (tree / name).write_text("1")
        setup.look_again(INDICES)
        setup.apply(INDICES, {"tap0"})
        assert (tree / name).read_text() == wanted


def test_a_kernel_without_connection_tracking_is_not_written_to(tree: Path) -> None:
    """What is not there is not made."""
    InterfaceSetup(SysctlDriver(tree), prefixes=("tap",)).apply(INDICES, {"tap0"})
    assert not (tree / "net/netfilter").exists()
