"""Endpoints, tiers, sets, pools and hosts: what is admitted, and what is refused with its place."""

from typing import Any

import pytest

from hopwall_model.not_implemented import NOT_IMPLEMENTED
from hopwall_model.problems import Code
from hopwall_model.resources import (
    HostEndpoint,
    IPPool,
    NetworkSet,
    Node,
    Tier,
    WorkloadEndpoint,
)
from hopwall_model.validate import admit
from tests.model.documents import document, problems, wep

NAT = {"internalIP": "10.0.0.1", "externalIP": "1.2.3.4"}

# ---------------------------------------------------------------- endpoints


def test_an_endpoint_becomes_canonical() -> None:
    """Addresses, gateways, MAC, protocols and prefixes are canonical after admission."""
    admitted = admit(
        wep(
            ipNetworks=["10.65.0.21", "FD00:0::15/128"],
            ipv4Gateway="10.65.0.1",
            ipv6Gateway="FD00::0:1",
            mac="02-AA-00-00-00-01",
            ports=[{"name": "http", "port": 80, "protocol": "tcp", "hostIP": "FD00::0"}],
            profiles=["kns.prod"],
            allowSpoofedSourcePrefixes=["10.1.2.3/8", "10.0.0.0/8"],
        )
    )
    assert isinstance(admitted, WorkloadEndpoint)
    spec = admitted.spec
    assert spec.ip_networks == ("10.65.0.21/32", "fd00::15/128")
    assert (spec.ipv4_gateway, spec.ipv6_gateway) == ("10.65.0.1", "fd00::1")
    assert spec.mac == "02:aa:00:00:00:01"
    assert (spec.ports[0].protocol, spec.ports[0].host_ip) == ("TCP", "fd00::")
    assert spec.allow_spoofed_source_prefixes == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"node": "H1"}, "/spec/node", Code.VALUE),
        ({"node": ""}, "/spec/node", Code.VALUE),
        ({"interfaceName": "cali+"}, "/spec/interfaceName", Code.VALUE),
        ({"interfaceName": ".."}, "/spec/interfaceName", Code.VALUE),
        ({"interfaceName": "a/b"}, "/spec/interfaceName", Code.VALUE),
        ({"interfaceName": "a" * 16}, "/spec/interfaceName", Code.SHAPE),
        ({"interfaceName": ""}, "/spec/interfaceName", Code.SHAPE),
        ({"workload": "x" * 1025}, "/spec/workload", Code.LIMIT),
        ({"ipNetworks": ["10.0.0.0/24"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["fd00::/64"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["10.0.0.1", "10.0.0.1/32"]}, "/spec/ipNetworks/1", Code.CONFLICT),
        ({"ipNetworks": ["10.0.0.01"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["127.0.0.1"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["fe80::1"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["224.0.0.1"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["0.0.0.0"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": ["::ffff:10.0.0.1"]}, "/spec/ipNetworks/0", Code.VALUE),
        ({"ipNetworks": [f"10.0.{i}.{j}" for i in range(2) for j in range(1, 130)]},
         "/spec/ipNetworks", Code.LIMIT),
        ({"ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.2.3.4"}]},
         "/spec/ipNATs/0/internalIP", Code.CONFLICT),
        ({"ipNATs": [{"internalIP": "x", "externalIP": "1.2.3.4"}]},
         "/spec/ipNATs/0/internalIP", Code.VALUE),
        ({"ipNetworks": ["10.0.0.1"], "ipNATs": [NAT, {**NAT, "externalIP": "224.0.0.1"}]},
         "/spec/ipNATs/1/externalIP", Code.VALUE),
        ({"ipNetworks": ["10.0.0.1"], "ipNATs": [{**NAT, "externalIP": "fd00::1"}]},
         "/spec/ipNATs/0/externalIP", Code.CONFLICT),
        ({"ipNetworks": ["10.0.0.1"], "ipNATs": [{**NAT, "externalIP": "10.0.0.1"}]},
         "/spec/ipNATs/0/externalIP", Code.CONFLICT),
        ({"ipNetworks": ["10.0.0.1"], "ipNATs": [NAT, NAT]},
         "/spec/ipNATs/1/externalIP", Code.CONFLICT),
        ({"ports": [{"name": "80", "port": 1}]}, "/spec/ports/0/name", Code.VALUE),
        ({"qosControls": {}}, "/spec/qosControls", Code.NOT_IMPLEMENTED),
        ({"ipv4Gateway": "fd00::1"}, "/spec/ipv4Gateway", Code.VALUE),
        ({"ipv6Gateway": "10.0.0.1"}, "/spec/ipv6Gateway", Code.VALUE),
        ({"ipv4Gateway": "10.0.0.1/24"}, "/spec/ipv4Gateway", Code.VALUE),
        ({"ipv4Gateway": "224.0.0.1"}, "/spec/ipv4Gateway", Code.VALUE),
        ({"profiles": ["kns.a", "B"]}, "/spec/profiles/1", Code.VALUE),
        ({"mac": "02:00:00:00:00"}, "/spec/mac", Code.VALUE),
        ({"mac": "0200.0000.0001"}, "/spec/mac", Code.VALUE),
        ({"mac": "01:00:00:00:00:01"}, "/spec/mac", Code.VALUE),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "/spec/mac", Code.VALUE),
        ({"mac": "00:00:00:00:00:00"}, "/spec/mac", Code.VALUE),
        ({"ports": [{"name": "a b", "port": 1}]}, "/spec/ports/0/name", Code.VALUE),
        ({"ports": [{"name": "a", "port": 1, "protocol": "icmp"}]},
         "/spec/ports/0/protocol", Code.VALUE),
        ({"ports": [{"name": "a", "port": 1, "protocol": "foo"}]},
         "/spec/ports/0/protocol", Code.VALUE),
        ({"ports": [{"name": "a", "port": 1, "hostIP": "x"}]}, "/spec/ports/0/hostIP", Code.VALUE),
        ({"allowSpoofedSourcePrefixes": ["x"]}, "/spec/allowSpoofedSourcePrefixes/0", Code.VALUE),
    ],
)  # fmt: skip
def test_bad_endpoints(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What an endpoint cannot be is refused with its place."""
    assert problems(wep(**spec)) == [(pointer, code)]


def test_floating_addresses_become_canonical() -> None:
    """Both sides of a floating address are canonical, and the inner one is the endpoint's."""
    nats = [NAT, {"internalIP": "FD00:0::15", "externalIP": "FD01::0:1"}]
    admitted = admit(wep(ipNetworks=["10.0.0.1", "fd00::15"], ipNATs=nats))
    assert isinstance(admitted, WorkloadEndpoint)
    assert [(n.external_ip, n.internal_ip) for n in admitted.spec.ip_nats] == [
        ("1.2.3.4", "10.0.0.1"),
        ("fd01::1", "fd00::15"),
    ]


def test_a_host_endpoint_becomes_canonical() -> None:
    """Expected addresses are canonical and named once; ports have a protocol."""
    spec = {
        "node": "h1",
        "expectedIPs": ["10.0.0.1", "FD00::0:1", "10.0.0.1"],
        "ports": [{"name": "ssh", "port": 22}, {"name": "ntp", "port": 123, "protocol": "udp"}],
    }
    admitted = admit(document("HostEndpoint", spec))
    assert isinstance(admitted, HostEndpoint)
    assert admitted.spec.expected_ips == ("10.0.0.1", "fd00::1")
    assert [port.protocol for port in admitted.spec.ports] == ["TCP", "UDP"]
    admit(document("HostEndpoint", {"node": "h1", "interfaceName": "*"}))


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"node": "H1"}, "/spec/node", Code.VALUE),
        ({"interfaceName": ""}, "/spec/interfaceName", Code.MISSING),
        ({"interfaceName": "eth*"}, "/spec/interfaceName", Code.VALUE),
        ({"interfaceName": "a" * 16}, "/spec/interfaceName", Code.SHAPE),
        ({"expectedIPs": ["10.0.0.1", ""]}, "/spec/expectedIPs/1", Code.VALUE),
        ({"expectedIPs": ["10.0.0.0/24"]}, "/spec/expectedIPs/0", Code.VALUE),
        ({"expectedIPs": [f"10.0.{i}.{j}" for i in range(2) for j in range(1, 130)]},
         "/spec/expectedIPs", Code.LIMIT),
        ({"profiles": ["B"]}, "/spec/profiles/0", Code.VALUE),
        ({"ports": [{"name": "a b", "port": 1}]}, "/spec/ports/0/name", Code.VALUE),
        ({"ports": [{"name": "a", "port": 0}]}, "/spec/ports/0/port", Code.SHAPE),
        ({"ports": [{"name": "a", "port": 1, "protocol": 1}]},
         "/spec/ports/0/protocol", Code.VALUE),
    ],
)  # fmt: skip
def test_bad_host_endpoints(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a host endpoint cannot be is refused with its place."""
    given = {"node": "h1", "interfaceName": "eth0", **spec}
    assert problems(document("HostEndpoint", given)) == [(pointer, code)]


# ---------------------------------------------------------------- tiers, sets, pools, hosts


def test_reserved_tiers_keep_their_place() -> None:
    """The default tier is always at 1,000,000 and denies; others are free."""
    default = admit({"kind": "Tier", "metadata": {"name": "default"}})
    assert isinstance(default, Tier)
    assert default.spec.order == 1_000_000
    bad = {"order": 1, "defaultAction": "Pass"}
    assert problems({"kind": "Tier", "metadata": {"name": "default"}, "spec": bad}) == [
        ("/spec/defaultAction", Code.CONFLICT),
        ("/spec/order", Code.CONFLICT),
    ]
    admit({"kind": "Tier", "metadata": {"name": "kube-admin"}, "spec": {"defaultAction": "Pass"}})
    admit({"kind": "Tier", "metadata": {"name": "mine"}, "spec": bad})
    assert problems({"kind": "Tier", "metadata": {"name": "a.b"}}) == [
        ("/metadata/name", Code.VALUE)
    ]


def test_sets_hold_each_network_once() -> None:
    """A set's networks are canonical and without repeats; everything is a network."""
    admitted = admit(document("NetworkSet", {"nets": ["10.0.0.1/8", "10.0.0.0/8", "0.0.0.0/0"]}))
    assert isinstance(admitted, NetworkSet)
    assert admitted.spec.nets == ("10.0.0.0/8", "0.0.0.0/0")
    assert problems(document("GlobalNetworkSet", {"nets": ["10.0.0.0/8", "x"]})) == [
        ("/spec/nets/1", Code.VALUE)
    ]


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"cidr": "x"}, "/spec/cidr", Code.VALUE),
        ({"cidr": "10.0.0.1/8"}, "/spec/cidr", Code.VALUE),
        ({"cidr": "0.0.0.0/0"}, "/spec/cidr", Code.VALUE),
        ({"cidr": "224.0.0.0/4"}, "/spec/cidr", Code.VALUE),
        ({"cidr": "10.0.0.0/8", "blockSize": 19}, "/spec/blockSize", Code.VALUE),
        ({"cidr": "10.0.0.0/8", "blockSize": 122}, "/spec/blockSize", Code.VALUE),
        ({"cidr": "fd00::/48", "blockSize": 26}, "/spec/blockSize", Code.VALUE),
        ({"cidr": "10.0.0.0/28", "blockSize": 26}, "/spec/blockSize", Code.CONFLICT),
        ({"cidr": "10.0.0.0/8", "ipipMode": "Always"}, "/spec/ipipMode", Code.NOT_IMPLEMENTED),
        ({"cidr": "10.0.0.0/8", "vxlanMode": "CrossSubnet"}, "/spec/vxlanMode",
         Code.NOT_IMPLEMENTED),
        ({"cidr": "10.0.0.0/8", "nodeSelector": "a ="}, "/spec/nodeSelector", Code.VALUE),
        ({"cidr": "10.0.0.0/8", "allowedUses": ["All"]}, "/spec/allowedUses/0", Code.SHAPE),
    ],
)  # fmt: skip
def test_bad_pools(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a pool cannot be is refused with its place."""
    assert problems(document("IPPool", spec)) == [(pointer, code)]


def test_good_pools() -> None:
    """Pools of both families are admitted with Calico's block sizes."""
    for text, size in (("10.65.0.0/16", 26), ("FD00:0::/48", 122)):
        spec = {"cidr": text, "blockSize": size, "natOutgoing": True}
        admitted = admit(document("IPPool", spec))
        assert isinstance(admitted, IPPool)
        assert admitted.spec.cidr in ("10.65.0.0/16", "fd00::/48")


def test_a_host_becomes_canonical() -> None:
    """A host's BGP address keeps its host bits; its number is an integer."""
    bgp = {"ipv4Address": "172.18.203.126/24", "ipv6Address": "FD00::A", "asNumber": "1.10"}
    addresses = [{"address": "172.18.203.126/24"}, {"address": "FD00::A", "type": "ExternalIP"}]
    more = {
        "orchRefs": [{"orchestrator": "k8s", "nodeName": "a"}],
        "interfaces": [{"name": "eth0", "addresses": ["10.0.0.1"]}],
    }
    admitted = admit(document("Node", {"bgp": bgp, "addresses": addresses, **more}))
    assert isinstance(admitted, Node)
    assert admitted.spec.bgp is not None
    assert admitted.spec.bgp.ipv4_address == "172.18.203.126/24"
    assert admitted.spec.bgp.ipv6_address == "fd00::a/128"
    assert admitted.spec.bgp.as_number == 65546
    assert [a.address for a in admitted.spec.addresses] == ["172.18.203.126", "fd00::a"]


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"bgp": {"ipv4Address": "fd00::1/64"}}, "/spec/bgp/ipv4Address", Code.VALUE),
        ({"bgp": {"ipv6Address": "10.0.0.1/8"}}, "/spec/bgp/ipv6Address", Code.VALUE),
        ({"bgp": {"ipv4Address": "127.0.0.1/8"}}, "/spec/bgp/ipv4Address", Code.VALUE),
        ({"bgp": {"ipv4Address": "10.0.0.1/33"}}, "/spec/bgp/ipv4Address", Code.VALUE),
        ({"bgp": {"asNumber": 0}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"asNumber": 2**32}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"asNumber": "x"}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"asNumber": "1.70000"}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"asNumber": "1.2.3"}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"asNumber": "9" * 5000}}, "/spec/bgp/asNumber", Code.VALUE),
        ({"bgp": {"routeReflectorClusterID": "x"}}, "/spec/bgp/routeReflectorClusterID",
         Code.VALUE),
        ({"bgp": {"routeReflectorClusterID": "::1"}}, "/spec/bgp/routeReflectorClusterID",
         Code.VALUE),
        ({"bgp": {"ipv4IPIPTunnelAddr": "10.0.0.1"}}, "/spec/bgp/ipv4IPIPTunnelAddr",
         Code.NOT_IMPLEMENTED),
        ({"addresses": [{"address": "x"}]}, "/spec/addresses/0/address", Code.VALUE),
        ({"addresses": [{"address": ""}]}, "/spec/addresses/0/address", Code.VALUE),
        ({"wireguard": {}}, "/spec/wireguard", Code.NOT_IMPLEMENTED),
        ({"interfaces": [{"name": "eth0", "mtu": 1500}]}, "/spec/interfaces/0/mtu",
         Code.UNKNOWN_FIELD),
        ({"interfaces": [{"addresses": ["10.0.0.1", 2]}]}, "/spec/interfaces/0/addresses/1",
         Code.SHAPE),
        ({"orchRefs": [{"nodeName": "a"}]}, "/spec/orchRefs/0/orchestrator", Code.MISSING),
        ({"orchRefs": [{"orchestrator": "k8s", "x": "y"}]}, "/spec/orchRefs/0/x",
         Code.UNKNOWN_FIELD),
        ({"ipv4VXLANTunnelAddr": "10.0.0.1"}, "/spec/ipv4VXLANTunnelAddr", Code.NOT_IMPLEMENTED),
    ],
)  # fmt: skip
def test_bad_hosts(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a host cannot be is refused with its place."""
    assert problems(document("Node", spec)) == [(pointer, code)]


def test_every_unimplemented_row_names_a_field() -> None:
    """The table of what is not carried out names fields that exist."""
    for type_, name in NOT_IMPLEMENTED:
        assert name in type_.__struct_fields__
