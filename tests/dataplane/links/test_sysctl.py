from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_dataplane.links.sysctl import (
    SetSysctl,
    SysctlDriver,
    host_sysctl_names,
    plan_host,
    plan_sysctls,
    workload_sysctls,
)
from hopwall_dataplane.outcome import Done, Outcome, Refused, Retry
from tests.support.netns import Netns


@pytest.mark.parametrize("name", ["", "all", "default", "lo", "..", "a/b"])
def test_name_that_is_no_workload_interface_is_refused(name: str) -> None:
    """A workload cannot reach the settings of the whole host by the name of its interface."""
    with pytest.raises(ValueError, match="cannot be a workload's interface"):
        workload_sysctls(name)


def test_only_what_differs_is_planned() -> None:
    """Right values and absent trees make no ops."""
    desired = {"net/ipv4/a": "1", "net/ipv4/b": "1", "net/ipv6/c": "1", "net/ipv4/d": "1"}
    actual = {"net/ipv4/a": "1", "net/ipv4/b": "0", "net/ipv6/c": None}
    ops = [SetSysctl("net/ipv4/b", "1"), SetSysctl("net/ipv4/d", "1")]
    assert plan_sysctls(desired, actual) == ops


def test_uplinks_keep_their_router_advertisements() -> None:
    """An uplink at 1 goes to 2 before forwarding is turned on; 0, 2 and workloads stay as they are."""
    actual: dict[str, str | None] = {
        "net/ipv4/ip_forward": "0",
        "net/ipv6/conf/all/forwarding": "0",
        "net/ipv6/conf/eth0/accept_ra": "1",
        "net/ipv6/conf/eth1/accept_ra": "0",
        "net/ipv6/conf/eth2/accept_ra": "2",
        "net/ipv6/conf/tap0/accept_ra": "1",
    }
    interfaces = ["lo", "eth2", "eth1", "eth0", "tap0"]
    assert plan_host(actual, interfaces, ["tap0"]) == [
        SetSysctl("net/ipv4/ip_forward", "1"),
        SetSysctl("net/ipv6/conf/eth0/accept_ra", "2"),
        SetSysctl("net/ipv6/conf/all/forwarding", "1"),
    ]


def test_host_without_ipv6_is_left_without() -> None:
    """Where the v6 tree is absent, only v4 is planned."""
    actual = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": None}
    assert plan_host(actual, ["eth0"], []) == []


def test_names_outside_the_network_tree_are_refused() -> None:
    """The driver writes nothing else, whatever it is asked."""
    driver = SysctlDriver()
    for name in ("kernel/hostname", "net/core/x", "net/ipv4/../../kernel/hostname", "net/ipv4//x"):
        (outcome,) = driver.apply([SetSysctl(name, "x")])
        assert isinstance(outcome, Refused)


def test_right_value_is_not_written(tmp_path: Path) -> None:
    """A file that holds the value already is left alone; one that does not is written."""
    (tmp_path / "net/ipv4").mkdir(parents=True)
    file = tmp_path / "net/ipv4/x"
    file.write_text("1\n")
    driver = SysctlDriver(tmp_path)
    assert driver.apply([SetSysctl("net/ipv4/x", "1")]) == [Done()]
    assert file.read_text() == "1\n"
    assert driver.apply([SetSysctl("net/ipv4/x", "0")]) == [Done()]
    assert file.read_text() == "0"


@pytest.fixture
def ns() -> Iterator[Netns]:
    """A host with an uplink and a workload interface whose name has a dot."""
    with Netns("sysctl") as made:
        for name in ("up0", "tap.0"):
            made.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far"])
        yield made


def settle(interfaces: list[str], workload: str) -> tuple[list[SetSysctl], list[Outcome]]:
    """Set the host and one workload interface as an agent would."""
    driver = SysctlDriver()
    ops = plan_host(driver.read(host_sysctl_names(interfaces)), interfaces, [workload])
    outcomes = driver.apply(ops)
    desired = workload_sysctls(workload)
    more = plan_sysctls(desired, driver.read(desired))
    return ops + more, outcomes + driver.apply(more)


@pytest.mark.kernel
def test_kernel_takes_every_setting_and_a_second_look_finds_nothing(ns: Netns) -> None:
    """All names exist, all values are accepted, and settled means settled."""
    interfaces = ["lo", "up0", "tap.0"]
    ops, outcomes = ns.python(settle, interfaces, "tap.0")
    assert len(ops) > 5
    assert set(outcomes) == {Done()}
    assert ns.python(settle, interfaces, "tap.0") == ([], [])
    assert ns.run(["cat", "/proc/sys/net/ipv6/conf/up0/accept_ra"]) == "2\n"
    assert ns.run(["cat", "/proc/sys/net/ipv6/conf/tap.0/accept_ra"]) == "0\n"
    assert ns.run(["cat", "/proc/sys/net/ipv4/conf/tap.0/proxy_arp"]) == "1\n"


def vanish() -> list[Outcome]:
    """Set what is not there, and what takes no such value."""
    ops = [SetSysctl("net/ipv4/conf/gone0/proxy_arp", "1"), SetSysctl("net/ipv4/ip_forward", "x")]
    return SysctlDriver().apply(ops)


@pytest.mark.kernel
def test_missing_interface_is_retried_and_bad_value_refused(ns: Netns) -> None:
    """An interface may come back; a value the kernel does not take never will."""
    missing, bad = ns.python(vanish)
    assert isinstance(missing, Retry)
    assert isinstance(bad, Refused)
