"""The fold of sets: kinds, what is no member, and members that several things hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.ipsets.elements import Element
from hopwall_dataplane.iptables.render_policy import CLOSED, policy_chain
from hopwall_dataplane.iptables.static import from_set, to_set
from hopwall_dataplane.iptables.table import plain
from hopwall_dataplane.outcome import Family
from hopwall_model.buckets import bucket_of
from hopwall_model.names import set_name
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    Entity,
    NeedRemoved,
    PolicyId,
    PolicySet,
    ResolvedRule,
    SetBucket,
    SetId,
)
from tests.dataplane.test_desired import endpoint, fresh, policy, step

A = PolicyId("gnp/a")
WEB = SetId("np:web")
PORTS = SetBucket(
    id=WEB, version=1, type="port", members=("10.65.0.1,6:80", "10.65.0.2,132:9", "fd65::1,17:53")
)


def by_port(name: str = "gnp/a") -> PolicySet:
    """Return a policy that denies what is meant for a named port."""
    side = Entity(port_sets=(WEB,))
    rule = ResolvedRule(id="r", action="deny", protocol=6, destination=side)
    return PolicySet(id=PolicyId(name), version=1, ingress=(rule,))


def lines(desired: Desired) -> tuple[str, ...]:
    """Return the lines of policy gnp/a at ingress, without the identities they bear."""
    bodies = desired.chains.tables[Family.V4, "filter"].desired[policy_chain(A, "ingress")]
    return tuple(plain(body) for body in bodies)


def members(desired: Desired, name: str) -> set[Element]:
    """Return what is wanted in a kernel set."""
    return set(desired.members.content(name).desired)


def test_a_set_of_ports_has_its_type_and_its_elements_in_each_family() -> None:
    """A member is an address, a protocol and a port; a rule finds it under the name of its kind."""
    desired = fresh()
    desired.apply(step(endpoint(0, "gnp/a", address=1), by_port(), PORTS))
    v4, v6 = (set_name(f.value, WEB, "port") for f in desired.families)
    assert [desired.members.specs.desired[n].type for n in (v4, v6)] == ["hash:ip,port"] * 2
    assert members(desired, v4) == {
        Element("10.65.0.1/32", protocol=6, port=80),
        Element("10.65.0.2/32", protocol=132, port=9),
    }
    assert members(desired, v6) == {Element("fd65::1/128", protocol=17, port=53)}
    assert lines(desired) == (f"-p 6 -m set --match-set {v4} dst,dst -j DROP",)
    desired.apply(step(NeedRemoved(scope=PORTS.scope)))
    assert lines(desired) == CLOSED
    assert not desired.members.specs.desired


def test_a_set_of_another_kind_is_another_set_of_the_kernels() -> None:
    """No line can name a set while it becomes another type: the rule that means the old kind is closed."""
    desired = fresh()
    desired.apply(step(endpoint(0, "gnp/a", address=1), by_port(), PORTS))
    nets = SetBucket(id=WEB, version=2, members=("10.9.0.0/24",))
    desired.apply(step(nets))
    assert lines(desired) == CLOSED
    assert members(desired, set_name("v4", WEB)) == {Element("10.9.0.0/24")}
    assert set_name("v4", WEB, "port") not in desired.members.specs.desired
    desired.apply(step(PORTS))
    assert lines(desired) != CLOSED
    assert set_name("v4", WEB) not in desired.members.specs.desired


BAD = ["x", "", "10.9.0.1/24", "10.9.0.0", "010.9.0.0/24", "10.9.0.256/32", "0.0.0.0/0", "FD00::/8"]
BAD += ["10.9.0.0/24 timeout 1", "10.9.0.1,6:80"]
BAD_PORTS = ["10.9.0.0/24", "10.9.0.1,6", "10.9.0.1,6:0", "10.9.0.1,6:65536", "10.9.0.1,06:80"]
BAD_PORTS += ["10.9.0.1,1:80", "10.9.0.1,6:+80", "x,6:80", "10.9.0.0/24,6:80", "FD00::1,6:80", ","]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_network_closes_what_names_its_set(bad: str) -> None:
    """Text that means the same another way is no member either: the kernel would give it back changed."""
    desired = fresh()
    bucket = SetBucket(id=SetId("s:x"), version=1, members=("10.8.0.0/24", bad))
    deny = policy("gnp/a", "s:x", action="deny")
    desired.apply(step(endpoint(0, "gnp/a", address=1), deny, bucket))
    assert lines(desired) == CLOSED
    assert [r.object for r in desired.refusals()] == ["set s:x"]
    desired.apply(step(structs.replace(bucket, members=("10.8.0.0/24",))))
    assert lines(desired) != CLOSED
    assert desired.refusals() == ()


@pytest.mark.parametrize("bad", BAD_PORTS)
def test_what_is_no_port_of_an_address_closes_what_names_its_set(bad: str) -> None:
    """As for networks: closed and named, never an exception."""
    desired = fresh()
    bucket = structs.replace(PORTS, members=("10.65.0.1,6:80", bad))
    desired.apply(step(endpoint(0, "gnp/a", address=1), by_port(), bucket))
    assert lines(desired) == CLOSED
    assert [r.object for r in desired.refusals()] == [f"set {WEB}"]


@given(st.text(max_size=24), st.sampled_from(["net", "port"]))
def test_no_text_in_the_place_of_a_member_ends_the_fold(text: str, kind: str) -> None:
    """Whatever comes over the wire, the set is closed or holds just that."""
    desired = fresh()
    desired.apply(step(SetBucket(id=WEB, version=1, type=kind, members=(text,))))  # type: ignore[arg-type]
    name = set_name("v6" if ":" in text.partition(",")[0] else "v4", WEB, kind)  # type: ignore[arg-type]
    held = members(desired, name)
    assert bool(desired.refusals()) != bool(held)
    assert len(held) <= 1


def test_a_bad_bucket_is_told_until_it_is_good_and_the_others_are_kept() -> None:
    """One bucket's fault does not outlive it, nor vanish with news of another."""
    desired = fresh()
    deny = policy("gnp/a", "s:x", action="deny")
    good = [f"10.9.{i}.0/24" for i in range(8)]
    halves = [
        SetBucket(
            id=SetId("s:x"),
            version=1,
            n_buckets=2,
            bucket=b,
            members=tuple(m for m in good if bucket_of(m, 2) == b),
        )
        for b in range(2)
    ]
    broken = structs.replace(halves[0], members=(*halves[0].members, "x"))
    desired.apply(step(endpoint(0, "gnp/a", address=1), deny, halves[0], halves[1]))
    assert lines(desired) != CLOSED
    desired.apply(step(broken))
    desired.apply(step(halves[1]))
    assert lines(desired) == CLOSED
    assert [r.object for r in desired.refusals()] == ["set s:x"]
    desired.apply(step(halves[0]))
    assert lines(desired) != CLOSED
    assert desired.refusals() == ()
    assert members(desired, set_name("v4", "s:x")) == {Element(m) for m in good}


def test_an_address_of_two_endpoints_stays_while_one_has_it() -> None:
    """Whose an address is has claims: the one that goes takes only its own away."""
    desired = fresh()
    desired.apply(step(policy("gnp/a"), endpoint(0, "gnp/a", address=9), endpoint(1, address=9)))
    host = Element("10.65.0.9/32")
    here = (to_set(Family.V4), host), (from_set(Family.V4), Element("10.65.0.9/32", "tap0"))
    first = desired.identity.content(here[0][0]).desired[host]
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e0"))))
    for name, element in here:
        assert element in desired.identity.content(name).desired
    assert desired.identity.content(here[0][0]).desired[host] != first
    desired.apply(step(EndpointRemoved(id=EndpointId("d/e1"))))
    for name, element in here:
        assert element not in desired.identity.content(name).desired


def test_a_member_of_two_sets_leaves_each_by_itself() -> None:
    """Sets share addresses, not membership; a set cut into more buckets keeps its members."""
    desired = fresh()
    one = SetBucket(id=SetId("s:x"), version=1, members=("10.9.0.0/24", "10.9.1.0/24"))
    two = structs.replace(one, id=SetId("s:y"))
    desired.apply(step(one, two))
    desired.apply(step(structs.replace(one, members=("10.9.1.0/24",))))
    assert members(desired, set_name("v4", "s:x")) == {Element("10.9.1.0/24")}
    assert members(desired, set_name("v4", "s:y")) == {Element(m) for m in two.members}
    cut = [
        structs.replace(
            two,
            n_buckets=4,
            bucket=b,
            members=tuple(m for m in two.members if bucket_of(m, 4) == b),
        )
        for b in range(4)
    ]
    before = dict(desired.members.content(set_name("v4", "s:y")).desired)
    desired.apply(step(*cut))
    assert desired.members.content(set_name("v4", "s:y")).desired == before
