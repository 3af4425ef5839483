"""Which sysctls have been put right, per interface: new interfaces at once, all of them at a refresh.

It refuses to write what is right already, and to look at every interface for each change.
"""

from collections.abc import Collection, Iterable, Mapping

from hopwall_dataplane.links.sources import CHECK
from hopwall_dataplane.links.sysctl import (
    FORWARD_V4,
    TRACK_UDPLITE,
    SetSysctl,
    SysctlDriver,
    host_sysctl_names,
    plan_host,
    plan_sysctls,
    workload_sysctls,
)
from hopwall_dataplane.outcome import Outcome


class InterfaceSetup:
    """Keeps the host's and the workload interfaces' sysctls as the data path needs them.

    Shape: `prefixes` begin the names of workloads' interfaces, known or not; none of them is an uplink.
           Without `ipv6` nothing of that family is touched; without `udplite` connection tracking is left as it is.
           `_done` is interface → the index it had when it was put right; another index is a new interface.
    """

    def __init__(
        self,
        driver: SysctlDriver,
        *,
        prefixes: tuple[str, ...],
        ipv6: bool = True,
        udplite: bool = False,
    ) -> None:
        """Begin with nothing known to be right."""
        self._driver = driver
        self._prefixes = prefixes
        self._trees = ("net/ipv4/", "net/ipv6/") if ipv6 else ("net/ipv4/",)
        self._tracking = TRACK_UDPLITE if udplite else {}
        self._done: dict[str, int] = {}
        #: Interface → its index, and the value that its check of senders was given.
        self._checks: dict[str, tuple[int, str]] = {}
        self._host_done = False

    @property
    def indices(self) -> Collection[int]:
        """The indices of the interfaces that were put right."""
        return self._done.values()

    def look_again(self, indices: Mapping[str, int]) -> list[tuple[SetSysctl, str | None]]:
        """Read the host's sysctls and those of interfaces; take what is not right any more for undone.

        Shape:  what is to be written, with what it is now.
        Errors: OSError when a sysctl cannot be read.
        Cost:   about 10 µs a sysctl, nine an interface.
        """
        if not self._host_done:
            return []
        held = self._driver.read(self._host_names(indices))
        tracking = self._driver.read(self._tracking)
        ops = plan_host(held, indices, self._strangers(indices))
        ops += plan_sysctls(self._tracking, tracking)
        held |= tracking
        self._host_done = not ops
        for name in [n for n, index in self._done.items() if indices.get(n) == index]:
            wanted = self._wanted([name])
            read = self._driver.read(wanted)
            wrong = plan_sysctls(wanted, read)
            held |= read
            if wrong or ops[:1] == [SetSysctl(FORWARD_V4, "1")]:
                # Turning forwarding on resets what interfaces were set to.
                del self._done[name]
            ops += wrong
        checks = {CHECK.format(n): v for n, (i, v) in self._checks.items() if indices.get(n) == i}
        read = self._driver.read(checks)
        held |= read
        wrong = plan_sysctls(checks, read)
        self._checks = {
            n: c for n, c in self._checks.items() if SetSysctl(CHECK.format(n), c[1]) not in wrong
        }
        ops += wrong
        return [(op, held[op.name]) for op in ops]

    def check(
        self, indices: Mapping[str, int], names: Iterable[str], *, on: bool
    ) -> list[tuple[SetSysctl, Outcome]]:
        """Have senders on these interfaces checked by the routes, or not; return what was written.

        Errors: OSError when a sysctl cannot be read.
        """
        value = "1" if on else "0"
        found = {name: (indices[name], value) for name in sorted(names) if name in indices}
        fresh = {CHECK.format(n): value for n in found if self._checks.get(n) != found[n]}
        self._checks |= found
        return self._write(plan_sysctls(fresh, self._driver.read(fresh)))

    def _strangers(self, indices: Iterable[str]) -> list[str]:
        return [name for name in indices if name.startswith(self._prefixes)]

    def _host_names(self, indices: Iterable[str]) -> list[str]:
        return [n for n in host_sysctl_names(indices) if n.startswith(self._trees)]

    def _wanted(self, interfaces: Iterable[str]) -> dict[str, str]:
        return {
            sysctl: value
            for name in sorted(interfaces)
            for sysctl, value in workload_sysctls(name).items()
            if sysctl.startswith(self._trees)
        }

    def apply(
        self, indices: Mapping[str, int], workloads: Iterable[str]
    ) -> list[tuple[SetSysctl, Outcome]]:
        """Put right what is not known to be right; return what was written and what became of it.

        Shape:  `indices` are all interfaces of the host, `workloads` those of known endpoints.
        Errors: OSError when a sysctl cannot be read.
        """
        present = {name: indices[name] for name in workloads if name in indices}
        fresh = [name for name, index in present.items() if self._done.get(name) != index]
        done: list[tuple[SetSysctl, Outcome]] = []
        if not self._host_done:
            # First: turning forwarding on resets what interfaces were set to.
            held = self._driver.read(self._host_names(indices))
            done += self._write(plan_host(held, indices, self._strangers(indices)))
            done += self._write(plan_sysctls(self._tracking, self._driver.read(self._tracking)))
            self._host_done = True
        desired = self._wanted(fresh)
        self._checks = {n: c for n, c in self._checks.items() if indices.get(n) == c[0]}
        done += self._write(plan_sysctls(desired, self._driver.read(desired)))
        self._done = present
        return done

    def _write(self, ops: list[SetSysctl]) -> list[tuple[SetSysctl, Outcome]]:
        return list(zip(ops, self._driver.apply(ops), strict=True))
