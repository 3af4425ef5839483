import pytest

from hopwall_cli import scene
from hopwall_cli.commands.lab import routing_of
from hopwall_cli.errors import Usage
from hopwall_cli.lab import bgp, routes
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import TOPOLOGIES, Topology
from hopwall_cli.lab.topology import Host, LabError
from hopwall_cli.main import parse
from hopwall_model.validate import admit


def machines(topology: Topology, n_hosts: int = 3) -> dict[str, Host]:
    """Return the machines of a lab by name."""
    hosts = (bgp.as_declared(host, topology) for host in topo.hosts(n_hosts))
    return {machine.name: machine for machine in (*bgp.reflectors(topology), *hosts)}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_a_topology_declares_is_valid(topology: Topology) -> None:
    """Every resource that a topology declares is admitted, its Nodes included."""
    nodes = [machine.resource() for machine in machines(topology).values()]
    for resource in (*bgp.declarations(topology), *nodes):
        admit(resource)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_peers_are_mutual(topology: Topology) -> None:
    """Whoever one machine speaks with speaks with it."""
    there = machines(topology)
    for name in there:
        for peer in bgp.peers(topology, name, there):
            assert peer == bgp.ROUTER or name in bgp.peers(topology, peer, there)


def test_ordinary_hosts_speak_with_reflectors_alone() -> None:
    """With reflectors there is no mesh; reflectors of a cluster speak with each other too."""
    assert bgp.peers("host-reflector", "h1", machines("host-reflector")) == ["h2", "h3"]
    assert bgp.peers("host-reflector", "h3", machines("host-reflector")) == ["h1"]
    assert bgp.peers("reflectors", "h1", machines("reflectors")) == ["rr1", "rr2"]
    assert bgp.peers("reflectors", "rr1", machines("reflectors")) == ["rr2", "h1", "h2", "h3"]


def test_addresses_of_machines_never_meet() -> None:
    """No reflector has the address of a host or of the router."""
    made = [*bgp.reflectors("reflectors"), *topo.hosts(topo.MAX_HOSTS), topo.ROUTER]
    assert len({machine.ipv4 for machine in made}) == len(made)
    assert len({machine.mac for machine in made}) == len(made)


def test_the_first_free_host_joins() -> None:
    """A host that joins has the lowest free number, or the name that is asked for."""
    assert topo.next_host(["h1", "h3"]).name == "h2"
    assert topo.next_host(["h1"], "h7").ipv4 == topo.hosts(7)[6].ipv4
    with pytest.raises(LabError, match="the lab is full"):
        topo.next_host([host.name for host in topo.hosts(topo.MAX_HOSTS)])


@pytest.mark.parametrize(
    ("flags", "routing"),
    [
        ([], "direct"),
        (["--routing", "bgp"], "bgp"),
        (["--topology", "reflector"], "bgp"),
        (["--routing", "direct"], "direct"),
    ],
)
def test_a_topology_means_bgp(flags: list[str], routing: str) -> None:
    """Who names a topology wants BGP; without either, calc tells the routes."""
    assert routing_of(parse(["lab", "up", *flags])) == routing


def test_a_topology_without_bgp_is_refused() -> None:
    """A topology beside --routing direct is a contradiction, and said to be."""
    with pytest.raises(Usage, match="leave it out with --routing direct"):
        routing_of(parse(["lab", "up", "--routing", "direct", "--topology", "mesh"]))


def test_learnt_routes_have_next_hops() -> None:
    """Routes of either family are network → next hop; a black hole has none."""
    text = """[{"type": "blackhole", "dst": "10.65.0.64/26", "metric": 2048},
      {"dst": "10.65.0.9", "gateway": "172.18.203.126", "dev": "eth0"},
      {"dst": "fd65::/122", "gateway": "fd00:203::126", "dev": "eth0"}]"""
    assert routes.learnt(text) == {
        "10.65.0.64/26": "",
        "10.65.0.9/32": "172.18.203.126",
        "fd65::/122": "fd00:203::126",
    }


def test_the_scene_of_a_fabric_has_what_its_router_tells() -> None:
    """What the router tells is one more learnt route; all else is as in the other topologies."""
    table, learnt = scene.table("reflector")
    assert learnt == {
        f"10.65.0.{n}/32": f"172.18.203.{h}" for n, h in ((21, 126), (22, 129), (23, 129))
    }
    assert table == scene.ROUTES
    table, more = scene.table("fabric")
    assert more == {**learnt, bgp.OUTSIDE4: "172.18.203.1"}
    assert table[:-1] == scene.ROUTES
