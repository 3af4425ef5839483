import json

from hopwall_cli.lab.routes import Route, parse, render

SHOWN = json.dumps(
    [
        {"dst": "default", "gateway": "172.18.203.1", "dev": "eth0", "flags": []},
        {"dst": "172.18.203.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link"},
        {"dst": "10.65.0.24", "dev": "tapa429fb36-04", "protocol": 80, "scope": "link"},
        {"dst": "10.65.0.21", "gateway": "172.18.203.126", "dev": "eth0"},
        {"dst": "10.65.0.0/16", "dev": "ns-db03ab89-b4"},
        {"type": "blackhole", "dst": "10.66.0.0/16"},
    ]
)


def test_table_is_as_route_n_shows_it() -> None:
    """Destination, gateway, mask, flags and interface, the default route first."""
    assert render(parse(SHOWN)).splitlines() == [
        "Destination     Gateway         Genmask         Flags Iface",
        "0.0.0.0         172.18.203.1    0.0.0.0         UG    eth0",
        "10.65.0.0       0.0.0.0         255.255.0.0     U     ns-db03ab89-b4",
        "10.65.0.21      172.18.203.126  255.255.255.255 UGH   eth0",
        "10.65.0.24      0.0.0.0         255.255.255.255 UH    tapa429fb36-04",
        "10.66.0.0       0.0.0.0         255.255.0.0     !     -",
        "172.18.203.0    0.0.0.0         255.255.255.0   U     eth0",
    ]


def test_no_routes_is_an_empty_table() -> None:
    """`ip` prints nothing at all for an empty table."""
    assert parse("") == ()


def test_host_routes_are_flagged_h() -> None:
    """A /32 is a host route."""
    assert parse('[{"dst": "10.0.0.1", "dev": "a"}]') == (
        Route("10.0.0.1", "0.0.0.0", "255.255.255.255", "UH", "a"),
    )
