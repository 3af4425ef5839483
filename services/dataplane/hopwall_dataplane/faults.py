"""What of an update must not be let near the kernel: one sentence for people, or "" when all is well.

calc sends only what it has checked; this is the wall behind it. What is faulty is closed by itself: it
must neither reach the text of a rule, nor an interface that is not a workload's, nor end the agent.

Pure.
"""

from collections.abc import Container

from hopwall_model.cidr import Cidr, is_host_cidr, parse_cidr
from hopwall_model.names import valid_ifname
from hopwall_model.updates import EndpointSet, PolicySet, RoutesBucket, SetBucket

#: Names that the kernel's settings use beside those of interfaces.
_NOT_INTERFACES = ("all", "default", "lo")


def endpoint_fault(
    endpoint: EndpointSet, prefixes: tuple[str, ...], reserved: Container[str] = ()
) -> str:
    """Say why an endpoint must stay closed: most of all, an interface whose packets nobody filters."""
    name = endpoint.interface
    if not valid_ifname(name) or name in _NOT_INTERFACES:
        return f"{name!r} cannot be the name of a workload's interface."
    if not name.startswith(prefixes):
        known = ", ".join(prefixes)
        return (
            f"Interface {name} is not filtered on this host: its name begins with none of {known}. "
            "Rename it, or add its prefix to interface_prefixes."
        )
    for cidr in endpoint.addresses:
        if not is_address(cidr):
            return f"{cidr!r} is not a workload's address."
        if cidr in reserved:
            return reserved_fault(cidr)
    for cidr in endpoint.extra_sources:
        if not _is_canonical(cidr):
            return f"{cidr!r} is not a network."
    return ""


def reserved_fault(cidr: str) -> str:
    """Say that an address is one the host lives by."""
    return f"{cidr} is an address that hosts reach their gateway, NATS or each other at."


def policy_fault(policy: PolicySet) -> str:
    """Say why a policy cannot be rendered: a network that is not one would become part of a rule's text."""
    for rule in (*policy.ingress, *policy.egress):
        for side in (rule.source, rule.destination):
            for cidr in (side.net, side.not_net):
                if cidr is not None and not _is_canonical(cidr):
                    return f"{cidr!r} in rule {rule.id} is not a network."
    return ""


def bucket_fault(piece: SetBucket | RoutesBucket) -> str:
    """Say why a bucket has no place in its scope."""
    if 0 <= piece.bucket < piece.n_buckets:
        return ""
    return f"There is no bucket {piece.bucket} of {piece.n_buckets}."


def is_address(cidr: str) -> bool:
    """Tell whether the text is a single address as calc writes it, with its prefix length."""
    return is_host_cidr(Cidr(cidr)) and _is_canonical(cidr)


def _is_canonical(cidr: str) -> bool:
    try:
        return parse_cidr(cidr) == cidr
    except ValueError:
        return False
