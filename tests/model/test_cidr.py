"""Addresses: canonical by construction, and nothing that two readers could read differently."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model.cidr import (
    Cidr,
    Ip,
    address_of,
    contains,
    family_of,
    host_cidr,
    is_host_cidr,
    is_unicast,
    is_workload_address,
    length_of,
    parse_cidr,
    parse_if_address,
    parse_ip,
    split_zero,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.65.0.21", "10.65.0.21/32"),
        ("10.65.0.21/16", "10.65.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("1.2.3.4/0", "0.0.0.0/0"),
        ("FD00:0:0::1", "fd00::1/128"),
        ("fd00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
        ("::1.2.3.4", "::102:304/128"),
    ],
)
def test_networks_have_one_text(text: str, canonical: str) -> None:
    """A network has one text; a bare address is a network of one; host bits are masked."""
    assert parse_cidr(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/24",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.01",
        "010.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/8/8",
        "10.0.0.0/\u0668",
        "\u0661.2.3.4",
        " 10.0.0.0/8",
        "10.0.0.0/8\n",
        "fe80::1%eth0",
        "fe80::1%eth0/64",
        "::ffff:10.0.0.1",
        "::ffff:a00:1/128",
        "::ffff:0:0/96",
        "fd00::/129",
        "fd00:::1",
        "1" * 100_000,
        "10.0.0.0/" + "1" * 100_000,
        "\ud800",
    ],
)
def test_ambiguous_and_wrong_networks_are_refused(text: str) -> None:
    """What is not one network to every reader is refused with a sentence of readable length."""
    with pytest.raises(ValueError, match=r"[.?]$") as caught:
        parse_cidr(text)
    assert len(str(caught.value)) < 400


def test_host_bits_are_refused_on_request() -> None:
    """Strict parsing refuses set host bits, and says what may have been meant."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8"):
        parse_cidr("10.0.0.1/8", strict_host_bits=True)
    assert parse_cidr("10.0.0.0/8", strict_host_bits=True) == "10.0.0.0/8"


def test_a_hosts_address_keeps_its_host_bits() -> None:
    """An interface's address keeps its host bits and its prefix length."""
    assert parse_if_address("172.18.203.126/24") == "172.18.203.126/24"
    assert parse_if_address("FD00::A/64") == "fd00::a/64"
    assert parse_if_address("172.18.203.126") == "172.18.203.126/32"


def test_an_address_is_not_a_network() -> None:
    """`parse_ip` takes an address alone."""
    assert parse_ip("FD00::0:1") == "fd00::1"
    with pytest.raises(ValueError, match="not an IP address"):
        parse_ip("10.0.0.0/8")


def test_the_parts_of_a_network() -> None:
    """Family, length and address are read off canonical text."""
    assert (family_of(Cidr("10.0.0.0/8")), family_of(Cidr("::/0"))) == (4, 6)
    assert (address_of(Cidr("10.0.0.0/8")), length_of(Cidr("10.0.0.0/8"))) == ("10.0.0.0", 8)
    assert host_cidr(Ip("fd00::1")) == "fd00::1/128"
    assert is_host_cidr(Cidr("10.0.0.1/32"))
    assert is_host_cidr(Cidr("fd00::1/128"))
    assert not is_host_cidr(Cidr("fd00::/32"))


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("0.0.0.0/0", "fd00::/8", False),
        ("::/0", "fd00::/8", True),
        ("::/0", "10.0.0.0/8", False),
    ],
)
def test_containment_never_crosses_families(outer: str, inner: str, expected: bool) -> None:
    """A network contains the smaller ones of its own family, and itself."""
    assert contains(Cidr(outer), Cidr(inner)) is expected


def test_everything_becomes_two_halves() -> None:
    """A /0 becomes its two halves; every other network stays one."""
    for zero in (Cidr("0.0.0.0/0"), Cidr("::/0")):
        halves = [ip_network(half) for half in split_zero(zero)]
        assert {half.supernet() for half in halves} == {ip_network(zero)}
        assert len(set(halves)) == 2
    assert split_zero(Cidr("10.0.0.0/8")) == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("text", "unicast", "workload"),
    [
        ("10.0.0.1", True, True),
        ("169.254.169.254", True, False),
        ("fd00::1", True, True),
        ("fe80::1", True, False),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("255.255.255.255", False, False),
    ],
)
def test_addresses_a_machine_can_have(text: str, unicast: bool, workload: bool) -> None:
    """A machine has unicast addresses; a workload has none that ends at its link in IPv6."""
    assert (is_unicast(Ip(text)), is_workload_address(Ip(text))) == (unicast, workload)


@given(st.ip_addresses(), st.integers(0, 128))
def test_canonical_text_is_a_fixed_point(address: object, length: int) -> None:
    """Parsing canonical text gives the same text, and means what the standard library means."""
    text = f"{address}/{length}"
    try:
        parsed = parse_cidr(text)
    except ValueError:
        return
    assert parse_cidr(parsed) == parsed
    assert ip_network(parsed) == ip_network(text, strict=False)


@given(st.text(max_size=60))
def test_no_text_crashes_the_parsers(text: str) -> None:
    """Any text is a network or a `ValueError`."""
    for parse in (parse_ip, parse_cidr, parse_if_address):
        try:
            canonical = parse(text)
        except ValueError:
            continue
        assert parse(canonical) == canonical


@given(st.ip_addresses(v=4), st.integers(0, 32), st.sampled_from(["{}/{}", "{}"]))
def test_plain_networks_are_what_the_library_says(address: object, length: int, form: str) -> None:
    """The fast way for plain IPv4 gives what ipaddress gives."""
    text = form.format(address, length)
    assert parse_cidr(text) == str(ip_network(text, strict=False))


@pytest.mark.parametrize(
    "text", ["01.2.3.4", "1.2.3.256/8", "1.2.3/8", "1.2.3.4/08", "\u0661.2.3.4"]
)
def test_what_is_not_plain_is_judged_by_the_library(text: str) -> None:
    """Leading zeros, octets too large or too few and foreign digits are no address."""
    with pytest.raises(ValueError, match=r"not an IP address|no valid prefix"):
        parse_cidr(text)
