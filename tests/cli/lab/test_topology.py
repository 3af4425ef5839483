import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.topology import LabError, Workload
from hopwall_model.names import valid_ifname
from hopwall_model.validate import admit


def test_hosts_have_the_addresses_of_the_scene() -> None:
    """The first three hosts are .125, .126 and .129; the addresses never repeat."""
    assert [host.ipv4 for host in topo.hosts(3)] == [
        "172.18.203.125",
        "172.18.203.126",
        "172.18.203.129",
    ]
    assert len({host.ipv4 for host in topo.hosts(topo.MAX_HOSTS)}) == topo.MAX_HOSTS


@pytest.mark.parametrize("count", [0, topo.MAX_HOSTS + 1])
def test_number_of_hosts_has_bounds(count: int) -> None:
    """No hosts, and more than there are addresses for, are refused."""
    with pytest.raises(LabError, match="a lab has 1 to"):
        topo.hosts(count)


@pytest.mark.parametrize("name", ["", "a-b", "A", "../x", "x" * 13, "a b"])
def test_lab_name_cannot_reach_into_another_lab(name: str) -> None:
    """A lab's name is short, plain and without a dash, so prefixes of labs never overlap."""
    with pytest.raises(LabError, match="use 1 to 12"):
        topo.check_name(name)


def test_spread_gives_each_host_its_workloads() -> None:
    """Workloads are counted on from 10.65.0.21, host by host."""
    made = topo.spread(("h1", "h2"), 2)
    assert [(w.name, w.host, w.ipv4, w.ipv6) for w in made] == [
        ("vm21", "h1", "10.65.0.21", "fd65::15"),
        ("vm22", "h1", "10.65.0.22", "fd65::16"),
        ("vm23", "h2", "10.65.0.23", "fd65::17"),
        ("vm24", "h2", "10.65.0.24", "fd65::18"),
    ]


def test_workloads_that_come_later_are_counted_on() -> None:
    """The next number is after all that are there, whatever else is called how."""
    assert topo.next_workload([]) == topo.FIRST_WORKLOAD
    assert topo.next_workload(["vm21", "vm30", "wh1", "vm"]) == 31
    (made,) = topo.spread(("h4",), 1, first=31)
    assert (made.name, made.ipv4, made.ipv6) == ("vm31", "10.65.0.31", "fd65::1f")


def test_what_a_lab_declares_is_valid() -> None:
    """Every resource that a lab makes by itself is admitted."""
    wep = topo.spread(("h1",), 1, profiles=("open",))[0]
    for made in (topo.hosts(1)[0].resource(), wep.resource(), topo.open_profile("open")):
        admit(made)


@given(st.text("abcdefgh0123456789", min_size=1, max_size=12))
def test_interface_and_mac_fit_the_kernel(name: str) -> None:
    """A workload's interface is a legal `tap…` name and its MAC a unicast one, whatever its name."""
    workload = Workload(name=name, host="h1", ipv4="10.65.0.1")
    assert valid_ifname(workload.port)
    assert workload.port.startswith("tap")
    assert int(workload.mac[:2], 16) & 1 == 0


def test_link_local_address_is_eui_64() -> None:
    """The address is what the kernel makes from the MAC (RFC 4291, appendix A)."""
    assert topo.link_local("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456"
