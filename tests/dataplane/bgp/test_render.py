"""From a value to BIRD's text: the same bytes for the same value, accepted by the real BIRD, free of user text."""

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.bgp.faults import Fault
from hopwall_dataplane.bgp.lint import Suspicious, lint
from hopwall_dataplane.bgp.render import (
    IDLE,
    Rendered,
    protocol_name,
    render,
    session_at,
)
from hopwall_model.bgp import Advertisement, Bgp, FilterRule, PrefixRange, Session
from tests.dataplane.bgp.values import PASSWORDS, speakers

GOLDEN = Path(__file__).parent / "golden"

MESH = Session(
    name="mesh/h2",
    family=4,
    peer_ip="172.30.0.2",
    peer_as=64512,
    local_as=64512,
    peer_host="h2",
    password=("bgp", "mesh"),
    source_ip="172.30.0.1",
    entitled=(PrefixRange("10.65.2.0/24", 24, 32), PrefixRange("10.65.7.0/26", 26, 32)),
)
FABRIC = Session(
    name="peer/tor/fd30::fe",
    family=6,
    peer_ip="fd30::fe",
    peer_as=65001,
    local_as=64512,
    passive=True,
    bfd=True,
    ttl_security=1,
    next_hop="self",
    keepalive_s=10,
    restart_s=60,
    allow_local_as=1,
    reachable_by="fd30::1",
    entitled=(PrefixRange("fd65::/48", 0, 64),),
    imports=(
        FilterRule(action="reject", family=6, operator="in", cidr="fd65:0:0:1::/64"),
        FilterRule(
            action="accept",
            family=6,
            from_peers=True,
            interface="eth*",
            peer_type="ebgp",
            communities=("65000:1",),
            as_path_prefix=(65001, 65002),
            add_communities=("65000:7", "65000:1:2"),
        ),
        FilterRule(action="reject", family=6, peer_type="ibgp"),
        FilterRule(action="reject", family=4),
    ),
    exports=(
        FilterRule(
            action="accept", family=6, shortest=48, longest=64, prepend_as_path=(65010, 65011)
        ),
    ),
)
REFLECTOR = Bgp(
    router_id="172.30.0.1",
    as_number=64512,
    listen_port=1179,
    cluster_id="1.0.0.1",
    ignored_interfaces=("docker*",),
    sessions=(FABRIC, structs.replace(MESH, reflector_client=True)),
    blocks=("10.65.1.0/24", "10.65.9.9/32", "fd65::/64"),
    pools=("10.65.0.0/16", "fd65::/48"),
    unclaimed=(PrefixRange("10.66.0.0/16", 32, 32), PrefixRange("fd65:0:0:9::/64", 128, 128)),
    advertisements=(Advertisement(cidr="10.65.1.0/24", communities=("65000:2", "1:2:3")),),
)
VALUES = {
    "idle": IDLE,
    "mesh": Bgp(router_id="172.30.0.1", as_number=64512, sessions=(MESH,), pools=("10.65.0.0/16",)),
    "reflector": REFLECTOR,
}


def rendered(bgp: Bgp) -> Rendered:
    """Render with every password there is."""
    return render(bgp, interface_prefixes=("tap", "cali"), secrets=PASSWORDS)


def complaint(text: str, folder: Path) -> str:
    """Return what the real BIRD says against a configuration, "" when it takes it."""
    path = folder / "bird.conf"
    path.write_text(text)
    done = subprocess.run(
        ["/usr/sbin/bird", "-p", "-c", str(path)], capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", VALUES)
def test_a_value_renders_to_this_text(name: str, tmp_path: Path) -> None:
    """The whole configuration is as the golden file says, and BIRD takes it."""
    found = rendered(VALUES[name])
    assert found.text == (GOLDEN / f"{name}.conf").read_text()
    assert found.refused == {}
    assert complaint(found.text, tmp_path) == ""
    lint(found.text)


def test_order_is_nothing() -> None:
    """The same value in another order is the same text."""
    shuffle = random.Random(7)

    def mixed(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(shuffle.sample(values, len(values)))

    for _ in range(10):
        other = structs.replace(
            REFLECTOR,
            **{f: mixed(getattr(REFLECTOR, f)) for f in ("sessions", "blocks", "pools")},
        )
        assert rendered(other) == rendered(REFLECTOR)


def test_every_change_has_another_digest() -> None:
    """What runs is told by the digest: a changed password or filter is another one."""
    mesh = VALUES["mesh"]
    other = render(
        mesh, interface_prefixes=("tap", "cali"), secrets=PASSWORDS | {("bgp", "mesh"): "x"}
    )
    limited = structs.replace(mesh, sessions=(structs.replace(MESH, import_limit=7),))
    assert len({rendered(mesh).digest, other.digest, rendered(limited).digest}) == 3
    assert rendered(mesh).digest in rendered(mesh).text.splitlines()[1]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bgp=speakers())
def test_whatever_is_valid_is_taken_by_bird(bgp: Bgp, tmp_path: Path) -> None:
    """Any valid value renders to text that our own last look and the real BIRD take."""
    found = rendered(bgp)
    assert not [name for name in found.refused if not name.startswith("bgp block")]
    lint(found.text)
    assert complaint(found.text, tmp_path) == ""


HOSTILE = st.one_of(
    st.sampled_from(
        [
            'x"; } protocol static evil { ipv4; route 0.0.0.0/0 via 10.0.0.1; } #',
            "10.0.0.1;\naccept;",
            "10.65.0.0/16+ ] then accept; #",
            "0.0.0.0/0",
            '"',
            "\n}",
            "*/ accept; /*",
            "../../etc/passwd",
            "accept",
            "eth0\x00",
            "65000:1) ~ bgp_community then accept; #",
            "١٢٣",
            "10.0.0.1 ",
            "fe80::1%eth0",
        ]
    ),
    st.text(max_size=20),
)
TEXTS = ("unclaimed", "name", "peer_ip", "source_ip", "reachable_by", "password", "entitled", "interface",
         "cidr", "community", "block", "pool", "advertised", "ignored", "cluster", "router")  # fmt: skip


def poisoned(field: str, text: str) -> Bgp:
    """Put the text into one place of a value."""
    rule = FilterRule(action="accept", family=4)
    rules = {
        "interface": structs.replace(rule, interface=text),
        "cidr": structs.replace(rule, operator="in", cidr=text),
        "community": structs.replace(rule, add_communities=(text,), communities=(text,)),
    }
    shared: dict[str, dict[str, object]] = {
        "block": {"blocks": (text,)},
        "pool": {"pools": (text,)},
        "unclaimed": {"unclaimed": (PrefixRange(text, 0, 32),)},
        "advertised": {"advertisements": (Advertisement(cidr=text, communities=(text,)),)},
        "ignored": {"ignored_interfaces": (text,)},
        "cluster": {"cluster_id": text},
        "router": {"router_id": text},
    }
    session = structs.replace(MESH, password=None)
    if field in rules:
        session = structs.replace(session, imports=(rules[field],), exports=(rules[field],))
    elif field == "password":
        session = structs.replace(session, password=("hostile", "text"))
    elif field == "entitled":
        session = structs.replace(session, entitled=(PrefixRange(text, 0, 32),))
    elif field not in shared:
        session = structs.replace(session, **{field: text})
    return structs.replace(REFLECTOR, sessions=(session, FABRIC), **shared.get(field, {}))


@settings(max_examples=400)
@given(field=st.sampled_from(TEXTS), text=HOSTILE)
def test_no_text_gets_out_of_its_place(field: str, text: str) -> None:
    """Hostile text in any place closes its object or is a value: the lines stay lines of known form."""
    try:
        found = render(
            poisoned(field, text),
            interface_prefixes=("tap",),
            secrets={**PASSWORDS, ("hostile", "text"): text},
        )
    except Fault:
        assert field in ("router", "cluster", "ignored")
        return
    lint(found.text)
    heads = [line for line in found.text.splitlines() if line.startswith("protocol ")]
    known = {"hw_device", "hw_direct", "hw_bfd", *found.sessions}
    known |= {f"hw_{kind}{family}" for kind in ("kernel", "blocks", "reach") for family in (4, 6)}
    assert {line.split()[2] for line in heads} <= known
    assert "evil" not in found.text.replace(f'password "{text}"', "")


@pytest.mark.parametrize(
    ("session", "why"),
    [
        (structs.replace(MESH, peer_ip="fd30::2"), "canonical IPv4"),
        (structs.replace(MESH, peer_ip="172.30.0.02"), "is not an IP address"),
        (structs.replace(MESH, peer_ip="224.0.0.1"), "not an address that a peer can have"),
        (structs.replace(MESH, peer_as=0), "must be 1 to"),
        (structs.replace(MESH, restart_s=5000), "0 to 4095"),
        (structs.replace(MESH, password=("bgp", "absent")), "cannot be read on this host"),
        (structs.replace(MESH, entitled=(PrefixRange("fd65::/64", 64, 64),)), "canonical IPv4"),
        (structs.replace(MESH, entitled=(PrefixRange("10.65.2.0/24", 24, 23),)), "24 to 32"),
        (structs.replace(MESH, source_ip="", bfd=True), "BFD needs"),
        (structs.replace(MESH, source_ip="", bfd=True, direct=True, ttl_security=2), "BFD needs"),
        (structs.replace(MESH, peer_as=1, reflector_client=True), "must have our AS number"),
    ],
)
def test_a_session_that_makes_no_sense_is_closed_alone(session: Session, why: str) -> None:
    """It is not in the text and named with the reason; the others are there."""
    found = rendered(Bgp(router_id="172.30.0.1", as_number=64512, sessions=(session, FABRIC)))
    assert list(found.sessions.values()) == [FABRIC.name]
    assert found.refused.keys() == {"bgp mesh/h2"}
    assert why in found.refused["bgp mesh/h2"]


def test_addresses_that_hosts_live_by_are_nobodys_to_announce() -> None:
    """The host's own list, and every peer, in the function that all import filters call."""
    found = render(
        VALUES["mesh"],
        interface_prefixes=("tap",),
        secrets=PASSWORDS,
        reserved=("172.18.203.1/32", "fd00::1/128"),
    )
    assert "return net ~ [ 172.18.203.1/32{32,32}, 172.30.0.2/32{32,32} ];" in found.text
    assert "return net ~ [ fd00::1/128{128,128} ];" in found.text
    assert "  if hw_reserved4() then reject;" in found.text.splitlines()


def test_of_two_sessions_with_one_address_the_first_by_name_stands() -> None:
    """BIRD could not tell their connections apart."""
    twin = structs.replace(MESH, name="peer/twin/172.30.0.2")
    found = rendered(Bgp(router_id="172.30.0.1", as_number=64512, sessions=(twin, MESH)))
    assert list(found.sessions.values()) == ["mesh/h2"]
    assert "bgp peer/twin/172.30.0.2" in found.refused


@pytest.mark.parametrize("secret", ['a"b', "a\nb", "", "x" * 81, "é", "a\x00b"])
def test_a_password_bird_cannot_take_closes_the_session(secret: str) -> None:
    """The reason never says the password."""
    found = render(VALUES["mesh"], interface_prefixes=("tap",), secrets={("bgp", "mesh"): secret})
    assert found.sessions == {}
    assert found.refused == {
        "bgp mesh/h2": "The password must be 1 to 80 printable ASCII characters without a double quote."
    }


def test_a_line_leads_to_its_session() -> None:
    """Every line of a session's filters and protocol is its own; the head is everybody's."""
    found = rendered(REFLECTOR)
    lines = found.text.splitlines()
    name = protocol_name(MESH.name)
    at = next(i for i, line in enumerate(lines, 1) if line == f"protocol bgp {name} {{")
    assert {session_at(found, n) for n in (at, at + 3)} == {"mesh/h2"}
    at = next(i for i, line in enumerate(lines, 1) if line == f"filter {name}_in {{")
    assert session_at(found, at + 1) == "mesh/h2"
    assert session_at(found, 4) is None
    at = next(i for i, line in enumerate(lines, 1) if line.startswith("protocol kernel"))
    assert session_at(found, at + 2) is None


@pytest.mark.parametrize(
    "line",
    [
        'include "/etc/passwd";',
        "protocol static evil {",
        "  export all;",
        'password "a"; import all; #";',
        "if true then accept; accept;",
        "filter hw_x { accept; }",
        "accept; # comment",
        "",
        "  accept;\r",
        "call();",
        'log "/etc/shadow" all;',
    ],
)
def test_the_last_look_refuses_what_it_does_not_know(line: str) -> None:
    """A line of another form is refused wherever it stands, and never repeated in the reason."""
    lines = rendered(REFLECTOR).text.splitlines()
    for at in (0, 5, len(lines)):
        with pytest.raises(Suspicious) as found:
            lint("\n".join([*lines[:at], line, *lines[at:]]) + "\n")
        assert len(line) < 2 or line not in str(found.value)


def test_the_last_look_refuses_a_block_that_does_not_end() -> None:
    """A known line in the wrong place, and a text cut short, are refused."""
    text = rendered(REFLECTOR).text
    with pytest.raises(Suspicious):
        lint(text.rsplit("}", 1)[0])
    with pytest.raises(Suspicious):
        lint(text + "accept;\n  accept;\n")
    with pytest.raises(Suspicious):
        lint(text + "}\n")
