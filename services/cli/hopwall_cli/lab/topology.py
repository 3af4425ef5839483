"""What a lab consists of, by name and number: namespaces, addresses, interfaces. No I/O.

Everything is found again by a process without memory: each namespace of a lab begins with
`hw-<lab>-`, and a lab's name has no dash, so no lab's prefix is another's.
"""

import hashlib
import ipaddress
import re
from collections.abc import Collection
from typing import Any, Literal

from msgspec import Struct, field

PREFIX4 = "172.18.203"
PREFIX6 = "fd00:203::"
#: The last number of each host's address; hosts after the third continue from 130.
_FIRST_HOSTS = (125, 126, 129)
MAX_HOSTS = 64
POOL4 = "10.65.0.0/16"
POOL6 = "fd65::/64"
SUBNET_GATEWAY = "10.65.0.1"
LINK_LOCAL_GATEWAY = "169.254.1.1"
NAMESPACE = "default"
#: What the Node of a route reflector is labelled with.
REFLECTOR_LABEL = {"route-reflector": "true"}

_NAME = re.compile(r"[a-z0-9]{1,12}")


class LabError(RuntimeError):
    """The lab cannot do what was asked; the text is one sentence for the operator."""


def check_name(name: str) -> str:
    """Return the lab's name.

    Errors: LabError when it could be mistaken for another lab's.
    """
    if not _NAME.fullmatch(name):
        raise LabError(f"lab name {name!r}: use 1 to 12 lower-case letters and digits.")
    return name


class Host(Struct, frozen=True):
    """One machine of the lab."""

    name: str
    ipv4: str
    ipv6: str
    #: Of a route reflector; "" when it is none.
    cluster_id: str = ""

    @property
    def mac(self) -> str:
        """The hardware address of its eth0, made from its name: one that comes back is the same machine."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"

    def resource(self) -> dict[str, Any]:
        """Return the Node that declares this host."""
        bgp = {"ipv4Address": f"{self.ipv4}/24", "ipv6Address": f"{self.ipv6}/64"}
        if not self.cluster_id:
            return resource("Node", self.name, {"bgp": bgp})
        bgp["routeReflectorClusterID"] = self.cluster_id
        return resource("Node", self.name, {"bgp": bgp}, labels=REFLECTOR_LABEL)


class Workload(Struct, frozen=True, kw_only=True):
    """One machine of a customer: a namespace on a veth or on a TAP device of its host."""

    name: str
    host: str
    ipv4: str
    ipv6: str = ""
    kind: Literal["veth", "tap"] = "veth"
    #: How it was told to route: a /32 and 169.254.1.1, or its subnet and the subnet's gateway.
    routing: Literal["link-local", "subnet"] = "link-local"
    #: The host's end; "" for a name made from the workload's.
    interface: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()

    @property
    def port(self) -> str:
        """The interface on the host: `tap` and eleven characters, as clouds name them."""
        if self.interface:
            return self.interface
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return f"tap{digest[:8]}-{digest[8:10]}"

    @property
    def mac(self) -> str:
        """The hardware address of its eth0, made from its name."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return f"fa:16:3e:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"

    def resource(self) -> dict[str, Any]:
        """Return the WorkloadEndpoint that declares this workload."""
        networks = [f"{self.ipv4}/32", *([f"{self.ipv6}/128"] if self.ipv6 else [])]
        spec = {
            "node": self.host,
            "interfaceName": self.port,
            "ipNetworks": networks,
            "mac": self.mac,
            "profiles": list(self.profiles),
        }
        made = resource("WorkloadEndpoint", self.name, spec, labels=self.labels)
        made["metadata"]["namespace"] = NAMESPACE
        return made


def resource(
    kind: str, name: str, spec: dict[str, Any], *, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return a resource as the API takes it."""
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


def hosts(count: int) -> tuple[Host, ...]:
    """Return the first hosts of a lab: h1, h2, …

    Errors: LabError for none or too many.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise LabError(f"a lab has 1 to {MAX_HOSTS} hosts, not {count}.")
    return tuple(host(index) for index in range(1, count + 1))


def host(index: int) -> Host:
    """Return a host by its number, from 1."""
    number = (*_FIRST_HOSTS, *range(130, 130 + MAX_HOSTS))[index - 1]
    return machine(f"h{index}", number)


def machine(name: str, number: int, *, cluster_id: str = "") -> Host:
    """Return a machine on the fabric by the last number of its addresses."""
    return Host(
        name=name, ipv4=f"{PREFIX4}.{number}", ipv6=f"{PREFIX6}{number}", cluster_id=cluster_id
    )


#: The machine that joins the others, as the router that it is where it speaks BGP.
ROUTER = machine("router", 1)


def next_host(taken: Collection[str], name: str = "") -> Host:
    """Return the host that joins a lab next, or the one that is named.

    Errors: LabError when it is there already, is no host's name, or the lab is full.
    """
    free = [one for one in map(host, range(1, MAX_HOSTS + 1)) if one.name not in taken]
    found = [one for one in free if name in ("", one.name)]
    if found:
        return found[0]
    if name in taken:
        raise LabError(f"host {name} is in the lab already.")
    if name:
        raise LabError(f"host {name}: a lab's hosts are called h1 to h{MAX_HOSTS}.")
    raise LabError(f"the lab is full: it has {MAX_HOSTS} hosts.")


def open_profile(name: str) -> dict[str, Any]:
    """Return a profile that allows everything, for workloads that no policy selects."""
    allow = [{"action": "Allow"}]
    return resource("Profile", name, {"ingress": allow, "egress": allow})


def spread(
    host_names: tuple[str, ...], each: int, *, profiles: tuple[str, ...] = ()
) -> tuple[Workload, ...]:
    """Return `each` workloads for every host, at 10.65.0.21 and on, named vm21 and on."""
    first = ipaddress.IPv4Address("10.65.0.21")
    places = enumerate(host for host in host_names for _ in range(each))
    return tuple(
        Workload(
            name=f"vm{21 + index}",
            host=host,
            ipv4=str(first + index),
            ipv6=f"fd65::{21 + index:x}",
            profiles=profiles,
        )
        for index, host in places
    )


def prefix(lab: str) -> str:
    """Return what every namespace of a lab begins with."""
    return f"hw-{lab}-"


def fabric_namespace(lab: str) -> str:
    """Return the namespace that joins the hosts and runs NATS, API and calc."""
    return f"{prefix(lab)}fabric"


def host_namespace(lab: str, host: str) -> str:
    """Return the namespace of a host."""
    return f"{prefix(lab)}{host}"


def dhcp_namespace(lab: str) -> str:
    """Return the namespace behind the first host's DHCP interface."""
    return f"{prefix(lab)}dhcp"


def workload_namespace(lab: str, workload: str) -> str:
    """Return the namespace of a workload."""
    return f"{prefix(lab)}w-{workload}"


def link_local(mac: str) -> str:
    """Return the IPv6 link-local address that the kernel makes from a hardware address.

    Source: RFC 4291, appendix A (modified EUI-64).
    """
    parts = [int(part, 16) for part in mac.split(":")]
    parts[0] ^= 0x02
    eui = [*parts[:3], 0xFF, 0xFE, *parts[3:]]
    value = (0xFE80 << 112) | int.from_bytes(bytes(eui), "big")
    return str(ipaddress.IPv6Address(value))
