"""The one way in: what is admitted is canonical, and what is refused is refused with its place."""

import copy
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model import codec
from hopwall_model.problems import MAX_PROBLEMS, Code, Invalid, step
from hopwall_model.resource_names import (
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_RESOURCE_BYTES,
    valid_label_key,
    valid_name,
)
from hopwall_model.resources import (
    KINDS,
    Resource,
)
from hopwall_model.validate import admit
from tests.model.documents import RULE, WEP, document, policy, problems, rule, wep

# ---------------------------------------------------------------- the document


@pytest.mark.parametrize(
    ("data", "pointer", "code"),
    [
        (b"", "", Code.JSON),
        (b"{", "", Code.JSON),
        (b"\xff", "", Code.JSON),
        (b"\xef\xbb\xbf{}", "", Code.JSON),
        (b"[]", "", Code.SHAPE),
        (b"null", "", Code.SHAPE),
        (b'"a"', "", Code.SHAPE),
        (b'{"a":NaN}', "", Code.JSON),
        (b'{"a":-Infinity}', "", Code.JSON),
        (b'{"a":1e999}', "/a", Code.JSON),
        (b'{"a":' + b"9" * 5000 + b"}", "", Code.JSON),
        (b'{"a":99999999999999999999}', "/a", Code.JSON),
        (b'{"a":{"b":1,"b":2}}', "/a/b", Code.JSON),
        (b'{"kind":"Tier","kind":"Node"}', "/kind", Code.JSON),
        (b'{"a":["\\ud800"]}', "/a/0", Code.JSON),
        (b'{"\\udfff":1}', "", Code.JSON),
        (b'{"a/b~c":"\\ud800"}', "/a~1b~0c", Code.JSON),
        (b"[" * 200_000, "", Code.LIMIT),
        (
            b'{"a":' + b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1) + b"}",
            "",
            Code.LIMIT,
        ),
        (b'{"a":[' + b"1," * MAX_JSON_VALUES + b"1]}", "", Code.LIMIT),
        (b'{"a":{"' + b"k" * 1025 + b'":1}}', "/a", Code.LIMIT),
        (b" " * (MAX_RESOURCE_BYTES + 1), "", Code.LIMIT),
    ],
)
def test_unsound_documents(data: bytes, pointer: str, code: Code) -> None:
    """A document that is not JSON, means two things, or costs too much is refused."""
    assert problems(data) == [(pointer, code)]


def test_documents_from_memory() -> None:
    """A document from memory is held to the same: no dates, no odd keys, no loops."""
    loop: dict[str, Any] = {}
    loop["a"] = loop
    bomb: list[Any] = []
    for _ in range(30):
        bomb = [bomb, bomb]
    for odd in (loop, {"a": bomb}, {"a": datetime.date(2026, 1, 1)}, {1: 2}, {"a": {1, 2}}):
        with pytest.raises(Invalid):
            admit(odd)  # type: ignore[arg-type]  # what a YAML reader may return


def test_admitting_does_not_change_the_document() -> None:
    """The caller's document stays as it was, also where it is refused."""
    bad = rule(foo=1, protocol="tcp")
    before = copy.deepcopy(bad)
    with pytest.raises(Invalid):
        admit(bad)
    assert bad == before


@pytest.mark.parametrize(
    ("data", "pointer", "code"),
    [
        ({}, "/kind", Code.MISSING),
        ({"kind": "Pod"}, "/kind", Code.SHAPE),
        ({"kind": None}, "/kind", Code.SHAPE),
        ({"kind": ["Tier"]}, "/kind", Code.SHAPE),
        ({"kind": "Tier"}, "/metadata", Code.MISSING),
        ({"kind": "Tier", "metadata": {}}, "/metadata/name", Code.MISSING),
        ({"kind": "Tier", "metadata": {"name": 1}}, "/metadata/name", Code.SHAPE),
        ({**WEP, "apiVersion": "v1"}, "/apiVersion", Code.SHAPE),
        ({**WEP, "extra": 1}, "/extra", Code.UNKNOWN_FIELD),
        ({**WEP, "a/b": 1}, "/a~1b", Code.UNKNOWN_FIELD),
        ({**WEP, "a` - at `$.x`": 1}, "/a` - at `$.x`", Code.UNKNOWN_FIELD),
        ({**WEP, "spec": {"node": "h"}}, "/spec/interfaceName", Code.MISSING),
        ({**WEP, "spec": None}, "/spec", Code.SHAPE),
        (wep(ports=[{"name": "a", "port": "x"}]), "/spec/ports/0/port", Code.SHAPE),
        (wep(ports=[{"name": "a", "port": 0}]), "/spec/ports/0/port", Code.SHAPE),
        (wep(ports=[{"name": "a", "port": True}]), "/spec/ports/0/port", Code.SHAPE),
        (wep(mac=1), "/spec/mac", Code.SHAPE),
        (wep(interface_name="x"), "/spec/interface_name", Code.UNKNOWN_FIELD),
        (rule(action="allow"), "/spec/ingress/0/action", Code.SHAPE),
        (rule(ipVersion=5), "/spec/ingress/0/ipVersion", Code.SHAPE),
        (rule(protocol=6.0), "/spec/ingress/0/protocol", Code.SHAPE),
        (rule(protocol=True), "/spec/ingress/0/protocol", Code.SHAPE),
        (rule(icmp={"type": 255}), "/spec/ingress/0/icmp/type", Code.SHAPE),
        (rule(source={"port": [80]}), "/spec/ingress/0/source/port", Code.UNKNOWN_FIELD),
        (rule(source={"ports": [80] * 51}), "/spec/ingress/0/source/ports", Code.LIMIT),
        (rule(source={"nets": ["10.0.0.0/8"] * 257}), "/spec/ingress/0/source/nets", Code.LIMIT),
        (policy(ingress=[RULE] * 1025), "/spec/ingress", Code.LIMIT),
        (policy(order="1"), "/spec/order", Code.SHAPE),
        (policy(types=["ingress"]), "/spec/types/0", Code.SHAPE),
        (document("Tier", {}, labels={"a": "b", "c": 1}), "/metadata/labels/c", Code.SHAPE),
        (document("Tier", {"defaultAction": "Allow"}), "/spec/defaultAction", Code.SHAPE),
    ],
)
def test_wrong_shapes(data: dict[str, Any], pointer: str, code: Code) -> None:
    """A wrong type, a missing field, an unknown field or kind is refused with its place."""
    assert problems(data) == [(pointer, code)]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (policy(ingress=[RULE] * 1025), "Give at most 1024 entries here; spread the rest"),
        (wep(interfaceName="x" * 16), "Give at most 15 characters here."),
        (wep(interfaceName=""), "Give at least 1 characters here."),
        (rule(icmp={"type": 255}), "Give at most 254 here."),
    ],
)
def test_bounds_are_said_in_words(data: dict[str, Any], sentence: str) -> None:
    """What is too long or too large is told how much is taken."""
    with pytest.raises(Invalid, match=sentence):
        admit(data)


def test_the_choices_are_named() -> None:
    """Where a field takes a few words, or has a few fields, the problem names them."""
    with pytest.raises(Invalid, match="use Allow or Deny or Log or Pass"):
        admit(rule(action="allow"))
    with pytest.raises(Invalid, match="known are cidr, blockSize"):
        admit(document("IPPool", {"cidr": "10.0.0.0/8", "range": "x"}))


def test_all_problems_are_found_at_once() -> None:
    """Unknown fields and wrong values are all reported, not only the first."""
    bad = rule(
        foo=1,
        protocol="tpc",
        source={"nets": ["x", "10.0.0.0/8", "y"], "selector": "a =", "bar": 2},
    )
    bad["metadata"]["name"] = "A"
    assert [pointer for pointer, _ in problems(bad)] == [
        "/metadata/name",
        "/spec/ingress/0/foo",
        "/spec/ingress/0/protocol",
        "/spec/ingress/0/source/bar",
        "/spec/ingress/0/source/nets/0",
        "/spec/ingress/0/source/nets/2",
        "/spec/ingress/0/source/selector",
    ]


def test_problems_are_capped() -> None:
    """A document full of faults is refused with a list of bearable length."""
    assert len(problems(document("NetworkSet", {"nets": ["x"] * 5000}))) == MAX_PROBLEMS


# ---------------------------------------------------------------- kind, namespace, metadata


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_may_come_from_the_place(kind: type[Resource]) -> None:
    """Where the place says the kind, the document may leave it out, and may not say another."""
    specs = {
        "WorkloadEndpoint": WEP["spec"],
        "HostEndpoint": {"node": "h1", "interfaceName": "*"},
        "IPPool": {"cidr": "10.0.0.0/8"},
        "BGPPeer": {"peerSelector": "all()"},
        "IPAMBlock": {"cidr": "10.0.0.0/26"},
        "LiveMigration": {
            "source": {"workload": {"workloadID": "vm", "hostname": "h1"}},
            "target": {"selector": "all()"},
        },
    }
    names = {
        "BGPConfiguration": "default",
        "IPAMBlock": "10-0-0-0-26",
        "IPAMConfiguration": "default",
    }
    name = names.get(kind.__name__, "a")
    body = {"metadata": {"name": name}, "spec": specs.get(kind.__name__, {})}
    admitted = admit(body, kind=kind)
    assert type(admitted) is kind
    assert admit({**body, "kind": kind.__name__}) == admitted
    other = next(k.__name__ for k in KINDS if k is not kind)
    assert problems({**body, "kind": other}, kind) == [("/kind", Code.CONFLICT)]


def test_namespaces() -> None:
    """Namespaced kinds have one, "default" where none is given; global kinds have none."""
    assert admit(policy()).metadata.namespace == "default"
    assert admit(document("NetworkPolicy", {}, namespace="prod")).metadata.namespace == "prod"
    assert admit(document("Tier", {}, namespace="")).metadata.namespace is None
    assert problems(document("Tier", {}, namespace="prod")) == [
        ("/metadata/namespace", Code.CONFLICT)
    ]
    assert problems(document("NetworkPolicy", {}, namespace="a.b")) == [
        ("/metadata/namespace", Code.VALUE)
    ]


@pytest.mark.parametrize("name", ["A", "", "a_b", "-a", "a-", "a/b", "a b", "ä", "a" * 254, "a\n"])
def test_bad_names(name: str) -> None:
    """Names are lower-case letters, digits, dashes and dots."""
    assert problems({"kind": "Node", "metadata": {"name": name}}) == [
        ("/metadata/name", Code.VALUE)
    ]


@pytest.mark.parametrize("name", ["a", "h1-nomad-w--1-eth0", "host.example.com", "0", "a" * 253])
def test_good_names(name: str) -> None:
    """Calico's endpoint names with doubled dashes are names too."""
    assert valid_name(name)


def test_labels() -> None:
    """Label keys and values follow Kubernetes' syntax."""
    labels = {"a b": "x", "ok": "a b", "x/y/z": "", "fine/k": "v", "empty": ""}
    assert problems(document("NetworkSet", {}, labels=labels)) == [
        ("/metadata/labels/a b", Code.VALUE),
        ("/metadata/labels/ok", Code.VALUE),
        ("/metadata/labels/x~1y~1z", Code.VALUE),
    ]
    assert valid_label_key("projectcalico.org/name")
    assert not valid_label_key("/name")
    assert not valid_label_key("a" * 64)


def test_the_namespace_label_cannot_be_claimed() -> None:
    """No resource can put itself into another namespace by a label, directly or by a profile."""
    label = "projectcalico.org/namespace"
    pointer = "/metadata/labels/projectcalico.org~1namespace"
    admit({**WEP, "metadata": {**WEP["metadata"], "labels": {label: "prod"}}})
    for bad in (
        {**WEP, "metadata": {**WEP["metadata"], "labels": {label: "other"}}},
        document("GlobalNetworkSet", {}, labels={label: "prod"}),
    ):
        assert problems(bad) == [(pointer, Code.CONFLICT)]
    assert problems(document("Profile", {"labelsToApply": {label: "prod"}})) == [
        ("/spec/labelsToApply/projectcalico.org~1namespace", Code.CONFLICT)
    ]


def test_annotations() -> None:
    """Annotations have keys like labels and a total size."""
    assert problems(document("Tier", {}, annotations={"a b": ""})) == [
        ("/metadata/annotations/a b", Code.VALUE)
    ]
    assert problems(document("Tier", {}, annotations={"a": "x" * 300_000})) == [
        ("/metadata/annotations", Code.LIMIT)
    ]


def test_status_is_not_the_users() -> None:
    """`status` is dropped on input, and the API version is written out."""
    admitted = admit({**WEP, "status": {"in": "sync"}})
    assert admitted.status is None
    assert admitted.api_version == "projectcalico.org/v3"


# ---------------------------------------------------------------- laws


def test_what_is_admitted_is_canonical() -> None:
    """Admitting what was admitted changes nothing."""
    for data in (
        wep(ipNetworks=["10.0.0.1", "FD00::1"], mac="02:AA:00:00:00:01"),
        rule(protocol="tcp", source={"nets": ["10.1.1.1/8"]}, destination={"ports": ["80:80"]}),
        document("Node", {"bgp": {"asNumber": "1.10", "ipv4Address": "10.0.0.1/8"}}),
        {"kind": "Tier", "metadata": {"name": "default"}},
    ):
        admitted = admit(data)
        assert admit(codec.encode(admitted)) == admitted


def test_pointers_escape_their_keys() -> None:
    """A pointer's step escapes `~` and `/` (RFC 6901)."""
    assert step(step("", "a/b~"), 0) == "/a~1b~0/0"


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["Allow", "10.0.0.0/8", "a == 'x'", "tcp", "all()", "02:00:00:00:00:01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["node", "interfaceName", "ipNetworks", "mac", "ports", "selector", "types", "ingress", "order",
     "tier", "nets", "cidr", "bgp", "addresses", "labelsToApply", "wireguard", "blockSize",
     "peerIP", "peerSelector", "asNumber", "reachableBy", "filters", "importV4", "communities",
     "prefixAdvertisements", "keepaliveTime", "password"]
)  # fmt: skip


@given(
    st.sampled_from([kind.__name__ for kind in KINDS]),
    st.dictionaries(FIELDS, ODD, max_size=5),
    st.dictionaries(st.sampled_from(["name", "namespace", "labels", "annotations"]), ODD),
)
def test_no_document_crashes_admission(
    kind: str, spec: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Any document is admitted, to something canonical, or refused with problems that have places."""
    try:
        admitted = admit({"kind": kind, "metadata": {"name": "a", **metadata}, "spec": spec})
    except Invalid as invalid:
        refused = invalid.problems
    else:
        assert admit(codec.encode(admitted)) == admitted
        return
    assert refused
    assert all(p.pointer == "" or p.pointer.startswith("/") for p in refused)


@given(st.binary(max_size=100))
def test_no_bytes_crash_admission(data: bytes) -> None:
    """Any bytes are admitted or refused."""
    with pytest.raises(Invalid):
        admit(data)
