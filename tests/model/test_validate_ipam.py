"""Blocks, reservations and the IPAM configuration: what is admitted."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_model.cidr import Cidr
from hopwall_model.ipam_specs import block_name
from hopwall_model.problems import Code
from hopwall_model.resource_names import valid_name
from hopwall_model.resources import IPReservation
from hopwall_model.validate import admit
from tests.model.documents import document, problems

ALLOCATION = {"address": "10.0.0.1", "handle": "vm1", "node": "h1"}


def block(**spec: Any) -> dict[str, Any]:
    """Return a block with these fields."""
    return document("IPAMBlock", {"cidr": "10.0.0.0/30", **spec}, name="10-0-0-0-30")


def test_reserved_networks_become_canonical() -> None:
    """A bare address is a network of one, and repeats go."""
    given_ = ["10.0.0.1", "10.0.0.1/32", "FD00::/8"]
    admitted = admit(document("IPReservation", {"reservedCIDRs": given_}))
    assert isinstance(admitted, IPReservation)
    assert admitted.spec.reserved_cidrs == ("10.0.0.1/32", "fd00::/8")


@pytest.mark.parametrize(
    ("name", "spec", "found"),
    [
        ("other", {}, [("/metadata/name", Code.CONFLICT)]),
        (
            "default",
            {"autoAllocateBlocks": False},
            [("/spec/autoAllocateBlocks", Code.NOT_IMPLEMENTED)],
        ),
        (
            "default",
            {"kubeVirtVMAddressPersistence": "Enabled"},
            [("/spec/kubeVirtVMAddressPersistence", Code.NOT_IMPLEMENTED)],
        ),
        ("default", {"ipCooldownSeconds": 1201}, [("/spec/ipCooldownSeconds", Code.SHAPE)]),
    ],
)
def test_a_wrong_configuration_is_refused(
    name: str, spec: dict[str, Any], found: list[tuple[str, Code]]
) -> None:
    """There is one, and what is not carried out is refused by name."""
    refused = problems(document("IPAMConfiguration", spec, name=name))
    assert [pointer for pointer, _ in refused] == [pointer for pointer, _ in found]


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"cidr": "10.0.0.0/19"}, "/spec/cidr"),
        ({"cidr": "10.0.0.4/30"}, "/metadata/name"),
        ({"cidr": "10.0.0.1/30"}, "/spec/cidr"),
        ({"affinity": "h1"}, "/spec/affinity"),
        ({"allocations": [{**ALLOCATION, "address": "10.0.0.9"}]}, "/spec/allocations/0/address"),
        ({"allocations": [{**ALLOCATION, "address": "::1"}]}, "/spec/allocations/0/address"),
        ({"allocations": [ALLOCATION, ALLOCATION]}, "/spec/allocations/1/address"),
        ({"allocations": [{**ALLOCATION, "handle": "a b"}]}, "/spec/allocations/0/handle"),
        (
            {
                "allocations": [ALLOCATION],
                "released": [{"address": "10.0.0.1", "releasedAt": "2026-01-01T00:00:00Z"}],
            },
            "/spec/released/0/address",
        ),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(spec: dict[str, Any], pointer: str) -> None:
    """Name and range agree; each address is of the block, stands once, and has a handle."""
    assert pointer in [found for found, _ in problems(block(**spec))]


@given(
    st.one_of(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 32)).map(
            lambda x: ip_network((x[0], x[1]), strict=False)
        ),
        st.tuples(st.integers(0, 2**128 - 1), st.integers(116, 128)).map(
            lambda x: ip_network((x[0], x[1]), strict=False)
        ),
    )
)
def test_every_block_has_a_valid_name(network: Any) -> None:
    """Whatever the range, its name is one a resource may have."""
    assert valid_name(block_name(Cidr(str(network))))


def test_names_of_blocks_differ() -> None:
    """Ranges that look alike have different names."""
    texts = ["fd00::/122", "fd00:0:0:1::/122", "fd00::1:0/122", "::fd00:0/122", "10.0.0.0/26"]
    assert len({block_name(Cidr(text)) for text in texts}) == len(texts)
