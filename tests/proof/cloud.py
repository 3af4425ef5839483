"""What the judges are asked about: a small cloud, a packet in it, and how both are kept as a file."""

import ipaddress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from hopwall_model.resources import Resource
from hopwall_model.validate import admit

CASES = Path(__file__).parent / "cases"

Verdict = Literal["allow", "deny"]
Cloud = tuple[Resource, ...]
State = Literal["NEW", "ESTABLISHED", "RELATED", "INVALID"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

address = lru_cache(maxsize=None)(ipaddress.ip_address)
network = lru_cache(maxsize=None)(ipaddress.ip_network)


class Flow(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A packet: the first of its flow unless `state` says otherwise.

    Shape: `sender` is the "namespace/name" of the endpoint whose interface it comes from; "" means the owner of
           the source address. Ports and ICMP fields are 0 where the protocol has none.
    """

    source: str
    destination: str
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    state: State = "NEW"
    sender: str = ""

    @property
    def version(self) -> int:
        """The IP version."""
        return 6 if ":" in self.source else 4


class Expected(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What must become of the flow at each end; None where the end is nobody's."""

    egress: Verdict | None = None
    ingress: Verdict | None = None


class Case(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A cloud and flows through it, kept for ever. `rule` says what it holds the product to."""

    rule: str
    flows: tuple[Flow, ...]
    resources: tuple[msgspec.Raw, ...]
    #: One for each flow; empty: whatever the semantics say.
    expected: tuple[Expected, ...] = ()

    @property
    def cloud(self) -> tuple[Resource, ...]:
        """The resources, as the API would admit them."""
        return tuple(admit(bytes(raw)) for raw in self.resources)


def read_case(path: Path) -> Case:
    """Read a kept case."""
    return msgspec.json.decode(path.read_bytes(), type=Case)


def case_text(
    rule: str, resources: tuple[Resource, ...], flows: tuple[Flow, ...], **more: object
) -> str:
    """Write a case as it is kept in a file."""
    built = {"rule": rule, "flows": flows, **more, "resources": resources}
    return msgspec.json.format(msgspec.json.encode(built), indent=1).decode() + "\n"
