"""What an editor's own resources may not say."""

from typing import Any

import pytest

from hopwall_api.access.confined import beyond
from hopwall_api.access.roles import Caller, Role
from hopwall_model.resources import Resource
from hopwall_model.validate import admit

EDITOR = Caller(name="e", role=Role.EDITOR, namespaces=("a",))


def endpoint(address: str = "10.65.0.1", **spec: Any) -> Resource:
    """Return an endpoint of namespace a."""
    fields = {"node": "h1", "interfaceName": "tap1", "ipNetworks": [f"{address}/32"], **spec}
    return admit(
        {"kind": "WorkloadEndpoint", "metadata": {"name": "e", "namespace": "a"}, "spec": fields}
    )


def policy(tier: str) -> Resource:
    """Return a policy of namespace a."""
    name = "p" if tier == "default" else f"{tier}.p"
    spec = {"tier": tier}
    return admit(
        {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "a"}, "spec": spec}
    )


def in_pool(address: str) -> bool:
    """Tell whether the test's only pool has the address."""
    return address.startswith("10.65.")


NAT: dict[str, Any] = {"ipNATs": [{"internalIP": "10.65.0.1", "externalIP": "192.0.2.1"}]}
SPOOF: dict[str, Any] = {"allowSpoofedSourcePrefixes": ["10.0.0.0/8"]}


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (None, endpoint(), ""),
        (None, endpoint("192.0.2.1"), "192.0.2.1/32"),
        (endpoint(), endpoint("192.0.2.1"), "192.0.2.1/32"),
        (endpoint("192.0.2.1"), endpoint("192.0.2.1", mac="02:00:00:00:00:01"), ""),
        (endpoint("192.0.2.1"), None, ""),
        (None, endpoint(**NAT), "192.0.2.1"),
        (endpoint(**NAT), endpoint(**NAT), ""),
        (None, endpoint(**SPOOF), "allowSpoofedSourcePrefixes"),
        (endpoint(**SPOOF), endpoint(**SPOOF), ""),
        (endpoint(**SPOOF), endpoint(), ""),
        (None, policy("default"), ""),
        (policy("default"), None, ""),
        (None, policy("ops"), "tier ops"),
        (policy("ops"), None, "tier ops"),
        (policy("ops"), policy("default"), "tier ops"),
    ],
)
def test_what_is_beyond_an_editor(
    before: Resource | None, after: Resource | None, word: str
) -> None:
    """Addresses of no pool, other sources, and tiers of the admin are; what an admin gave stays."""
    reason = beyond(EDITOR, before, after, in_pool)
    assert (word in reason) if word else (reason == "")


def test_an_admin_is_not_confined() -> None:
    """Only editors are: readers and auditors write nothing at all."""
    admin = Caller(name="x", role=Role.ADMIN)
    assert beyond(admin, policy("ops"), None, in_pool) == ""
    assert beyond(admin, None, endpoint("192.0.2.1", **SPOOF), in_pool) == ""
