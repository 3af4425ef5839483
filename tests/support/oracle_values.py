"""Networks and ports as the oracle writes them."""

from collections.abc import Iterable

from hopwall_model import protocols
from hopwall_model.names import digest
from hopwall_model.resources import GlobalNetworkPolicy, NetworkPolicy, Rule
from hopwall_model.updates import PortRange, SetId


def halves(nets: Iterable[str]) -> Iterable[str]:
    """Yield networks as sets hold them: a /0 as its two halves."""
    for net in nets:
        if net == "0.0.0.0/0":
            yield from ("0.0.0.0/1", "128.0.0.0/1")
        elif net == "::/0":
            yield from ("::/1", "8000::/1")
        else:
            yield net


def net_set(nets: Iterable[str], sets: dict[SetId, frozenset[str]]) -> SetId:
    """Note a list of networks as a set; return its name."""
    distinct = sorted(set(nets))
    set_id = SetId("n:" + digest("\n".join(distinct), 24))
    sets[set_id] = frozenset(halves(distinct))
    return set_id


def port_ranges(given: Iterable[int | str]) -> tuple[PortRange, ...]:
    """Return the numbers among the ports as the fewest ranges; names are left out."""
    numbers: set[int] = set()
    for port in given:
        if isinstance(port, str) and ":" not in port:
            continue
        first, _, last = str(port).partition(":")
        numbers.update(range(int(first), int(last or first) + 1))
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n for n in numbers if n + 1 not in numbers)
    return tuple(PortRange(first, last) for first, last in zip(starts, ends, strict=True))


def single(address: str) -> str:
    """Return an address as a network of one."""
    return f"{address}/{128 if ':' in address else 32}"


def number_of(protocol: int | str | None) -> int | None:
    """Return a protocol's number; None where none is given."""
    return None if protocol is None else protocols.number_of(protocol)


def do_nothing_but_log(policies: list[tuple[Rule, ...]]) -> bool:
    """Tell whether all of these rules only log."""
    if not policies or not all(policies):
        return False
    return {rule.action for rules in policies for rule in rules} == {"Log"}


def types_of(policy: NetworkPolicy | GlobalNetworkPolicy) -> tuple[str, ...]:
    """Return in which directions a policy says something."""
    spec = policy.spec
    if spec.types:
        return spec.types
    if not spec.egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if spec.ingress else ("Egress",)
