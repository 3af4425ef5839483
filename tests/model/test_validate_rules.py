"""Policies, profiles and their rules: what is admitted, and what is refused with its place."""

from typing import Any

import pytest

from hopwall_model.problems import Code
from hopwall_model.resources import (
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
)
from hopwall_model.validate import admit
from tests.model.documents import RULE, document, policy, problems, rule


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ("Ingress",)),
        ({"ingress": [RULE]}, ("Ingress",)),
        ({"egress": [RULE]}, ("Egress",)),
        ({"ingress": [RULE], "egress": [RULE]}, ("Ingress", "Egress")),
        ({"types": ["Egress", "Ingress", "Egress"]}, ("Ingress", "Egress")),
        ({"types": ["Egress"], "ingress": [RULE]}, ("Egress",)),
    ],
)
def test_types_follow_the_rules(spec: dict[str, Any], types: tuple[str, ...]) -> None:
    """Where no type is given, the rules that are there decide; a policy without rules is ingress."""
    for kind in ("NetworkPolicy", "GlobalNetworkPolicy"):
        admitted = admit(policy(kind, **spec))
        assert isinstance(admitted, NetworkPolicy | GlobalNetworkPolicy)
        assert admitted.spec.types == types


def test_a_rule_becomes_canonical() -> None:
    """Protocols, nets and ports are canonical; the selector stays as it was written."""
    admitted = admit(
        rule(
            protocol="tcp",
            notProtocol="udp",
            source={"nets": ["10.1.2.3/8", "10.0.0.0/8", "FD00::1"], "selector": "a=='x'"},
            destination={"ports": [80, "443", "8000:9000", "53:53", "0:65535"]},
        )
    )
    assert isinstance(admitted, NetworkPolicy)
    got = admitted.spec.ingress[0]
    assert (got.protocol, got.not_protocol) == ("TCP", "UDP")
    assert got.source.nets == ("10.0.0.0/8", "fd00::1/128")
    assert got.source.selector == "a=='x'"
    assert got.destination.ports == (80, 443, "8000:9000", 53, "0:65535")


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"protocol": "foo"}, "/protocol", Code.VALUE),
        ({"protocol": 256}, "/protocol", Code.VALUE),
        ({"protocol": "foo", "source": {"ports": [80]}}, "/protocol", Code.VALUE),
        ({"protocol": 0, "source": {"ports": [80]}}, "/source/ports", Code.CONFLICT),
        ({"protocol": -1}, "/protocol", Code.VALUE),
        # ports
        ({"source": {"ports": [80]}}, "/source/ports", Code.CONFLICT),
        ({"destination": {"notPorts": [80]}}, "/destination/notPorts", Code.CONFLICT),
        ({"protocol": "ICMP", "source": {"ports": [80]}}, "/source/ports", Code.CONFLICT),
        ({"protocol": 47, "source": {"ports": [80]}}, "/source/ports", Code.CONFLICT),
        ({"notProtocol": "TCP", "source": {"ports": [80]}}, "/source/ports", Code.CONFLICT),
        ({"protocol": 6, "source": {"ports": [80, 65536]}}, "/source/ports/1", Code.VALUE),
        ({"protocol": 6, "source": {"ports": [-1]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["90:80"]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["1:70000"]}}, "/source/ports/0", Code.VALUE),
        ({"source": {"ports": ["http"]}}, "/source/ports", Code.CONFLICT),
        ({"protocol": 6, "source": {"ports": ["a b"]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["a:b"]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["x" * 129]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["1:2:3"]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": [":80"]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": [""]}}, "/source/ports/0", Code.VALUE),
        ({"protocol": 6, "source": {"ports": ["٨٠"]}}, "/source/ports/0", Code.VALUE),
        # ICMP
        ({"icmp": {"type": 8}}, "/icmp", Code.CONFLICT),
        ({"protocol": "TCP", "notICMP": {"type": 8}}, "/notICMP", Code.CONFLICT),
        ({"protocol": "ICMP", "icmp": {"code": 0}}, "/icmp/type", Code.MISSING),
        ({"protocol": "ICMP", "notICMP": {}}, "/notICMP/type", Code.MISSING),
        ({"protocol": "ICMP", "ipVersion": 6}, "/ipVersion", Code.CONFLICT),
        ({"protocol": 1, "ipVersion": 6}, "/ipVersion", Code.CONFLICT),
        ({"protocol": "ICMPv6", "ipVersion": 4}, "/ipVersion", Code.CONFLICT),
        ({"protocol": 58, "ipVersion": 4}, "/ipVersion", Code.CONFLICT),
        # nets
        ({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}, "/source/nets/0", Code.CONFLICT),
        ({"ipVersion": 4, "source": {"notNets": ["::/0"]}}, "/source/notNets/0", Code.CONFLICT),
        ({"source": {"nets": ["10.0.0.0/33"]}}, "/source/nets/0", Code.VALUE),
        # selectors
        ({"source": {"selector": "a ="}}, "/source/selector", Code.VALUE),
        ({"source": {"notSelector": "a ="}}, "/source/notSelector", Code.VALUE),
        ({"source": {"namespaceSelector": "a ="}}, "/source/namespaceSelector", Code.VALUE),
        ({"source": {"selector": "global()"}}, "/source/selector", Code.VALUE),
        ({"source": {"notSelector": "!global()"}}, "/source/notSelector", Code.VALUE),
        ({"source": {"selector": "has(a)" + " " * 1020}}, "/source/selector", Code.LIMIT),
        # refused by name
        ({"http": {}}, "/http", Code.NOT_IMPLEMENTED),
        ({"http": {"methods": ["GET"]}}, "/http", Code.NOT_IMPLEMENTED),
        ({"source": {"services": {}}}, "/source/services", Code.NOT_IMPLEMENTED),
        ({"destination": {"serviceAccounts": {"names": ["a"]}}},
         "/destination/serviceAccounts", Code.NOT_IMPLEMENTED),
    ],
)  # fmt: skip
def test_bad_rules(fields: dict[str, Any], pointer: str, code: Code) -> None:
    """What a rule cannot be is refused with its place, in every list that holds rules."""
    bad = {**RULE, **fields}
    for kind in ("NetworkPolicy", "GlobalNetworkPolicy", "Profile"):
        for direction in ("ingress", "egress"):
            data = document(kind, {direction: [RULE, bad]})
            assert problems(data) == [(f"/spec/{direction}/1{pointer}", code)]


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol": 17, "source": {"ports": [53]}, "destination": {"notPorts": ["1:2"]}},
        {"protocol": 0},
        {"notProtocol": 0},
        {"protocol": 6, "source": {"ports": ["http", 80]}, "destination": {"notPorts": ["a-b.c"]}},
        {"protocol": "sctp", "source": {"ports": [0]}},
        {"protocol": 136, "source": {"ports": [1]}},
        {"protocol": 1, "icmp": {"type": 8, "code": 0}, "ipVersion": 4},
        {"protocol": "icmpv6", "notICMP": {"type": 135}, "ipVersion": 6},
        {"source": {"namespaceSelector": "global() || all()"}},
        {
            "ipVersion": 4,
            "source": {"nets": ["10.0.0.0/8"]},
            "destination": {"nets": ["0.0.0.0/0"]},
        },
        {"metadata": {"annotations": {"why": "because"}}},
        {"source": {"nets": [], "selector": ""}},
    ],
)
def test_good_rules(fields: dict[str, Any]) -> None:
    """What Calico's rules may say is admitted."""
    admit(rule(**fields))


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"selector": "a ="}, "/spec/selector", Code.VALUE),
        ({"selector": "global()"}, "/spec/selector", Code.VALUE),
        ({"namespaceSelector": "global()"}, "/spec/namespaceSelector", Code.VALUE),
        ({"tier": "A"}, "/spec/tier", Code.VALUE),
        ({"doNotTrack": True}, "/spec/doNotTrack", Code.CONFLICT),
        ({"preDNAT": True}, "/spec/preDNAT", Code.CONFLICT),
        ({"preDNAT": True, "doNotTrack": True, "applyOnForward": True},
         "/spec/preDNAT", Code.CONFLICT),
        ({"preDNAT": True, "applyOnForward": True, "egress": [RULE]},
         "/spec/preDNAT", Code.CONFLICT),
        ({"preDNAT": True, "applyOnForward": True, "types": ["Egress"]},
         "/spec/preDNAT", Code.CONFLICT),
        ({"serviceAccountSelector": "all()"}, "/spec/serviceAccountSelector",
         Code.NOT_IMPLEMENTED),
    ],
)  # fmt: skip
def test_bad_policies(spec: dict[str, Any], pointer: str, code: Code) -> None:
    """What a policy cannot be is refused with its place."""
    assert problems(policy("GlobalNetworkPolicy", **spec)) == [(pointer, code)]


@pytest.mark.parametrize(
    "flags",
    [
        {"applyOnForward": True, "egress": [RULE]},
        {"applyOnForward": True, "preDNAT": True},
        {"applyOnForward": True, "doNotTrack": True, "egress": [RULE]},
    ],
)
def test_good_host_policies(flags: dict[str, Any]) -> None:
    """The places of a host policy that exclude each other are admitted one at a time."""
    admit(policy("GlobalNetworkPolicy", **flags))


def test_false_is_the_same_as_absent() -> None:
    """A field that is not carried out may be given with its default."""
    admit(policy("GlobalNetworkPolicy", doNotTrack=False, preDNAT=False, serviceAccountSelector=""))


def test_a_profile_has_no_pass() -> None:
    """Pass leads to the next tier; a profile has none."""
    assert problems(document("Profile", {"egress": [{"action": "Pass"}]})) == [
        ("/spec/egress/0/action", Code.CONFLICT)
    ]
    assert isinstance(admit(document("Profile", {"egress": [{"action": "Log"}]})), Profile)
