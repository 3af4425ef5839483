"""How the kernel must be set for the data path: which sysctls, read, and written where they differ.

The tables and plans are pure; `SysctlDriver` is the only code that writes /proc/sys. It refuses names
outside `net/ipv4`, `net/ipv6` and `net/netfilter`.

A workload's next hop is, for IPv4, any address at all: proxy ARP answers for it. For IPv6 it is the
host's link-local address on the workload's interface: `proxy_ndp` is not the twin of proxy ARP and is
not used.

Source: Documentation/networking/ip-sysctl.rst.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hopwall_dataplane.outcome import Done, Family, Outcome, Refused, Retry

#: Names the kernel uses beside those of interfaces; a workload must not reach them.
_NOT_INTERFACES = frozenset({"", ".", "..", "all", "default", "lo"})

_WORKLOAD: Mapping[Family, tuple[tuple[str, str], ...]] = {
    Family.V4: (
        ("net/ipv4/conf/{}/forwarding", "1"),
        # Answer ARP for every address we have a route to: the workload's gateway needs no owner.
        ("net/ipv4/conf/{}/proxy_arp", "1"),
        # At once: the default waits up to 0.8 s.
        ("net/ipv4/neigh/{}/proxy_delay", "0"),
        # A workload must neither steer the host's routes nor be told to bypass it. The latter holds
        # only where conf/all/send_redirects is 0 too, which is the administrator's.
        ("net/ipv4/conf/{}/accept_redirects", "0"),
        ("net/ipv4/conf/{}/send_redirects", "0"),
        # 127.0.0.0/8 never crosses an interface (CVE-2020-8558).
        ("net/ipv4/conf/{}/route_localnet", "0"),
    ),
    Family.V6: (
        ("net/ipv6/conf/{}/forwarding", "1"),
        # A workload must not become the host's router.
        ("net/ipv6/conf/{}/accept_ra", "0"),
        ("net/ipv6/conf/{}/accept_redirects", "0"),
    ),
}

#: More than any of them has.
_VALUE_BYTES = 64

#: Connection tracking reckons the checksum of UDPLite as if it were UDP's, so with this at 1, the kernel's
#: default, every right one is invalid. At 0 checksums are left to whom the packets are for.
#: Source: udplite_error() in net/netfilter/nf_conntrack_proto_udp.c.
TRACK_UDPLITE: Mapping[str, str] = {"net/netfilter/nf_conntrack_checksum": "0"}
_TREES = (["net", "ipv4"], ["net", "ipv6"], ["net", "netfilter"])

FORWARD_V4 = "net/ipv4/ip_forward"
_FORWARD_V6 = "net/ipv6/conf/all/forwarding"


class SetSysctl(NamedTuple):
    """Give a sysctl a value; its name has slashes, as interface names may have dots."""

    name: str
    value: str


def workload_sysctls(interface: str) -> dict[str, str]:
    """Return what a workload's interface needs, for both families.

    Errors: `ValueError` for a name that no interface has, or that stands for more than one.
    """
    if interface in _NOT_INTERFACES or "/" in interface:
        text = f"{interface!r} cannot be a workload's interface"
        raise ValueError(text)
    return {name.format(interface): value for family in Family for name, value in _WORKLOAD[family]}


def plan_sysctls(desired: Mapping[str, str], actual: Mapping[str, str | None]) -> list[SetSysctl]:
    """Turn what differs into ops, in the order of `desired`.

    A sysctl that was read as absent is not attempted: with IPv6 disabled its tree is not there.
    """
    return [
        SetSysctl(name, value)
        for name, value in desired.items()
        if name not in actual or actual[name] not in (None, value)
    ]


def host_sysctl_names(interfaces: Iterable[str]) -> list[str]:
    """Return what must be read for `plan_host`, given all interfaces of the host."""
    return [FORWARD_V4, _FORWARD_V6, *(_accept_ra(name) for name in sorted(interfaces))]


def plan_host(
    actual: Mapping[str, str | None], interfaces: Iterable[str], workload_interfaces: Iterable[str]
) -> list[SetSysctl]:
    """Return the ops that let the host forward, and let it keep its own default route.

    A host that forwards IPv6 ignores router advertisements where `accept_ra` is 1, and drops the default
    routes it has from them at the moment forwarding is turned on. An uplink that lives by them is
    therefore set to 2 ("even if forwarding") first. An administrator's 0 stays.

    Shape:  v4 forwarding, then uplinks by name, then v6 forwarding. Turning v4 forwarding on resets the
            interfaces' other settings, so these ops come before those of `workload_sysctls`.
    Source: rt6_purge_dflt_routers() in net/ipv6/route.c, inet_forward_change() in net/ipv4/devinet.c.
    """
    uplinks = sorted(set(interfaces) - set(workload_interfaces) - _NOT_INTERFACES)
    ops = plan_sysctls({FORWARD_V4: "1"}, actual)
    if actual.get(_FORWARD_V6) is None:
        return ops
    ops += [
        SetSysctl(_accept_ra(name), "2") for name in uplinks if actual.get(_accept_ra(name)) == "1"
    ]
    return ops + plan_sysctls({_FORWARD_V6: "1"}, actual)


def _accept_ra(interface: str) -> str:
    """Return the name of the sysctl that says whether an interface heeds router advertisements."""
    return f"net/ipv6/conf/{interface}/accept_ra"


class SysctlDriver:
    """Reads and writes sysctls of the current network namespace."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        """Name the tree."""
        self._root = root

    def read(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the value of each, None where there is none.

        Errors: `OSError` when one that is there cannot be read; `ValueError` for a name outside our trees.
        """
        values: dict[str, str | None] = {}
        for name in names:
            try:
                # Not Path.read_text: a look at all interfaces of a large host takes a third of the time.
                file = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                values[name] = None
                continue
            try:
                values[name] = os.read(file, _VALUE_BYTES).decode().strip()
            finally:
                os.close(file)
        return values

    def apply(self, ops: Sequence[SetSysctl]) -> list[Outcome]:
        """Carry out ops in order and return what became of each. What is right already is not written.

        Errors: never.
        """
        return [self._set(op) for op in ops]

    def _set(self, op: SetSysctl) -> Outcome:
        """Carry out one op."""
        try:
            path = Path(self._path(op.name))
            if path.read_text().strip() != op.value:
                path.write_text(op.value)
        except (OSError, ValueError) as error:
            return outcome_of(op, error)
        return Done()

    def _path(self, name: str) -> str:
        """Return the file of a sysctl.

        Errors: `ValueError` for a name outside our trees.
        """
        parts = name.split("/")
        if parts[:2] not in _TREES or {"", ".", ".."} & set(parts):
            text = f"{name!r} is not a network sysctl"
            raise ValueError(text)
        return f"{self._root}/{name}"


def outcome_of(op: SetSysctl, error: OSError | ValueError) -> Outcome:
    """Say what an error means for an op: an interface may yet appear, the rest is for a person."""
    text = f"sysctl {op.name} could not be set to {op.value}: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENODEV, errno.EAGAIN):
        return Retry(text)
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Refused(f"{text}; mount /proc/sys/net writable for this service (sysctl_dir)")
    return Refused(text)
