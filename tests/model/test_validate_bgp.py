"""BGP configurations, peers and filters: what is admitted, and what is refused with its place."""

from typing import Any

import pytest

from hopwall_model.problems import Code
from hopwall_model.resources import BGPConfiguration, BGPFilter, BGPPeer
from hopwall_model.validate import admit
from hopwall_model.validate_bgp import duration_s, split_peer_ip
from tests.model.documents import document, problems

SECRET = {"secretKeyRef": {"name": "bgp", "key": "password"}}
PEER = {"peerIP": "192.0.2.1", "asNumber": 65000}
RANGE = {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}


def configuration(spec: dict[str, Any], name: str = "default") -> dict[str, Any]:
    """Return a document of a BGP configuration."""
    return {"kind": "BGPConfiguration", "metadata": {"name": name}, "spec": spec}


# ---------------------------------------------------------------- configuration


def test_a_configuration_becomes_canonical() -> None:
    """Numbers are integers and ranges canonical after admission; names of communities stay."""
    admitted = admit(
        configuration(
            {
                "asNumber": "1.10",
                "communities": [{"name": "a", "value": "65000:1"}],
                "prefixAdvertisements": [{"cidr": "10.65.1.2/16", "communities": ["a", "1:2:3"]}],
                "ignoredInterfaces": ["docker*", "eth0"],
                "nodeMeshPassword": SECRET,
                "nodeMeshMaxRestartTime": "1m30s",
                "bindMode": "None",
            }
        )
    )
    assert isinstance(admitted, BGPConfiguration)
    assert admitted.spec.as_number == 65546
    [advertisement] = admitted.spec.prefix_advertisements
    assert (advertisement.cidr, advertisement.communities) == ("10.65.0.0/16", ("a", "1:2:3"))


def test_one_host_may_say_its_own() -> None:
    """A configuration of a host is named after it."""
    admitted = admit(configuration({"asNumber": 65001, "listenPort": 1790}, "node.h1.example"))
    assert admitted.metadata.name == "node.h1.example"


@pytest.mark.parametrize("name", ["one", "node", "node.-a", "defaults"])
def test_other_names_mean_nothing(name: str) -> None:
    """A configuration that nobody would read is refused."""
    assert ("/metadata/name", Code.CONFLICT) in problems(configuration({}, name))


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"asNumber": 0}, "/spec/asNumber", Code.VALUE),
        ({"listenPort": 0}, "/spec/listenPort", Code.SHAPE),
        ({"logSeverityScreen": "Loud"}, "/spec/logSeverityScreen", Code.SHAPE),
        ({"ignoredInterfaces": ['eth0"; x']}, "/spec/ignoredInterfaces/0", Code.VALUE),
        ({"ignoredInterfaces": ["a" * 16]}, "/spec/ignoredInterfaces/0", Code.VALUE),
        ({"communities": [{"name": "1", "value": "1:2"}]}, "/spec/communities/0/name", Code.VALUE),
        ({"communities": [{"name": "a", "value": "1:65536"}]}, "/spec/communities/0/value",
         Code.VALUE),
        ({"communities": [{"name": "a", "value": "1:02"}]}, "/spec/communities/0/value", Code.VALUE),
        ({"communities": [{"name": "a", "value": "1:2:4294967296"}]}, "/spec/communities/0/value",
         Code.VALUE),
        ({"communities": [{"name": "a", "value": "1:2"}] * 2}, "/spec/communities/1/name",
         Code.CONFLICT),
        ({"prefixAdvertisements": [{"cidr": "x"}]}, "/spec/prefixAdvertisements/0/cidr", Code.VALUE),
        ({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["b"]}]},
         "/spec/prefixAdvertisements/0/communities/0", Code.VALUE),
        ({"nodeMeshPassword": {"secretKeyRef": {"name": "../a", "key": "k"}}},
         "/spec/nodeMeshPassword/secretKeyRef/name", Code.VALUE),
        ({"nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": ".."}}},
         "/spec/nodeMeshPassword/secretKeyRef/key", Code.VALUE),
        ({"nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": "b/c"}}},
         "/spec/nodeMeshPassword/secretKeyRef/key", Code.VALUE),
        ({"nodeMeshPassword": {"password": "open"}}, "/spec/nodeMeshPassword/password",
         Code.UNKNOWN_FIELD),
        ({"nodeMeshMaxRestartTime": "4096s"}, "/spec/nodeMeshMaxRestartTime", Code.VALUE),
        ({"bindMode": "NodeIP"}, "/spec/bindMode", Code.NOT_IMPLEMENTED),
        ({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}, "/spec/serviceClusterIPs",
         Code.NOT_IMPLEMENTED),
        ({"serviceExternalIPs": [{}]}, "/spec/serviceExternalIPs", Code.NOT_IMPLEMENTED),
        ({"serviceLoadBalancerIPs": [{}]}, "/spec/serviceLoadBalancerIPs", Code.NOT_IMPLEMENTED),
        ({"localWorkloadPeeringIPV4": "169.254.1.1"}, "/spec/localWorkloadPeeringIPV4",
         Code.NOT_IMPLEMENTED),
        ({"programClusterRoutes": "Enabled"}, "/spec/programClusterRoutes", Code.NOT_IMPLEMENTED),
        ({"ipv4NormalRoutePriority": 5}, "/spec/ipv4NormalRoutePriority", Code.NOT_IMPLEMENTED),
    ],
)  # fmt: skip
def test_bad_configurations(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a configuration cannot say is refused with its place."""
    assert (pointer, code) in problems(configuration(spec))


@pytest.mark.parametrize(
    "field", ["nodeToNodeMeshEnabled", "nodeMeshPassword", "nodeMeshMaxRestartTime"]
)
def test_the_mesh_is_everybodys(field: str) -> None:
    """Both ends must agree on the mesh, so one host alone cannot change it."""
    values = {"nodeToNodeMeshEnabled": False, "nodeMeshPassword": SECRET}
    spec = {field: values.get(field, "60s")}
    assert problems(configuration(spec, "node.h1")) == [(f"/spec/{field}", Code.CONFLICT)]
    admit(configuration(spec))


# ---------------------------------------------------------------- peers


def test_a_peer_becomes_canonical() -> None:
    """Addresses, numbers and filters are canonical after admission."""
    spec = {"peerIP": "[FD00:0::1]:01790", "asNumber": "1.0", "reachableBy": "FD00::2",
            "localASNumber": "65000", "filters": ["a", "b", "a"], "bfd": True}  # fmt: skip
    admitted = admit(document("BGPPeer", spec))
    assert isinstance(admitted, BGPPeer)
    got = admitted.spec
    assert (got.peer_ip, got.as_number, got.local_as_number) == ("[fd00::1]:1790", 65536, 65000)
    assert (got.reachable_by, got.filters) == ("fd00::2", ("a", "b"))


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({}, "/spec/peerIP", Code.MISSING),
        ({"peerIP": "192.0.2.1"}, "/spec/asNumber", Code.MISSING),
        ({**PEER, "peerSelector": "all()"}, "/spec/peerIP", Code.CONFLICT),
        ({"peerSelector": "all()", "asNumber": 1}, "/spec/asNumber", Code.CONFLICT),
        ({"peerSelector": "all()", "localASNumber": 1}, "/spec/localASNumber", Code.CONFLICT),
        ({"peerSelector": "all()", "reachableBy": "192.0.2.1"}, "/spec/reachableBy", Code.CONFLICT),
        ({"peerSelector": "a ="}, "/spec/peerSelector", Code.VALUE),
        ({**PEER, "nodeSelector": "global()"}, "/spec/nodeSelector", Code.VALUE),
        ({**PEER, "node": "a", "nodeSelector": "all()"}, "/spec/nodeSelector", Code.CONFLICT),
        ({**PEER, "node": "A"}, "/spec/node", Code.VALUE),
        ({**PEER, "peerIP": "192.0.2.1:0"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "192.0.2.1:"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "192.0.2.1:99999"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "[192.0.2.1]:179"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "[fd00::1]"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "fe80::1"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "fe80::1%eth0"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "224.0.0.1"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "peerIP": "router.example"}, "/spec/peerIP", Code.VALUE),
        ({**PEER, "reachableBy": "fd00::1"}, "/spec/reachableBy", Code.CONFLICT),
        ({**PEER, "reachableBy": "x"}, "/spec/reachableBy", Code.VALUE),
        ({**PEER, "asNumber": 2**32}, "/spec/asNumber", Code.VALUE),
        ({**PEER, "keepOriginalNextHop": True, "nextHopMode": "Self"}, "/spec/keepOriginalNextHop",
         Code.CONFLICT),
        ({**PEER, "nextHopMode": "Any"}, "/spec/nextHopMode", Code.SHAPE),
        ({**PEER, "keepaliveTime": "0s"}, "/spec/keepaliveTime", Code.VALUE),
        ({**PEER, "keepaliveTime": "21846s"}, "/spec/keepaliveTime", Code.VALUE),
        ({**PEER, "maxRestartTime": "1.5s"}, "/spec/maxRestartTime", Code.VALUE),
        ({**PEER, "numAllowedLocalASNumbers": -1}, "/spec/numAllowedLocalASNumbers", Code.SHAPE),
        ({**PEER, "ttlSecurity": 256}, "/spec/ttlSecurity", Code.SHAPE),
        ({**PEER, "filters": ["A"]}, "/spec/filters/0", Code.VALUE),
        ({**PEER, "localWorkloadSelector": "all()"}, "/spec/localWorkloadSelector",
         Code.NOT_IMPLEMENTED),
        ({**PEER, "password": "open"}, "/spec/password", Code.SHAPE),
    ],
)  # fmt: skip
def test_bad_peers(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a peer cannot be is refused with its place."""
    assert (pointer, code) in problems(document("BGPPeer", spec))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:1790", ("192.0.2.1", 1790)),
        ("fd00::1", ("fd00::1", 0)),
        ("[fd00::1]:179", ("fd00::1", 179)),
    ],
)
def test_forms_of_a_peer_address(text: str, parts: tuple[str, int]) -> None:
    """An address may bring its port, an IPv6 one in brackets."""
    assert split_peer_ip(text) == parts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120s", 120), ("2m", 120), ("1h1m1s", 3661), ("", None), ("5", None), ("-5s", None),
     ("5ms", None), ("1s1m", None), ("٣s", None)],
)  # fmt: skip
def test_durations(text: str, seconds: int | None) -> None:
    """A duration is of whole hours, minutes and seconds."""
    assert duration_s(text) == seconds


# ---------------------------------------------------------------- filters


def test_a_filter_becomes_canonical() -> None:
    """Networks and numbers are canonical after admission."""
    rule = {**RANGE, "cidr": "10.1.2.3/8", "asPathPrefix": ["65000", "1.0"],
            "operations": [{"prependASPath": {"prefix": ["65001"]}},
                           {"addCommunity": {"value": "65000:1"}}]}  # fmt: skip
    admitted = admit(document("BGPFilter", {"importV4": [rule]}))
    assert isinstance(admitted, BGPFilter)
    [got] = admitted.spec.import_v4
    assert (got.cidr, got.as_path_prefix) == ("10.0.0.0/8", (65000, 65536))
    assert got.operations[0].prepend_as_path is not None
    assert got.operations[0].prepend_as_path.prefix == (65001,)


@pytest.mark.parametrize(
    ("rule", "pointer", "code"),
    [
        ({"action": "Drop"}, "/action", Code.SHAPE),
        ({"action": "Accept", "cidr": "10.0.0.0/8"}, "/matchOperator", Code.MISSING),
        ({"action": "Accept", "matchOperator": "In"}, "/cidr", Code.MISSING),
        ({**RANGE, "cidr": "fd00::/8"}, "/cidr", Code.CONFLICT),
        ({**RANGE, "cidr": "10.0.0.0/33"}, "/cidr", Code.VALUE),
        ({**RANGE, "prefixLength": {"min": 24, "max": 16}}, "/prefixLength", Code.VALUE),
        ({**RANGE, "prefixLength": {"max": 33}}, "/prefixLength", Code.VALUE),
        ({"action": "Accept", "prefixLength": {"min": 9}}, "/prefixLength", Code.CONFLICT),
        ({**RANGE, "interface": "eth0 up"}, "/interface", Code.VALUE),
        ({**RANGE, "source": "Everywhere"}, "/source", Code.SHAPE),
        ({**RANGE, "peerType": "egp"}, "/peerType", Code.SHAPE),
        ({**RANGE, "communities": {"values": ["a"]}}, "/communities/values/0", Code.VALUE),
        ({**RANGE, "communities": {"values": []}}, "/communities/values", Code.SHAPE),
        ({**RANGE, "asPathPrefix": [0]}, "/asPathPrefix/0", Code.VALUE),
        ({**RANGE, "priority": 1}, "/priority", Code.NOT_IMPLEMENTED),
        ({**RANGE, "operations": [{}]}, "/operations/0", Code.CONFLICT),
        ({**RANGE, "operations": [{"setPriority": {"value": 1}}]}, "/operations/0/setPriority",
         Code.NOT_IMPLEMENTED),
        ({**RANGE, "operations": [{"addCommunity": {"value": "no-export"}}]},
         "/operations/0/addCommunity/value", Code.VALUE),
        ({"action": "Reject", "operations": [{"addCommunity": {"value": "1:2"}}]}, "/operations",
         Code.CONFLICT),
    ],
)  # fmt: skip
def test_bad_filters(rule: dict[str, Any], pointer: str, code: Code) -> None:
    """What a rule cannot say is refused with its place, in each of the four lists."""
    assert (f"/spec/exportV4/0{pointer}", code) in problems(
        document("BGPFilter", {"exportV4": [rule]})
    )
