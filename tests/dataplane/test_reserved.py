"""What the host lives by: the servers of the bus as addresses, and what no workload may have."""

from hopwall_dataplane.reserved import nats_addresses, reserved_cidrs


def test_servers_are_addresses_with_their_port() -> None:
    """A URL without a scheme or port is one of NATS; a name that does not resolve is left out."""
    urls = ("nats://192.0.2.1:4333", "192.0.2.2", "tls://[fd00::1]:5000", "nats://no-such.invalid")
    assert nats_addresses(urls) == (("192.0.2.1", 4333), ("192.0.2.2", 4222), ("fd00::1", 5000))


def test_reserved_are_the_servers_and_our_own_gateway() -> None:
    """As the networks of one address that endpoints have."""
    cidrs = reserved_cidrs((("192.0.2.1", 4333), ("fd00::1", 4222)), "169.254.1.1")
    assert {"192.0.2.1/32", "fd00::1/128", "169.254.1.1/32"} <= cidrs


def test_without_a_network_only_what_is_said_is_known() -> None:
    """A name is not asked for while a host boots; an address needs nobody."""
    urls = ("nats://localhost:4333", "nats://a..b:4222", "192.0.2.2", "nats://[fd00::1]:5000")
    assert nats_addresses(urls, resolve=False) == (("192.0.2.2", 4222), ("fd00::1", 5000))
