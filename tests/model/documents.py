"""Documents as a user would send them, and what is wrong with them."""

import json
from typing import Any

import pytest

from hopwall_model.problems import Code, Invalid
from hopwall_model.resources import Resource
from hopwall_model.validate import admit

WEP: dict[str, Any] = {
    "kind": "WorkloadEndpoint",
    "metadata": {"name": "h1-nomad-web--1-eth0", "namespace": "prod"},
    "spec": {"node": "h1", "interfaceName": "tap1"},
}
RULE: dict[str, Any] = {"action": "Allow"}


def document(kind: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a document of a kind."""
    return {"kind": kind, "metadata": {"name": "a", **metadata}, "spec": spec}


def wep(**spec: Any) -> dict[str, Any]:
    """Return an endpoint with these fields."""
    return {**WEP, "spec": {**WEP["spec"], **spec}}


def policy(kind: str = "NetworkPolicy", **spec: Any) -> dict[str, Any]:
    """Return a policy with these fields."""
    return document(kind, spec)


def rule(**fields: Any) -> dict[str, Any]:
    """Return a policy with one ingress rule of these fields."""
    return policy(ingress=[{**RULE, **fields}])


def problems(data: Any, kind: type[Resource] | None = None) -> list[tuple[str, Code]]:
    """Return where and of which kind the problems are; each has a sentence."""
    given = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(Invalid) as caught:
        admit(given, kind=kind)
    assert all(p.reason.endswith((".", "?")) for p in caught.value.problems)
    return sorted((p.pointer, p.code) for p in caught.value.problems)
