"""What of a rule is not let near the kernel."""

import pytest

from hopwall_dataplane.faults import MAX_SETS, policy_fault
from hopwall_model.updates import Entity, PolicyId, PolicySet, PortRange, ResolvedRule, SetId

FAULTY: list[tuple[dict[str, object], str]] = [
    ({"protocol": 256}, "256 is not a protocol"),
    ({"not_protocol": -1}, "-1 is not a protocol"),
    ({"icmp_type": 8}, "An ICMP type has no ICMP protocol beside it"),
    ({"protocol": 6, "not_icmp_type": 8}, "An ICMP type has no ICMP protocol beside it"),
    ({"protocol": 1, "icmp_type": 255}, "255/None is not an ICMP type"),
    ({"protocol": 1, "icmp_code": 0}, "None/0 is not an ICMP type"),
    ({"protocol": 58, "not_icmp_type": 1, "not_icmp_code": 256}, "1/256 is not an ICMP type"),
    (
        {"protocol": 6, "destination": Entity(ports=(PortRange(90, 80),))},
        "90:80 is not a range of ports",
    ),
    (
        {"protocol": 6, "source": Entity(not_ports=(PortRange(1, 65536),))},
        "1:65536 is not a range of ports",
    ),
    ({"source": Entity(ports=(PortRange(1, 1),))}, "A port has no protocol with ports beside it"),
    (
        {"protocol": 1, "source": Entity(not_ports=(PortRange(1, 1),))},
        "A port has no protocol with ports beside it",
    ),
    ({"source": Entity(not_net="10.0.0.1/8")}, "'10.0.0.1/8' is not a network"),
    (
        {"source": Entity(sets=tuple(SetId(f"s:{i}") for i in range(MAX_SETS + 1)))},
        "A side has more than 8 sets",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), FAULTY)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_rule_that_is_none_is_a_fault_of_its_policy(
    direction: str, fields: dict[str, object], reason: str
) -> None:
    """The tools would refuse it, or take it for something else: type 255 for any, protocol 0 for all."""
    rule = ResolvedRule(id="gnp/p/i0", action="allow", **fields)  # type: ignore[arg-type]
    policy = PolicySet(id=PolicyId("gnp/p"), version=1, **{direction: (rule,)})  # type: ignore[arg-type]
    assert policy_fault(policy) == f"{reason} in rule gnp/p/i0."


def test_what_calc_sends_is_no_fault() -> None:
    """Every kind of match, at its limits."""
    side = Entity(
        net="0.0.0.0/0",
        not_net="fd00::/8",
        sets=(SetId("s:a"), SetId("n:b")),
        not_sets=(SetId("s:c"), SetId("n:d")),
        ports=(PortRange(0, 65535),),
        port_sets=(SetId("np:e"),),
    )
    rules = (
        ResolvedRule(id="a", action="allow", protocol=136, source=side, destination=side),
        ResolvedRule(id="b", action="deny", protocol=0, not_protocol=255),
        ResolvedRule(id="c", action="log", protocol=58, icmp_type=254, not_icmp_type=0),
        ResolvedRule(id="d", action="pass", source=Entity(port_sets=(SetId("np:e"),))),
    )
    assert policy_fault(PolicySet(id=PolicyId("gnp/p"), version=1, ingress=rules)) == ""
