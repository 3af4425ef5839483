"""What is kept of each resource, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_calc import intake
from hopwall_model import validate_kinds
from hopwall_model.problems import Findings, Invalid
from hopwall_model.resources import NodeAddress
from tests.support.states import endpoint, global_set, gnp, host, np, rule, tier


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.0/24", "127.0.0.1/32", "x"])
def test_endpoint_owns_single_addresses(address: str) -> None:
    """A bare address is made a network of one; anything wider or unusable is refused."""
    if address == "10.0.0.1":
        assert intake.endpoint(endpoint("e", "h", address)).addresses == ("10.0.0.1/32",)
        return
    with pytest.raises(Invalid):
        intake.endpoint(endpoint("e", "h", address))


@given(
    st.lists(st.integers(0, 256), min_size=4, max_size=4),
    st.sampled_from(["/32", "", "/31", "/032"]),
    st.sampled_from(["", "02:00:00:00:00:01", "01:00:00:00:00:01", "00:00:00:00:00:00", "2:0"]),
)
def test_plainly_valid_is_valid(octets: list[int], length: str, mac: str) -> None:
    """What the quick look passes, the validator passes and leaves as it is."""
    address = ".".join(map(str, octets)) + length
    spec = endpoint("e", "h", address, mac=mac).spec
    if intake._plainly_valid(spec):
        found = Findings()
        assert validate_kinds.workload_endpoint(found, "", spec) == spec
        assert found.problems == []


def test_the_usual_endpoint_is_plainly_valid() -> None:
    """The quick look is worth its lines only if it passes what clouds are made of."""
    usual = endpoint("e", "host-1", "10.65.0.21/32", mac="02:00:0a:41:00:15", orchestrator="k8s")
    assert intake._plainly_valid(usual.spec)
    assert not intake._plainly_valid(endpoint("e", "Host_1", "10.65.0.21/32").spec)


def test_zero_nets_are_cut_in_two() -> None:
    """No /0 reaches a set."""
    kept = intake.network_set(global_set("s", {}, "0.0.0.0/0", "::/0"))
    assert kept.nets == ("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")


def test_policy_that_cannot_select_is_refused() -> None:
    """A selector that is none makes the policy absent."""
    with pytest.raises(Invalid, match="selector"):
        intake.policy(gnp("p", "role ="))


def test_policy_with_rules_not_understood_is_closed() -> None:
    """It keeps its selection and its directions, and loses its rules."""
    kept = intake.policy(gnp("p", "all()", rule(), rule(protocol="nonsense")))
    assert kept.closed
    assert (kept.for_ingress, kept.for_egress, kept.ingress) == (True, True, ())


def test_unimplemented_field_is_not_ignored() -> None:
    """A policy that asks for what is not carried out does not apply as if it had not asked."""
    with pytest.raises(Invalid, match="serviceAccountSelector"):
        intake.policy(np("p", "all()", service_account_selector="a=='b'"))


def test_host_is_reached_at_its_bgp_address_first() -> None:
    """BGP address, then CalicoNodeIP, then InternalIP; each family for itself; no prefix length."""
    inner = NodeAddress(address="10.0.0.1", type="InternalIP")
    own = NodeAddress(address="10.0.0.2", type="CalicoNodeIP")
    v6 = NodeAddress(address="fd00::1", type="InternalIP")
    outer = NodeAddress(address="192.0.2.1", type="ExternalIP")
    assert intake.host(host("h", "", "", outer)).reached_at == intake.HostInput("", "")
    assert intake.host(host("h", "", "", inner, own, v6)).reached_at == intake.HostInput(
        "10.0.0.2", "fd00::1"
    )
    assert intake.host(host("h", "10.0.0.9/24", "", own)).reached_at == intake.HostInput(
        "10.0.0.9", ""
    )


def test_tier_without_order_is_last() -> None:
    """An absent order sorts after every number."""
    assert intake.tier(tier("t", None)).order == float("inf")
    assert intake.tier(tier("t", 3, "Pass")) == intake.TierInput(3, True)
