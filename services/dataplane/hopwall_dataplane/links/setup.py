"""Which sysctls have been put right, per interface: new interfaces at once, all of them at a refresh.

It refuses to write what is right already, and to look at every interface for each change.
"""

from collections.abc import Collection, Iterable, Mapping

from hopwall_dataplane.links.sysctl import (
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
           Without `ipv6` nothing of that family is touched. `_done` is interface → the index it had when it was put right; another index is a new interface.
    """

    def __init__(
        self, driver: SysctlDriver, *, prefixes: tuple[str, ...], ipv6: bool = True
    ) -> None:
        """Begin with nothing known to be right."""
        self._driver = driver
        self._prefixes = prefixes
        self._trees = ("net/ipv4/", "net/ipv6/") if ipv6 else ("net/ipv4/",)
        self._done: dict[str, int] = {}
        self._host_done = False

    @property
    def indices(self) -> Collection[int]:
        """The indices of the interfaces that were put right."""
        return self._done.values()

    def differing(self, indices: Mapping[str, int]) -> list[tuple[SetSysctl, str | None]]:
        """Return what was put right and is not any more, each with what it is now; nothing is written.

        Safe in a thread: `indices` must be its own.

        Errors: OSError when a sysctl cannot be read.
        Cost:   about 5 µs a sysctl, nine an interface.
        """
        if not self._host_done:
            return []
        strangers = [name for name in indices if name.startswith(self._prefixes)]
        names = [n for n in host_sysctl_names(indices) if n.startswith(self._trees)]
        held = self._driver.read(names)
        ops = plan_host(held, indices, strangers)
        wanted = self._wanted(n for n, i in dict(self._done).items() if indices.get(n) == i)
        held |= self._driver.read(wanted)
        ops += plan_sysctls(wanted, held)
        return [(op, held[op.name]) for op in ops]

    def _wanted(self, interfaces: Iterable[str]) -> dict[str, str]:
        return {
            sysctl: value
            for name in sorted(interfaces)
            for sysctl, value in workload_sysctls(name).items()
            if sysctl.startswith(self._trees)
        }

    def look_again(self) -> None:
        """Take nothing for granted at the next `apply`."""
        self._done.clear()
        self._host_done = False

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
            strangers = [name for name in indices if name.startswith(self._prefixes)]
            names = [n for n in host_sysctl_names(indices) if n.startswith(self._trees)]
            done += self._write(plan_host(self._driver.read(names), indices, strangers))
            self._host_done = True
        desired = self._wanted(fresh)
        done += self._write(plan_sysctls(desired, self._driver.read(desired)))
        self._done = present
        return done

    def _write(self, ops: list[SetSysctl]) -> list[tuple[SetSysctl, Outcome]]:
        return list(zip(ops, self._driver.apply(ops), strict=True))
