"""A policy as large as users make them: many rules, each with ports and networks on both sides."""

from hopwall_model.buckets import bucket_of, buckets_for
from hopwall_model.names import digest
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetBucket,
    SetId,
    TierPolicies,
    Update,
)

BIG = PolicyId("gnp/big")


def big_policy(n_rules: int, *, n_ports: int, n_nets: int, mixed: bool) -> list[Update]:
    """Return the policy, in both directions, with its sets, and one endpoint that has it.

    Shape: each rule has two sets of its own, of `n_nets` networks, and `n_ports` single ports a side; with
           `mixed` half of the networks are of IPv6.
    """
    updates: list[Update] = []
    rules = []
    for number in range(n_rules):
        sides = []
        for end in (0, 1):
            nets = _nets(2 * number + end, n_nets, mixed=mixed)
            set_id = SetId("n:" + digest("\n".join(nets), 24))
            updates += _buckets(set_id, nets)
            ports = tuple(PortRange(p, p) for p in range(1000 + end, 1000 + end + 2 * n_ports, 2))
            sides.append(Entity(sets=(set_id,), ports=ports))
        rule_id = f"{BIG}/i{number}"
        rules.append(
            ResolvedRule(
                id=rule_id, action="allow", protocol=6, source=sides[0], destination=sides[1]
            )
        )
    updates.append(PolicySet(id=BIG, version=1, ingress=tuple(rules), egress=tuple(rules)))
    tier = TierPolicies(name="default", ingress=(BIG,), egress=(BIG,))
    updates.append(
        EndpointSet(
            id=EndpointId("d/e1"),
            interface="tap1",
            addresses=("10.65.0.1/32", "fd65::1/128"),
            tiers=(tier,),
        )
    )
    return updates


def _nets(seed: int, n: int, *, mixed: bool) -> list[str]:
    n_v6 = n // 2 if mixed else 0
    v4 = [f"{11 + (seed >> 8)}.{seed & 255}.{i}.0/24" for i in range(n - n_v6)]
    return sorted(v4 + [f"fd00:{seed:x}:{i + 1:x}::/48" for i in range(n_v6)])


def _buckets(set_id: SetId, nets: list[str]) -> list[SetBucket]:
    n_buckets = buckets_for(len(nets), 1)
    return [
        SetBucket(
            id=set_id,
            version=1,
            n_buckets=n_buckets,
            bucket=bucket,
            members=tuple(net for net in nets if bucket_of(net, n_buckets) == bucket),
        )
        for bucket in range(n_buckets)
    ]
