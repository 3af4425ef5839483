"""Failsafe entries: what is read, and what is said of what is not."""

import pytest

from hopwall_dataplane.failsafe import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    Failsafe,
    FailsafeError,
    parse_failsafe,
)
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_runtime.config import ConfigError


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("tcp:22", Failsafe(6, 22)),
        ("udp:68", Failsafe(17, 68)),
        ("tcp:4222:10.0.0.0/8", Failsafe(6, 4222, "10.0.0.0/8")),
        ("tcp:22:192.0.2.7", Failsafe(6, 22, "192.0.2.7/32")),
        ("tcp:22:[fd00::/8]", Failsafe(6, 22, "fd00::/8")),
    ],
)
def test_entries_are_read(text: str, entry: Failsafe) -> None:
    """Protocol, port and perhaps a network; a bare address is a network of one."""
    assert parse_failsafe(text) == entry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the protocol must be tcp or udp"),
        ("icmp:1", "the protocol must be tcp or udp"),
        ("TCP:22", "the protocol must be tcp or udp"),
        ("tcp", "a number from 1 to 65535"),
        ("tcp:0", "a number from 1 to 65535"),
        ("tcp:65536", "a number from 1 to 65535"),
        ("tcp:022", "a number from 1 to 65535"),
        ("tcp:٢٢", "a number from 1 to 65535"),
        ("tcp:22:", "is not a network"),
        ("tcp:22:10.0.0.0/33", "is not a network"),
        ("tcp:22:fd00::/8", "in brackets"),
        ("tcp:22:[10.0.0.0/8]", "in brackets"),
        ("tcp:22 -j ACCEPT", "a number from 1 to 65535"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, why: str) -> None:
    """The entry itself is named, so that one of many is found; the service does not start."""
    with pytest.raises(FailsafeError, match=why) as caught:
        parse_failsafe(text)
    assert str(caught.value).startswith(repr(text))
    with pytest.raises(ConfigError, match="failsafe_inbound: "):
        DataplaneSettings(failsafe_inbound=(text,)).check()


def test_the_defaults_are_read_and_the_lists_may_be_empty() -> None:
    """Who wants no failsafe at all may say so."""
    assert all(parse_failsafe(entry) for entry in (*DEFAULT_INBOUND, *DEFAULT_OUTBOUND))
    DataplaneSettings(failsafe_inbound=(), failsafe_outbound=()).check()


def test_an_entry_is_for_its_family_and_its_network() -> None:
    """Without a network it is for all."""
    entry = parse_failsafe("tcp:22:10.0.0.0/8")
    assert [entry.is_for(family) for family in Family] == [True, False]
    assert [entry.holds(ip) for ip in ("10.1.2.3", "11.0.0.1", "fd00::1")] == [True, False, False]
    assert parse_failsafe("tcp:22").holds("fd00::1")
