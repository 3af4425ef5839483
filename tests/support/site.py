"""A host between a remote machine and its workloads, all real, and packets that go to and fro.

    remote (192.0.2.2) ── eth0 host ── tapa workload a (10.65.0.10)
                                    └─ tapb workload b (10.65.0.11)

The agent's kernel part is applied by itself: what calc says is given as updates, without a bus.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from hopwall_dataplane.cleanup import cleanup
from hopwall_dataplane.feed import Step
from hopwall_dataplane.links.monitor import LinkMonitor
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.ways import ways_to
from hopwall_model.updates import Update
from tests.support.netns import Netns

HOST, REMOTE = {4: "192.0.2.1", 6: "fd00:2::1"}, {4: "192.0.2.2", 6: "fd00:2::2"}
WORKLOAD = {
    "a": {4: "10.65.0.10", 6: "fd65::10"},
    "b": {4: "10.65.0.11", 6: "fd65::11"},
}
_SERVER_S = 20.0
#: Each says to whoever connects what address it sees.
PORTS = (22, 80, 81, 443)

_SERVER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    one = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    waiting.register(one, 1)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        made, peer = key.fileobj.accept()
        made.sendall(peer[0].removeprefix("::ffff:").encode())
        made.close()
"""


def seen_by(address: str, port: int, timeout_s: float = 0.4) -> str:
    """Connect from the current namespace; return the source the other end saw, "" when nothing passes.

    The kernel of the other end connects by itself; the server's word may have to wait for a busy machine.
    """
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout_s) as made:
        made.settimeout(_SERVER_S)
        return made.recv(64).decode()
    return ""


def apply(settings: DataplaneSettings, updates: tuple[Update, ...]) -> tuple[int, list[str]]:
    """Bring the current namespace's kernel to a state; return the ops and what is refused."""

    async def whole() -> tuple[int, list[str]]:
        kernel = await open_kernel(settings)
        monitor = LinkMonitor()
        try:
            links = monitor.links
            names = {link.index: link.name for link in links.values()}
            kernel.desired.set_links(
                {n: LinkState(x.index, x.up, x.addresses) for n, x in links.items()},
                ways_to(kernel.desired.nats, names),
            )
            kernel.desired.apply(Step("e", 1, full=True, updates=updates))
            await kernel.resync()
            turn = await kernel.apply()
            assert not turn.held_by, turn.held_by
            for _ in range(4):
                await asyncio.sleep(0.03)
                await kernel.sweep()
            refused = [f"{r.object}: {r.reason}" for r in kernel.desired.refusals()]
            refused += [f"{name}: {why}" for name, why in kernel.refused.items()]
            return turn.n_ops, refused
        finally:
            monitor.close()
            await kernel.close()

    return asyncio.run(whole())


def clean(settings: DataplaneSettings) -> list[str]:
    """Remove everything of ours in the current namespace."""

    async def whole() -> list[str]:
        kernel = await open_kernel(settings)
        try:
            return await cleanup(kernel, dry_run=False)
        finally:
            await kernel.close()

    return asyncio.run(whole())


class Site:
    """The namespaces, wired, with a server in each."""

    def __init__(self, backend: str, **settings: object) -> None:
        """Choose names; nothing is made before the `with`."""
        self.settings = DataplaneSettings(backend=backend, host="h1", **settings)  # type: ignore[arg-type]
        self.backend = backend
        self.host, self.remote = Netns("host"), Netns("remote")
        self.workloads = {name: Netns(f"wl{name}") for name in WORKLOAD}
        self._servers: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make everything."""
        with contextlib.ExitStack() as stack:
            for ns in (self.host, self.remote, *self.workloads.values()):
                stack.enter_context(ns)
            self.wire("eth0", self.remote, HOST, REMOTE, "/24", "/64")
            for name, ns in self.workloads.items():
                gateway = {4: "169.254.1.1", 6: "fe80::1"}
                self.wire(f"tap{name}", ns, {}, WORKLOAD[name], "/32", "/128")
                self.host.run(["ip", "addr", "add", "fe80::1/64", "dev", f"tap{name}", "nodad"])
                ns.run(["ip", "route", "add", gateway[4], "dev", "v0"])
                ns.run(["ip", "route", "add", "default", "via", gateway[4], "dev", "v0"])
                ns.run(["ip", "-6", "route", "add", "default", "via", gateway[6], "dev", "v0"])
            for cidr in ("10.65.0.0/24", "203.0.113.0/24", "fd65::/64", "fd03::/64"):
                via = HOST[6 if ":" in cidr else 4]
                self.remote.run(["ip", "route", "add", cidr, "via", via])
            for ns in (self.host, self.remote, *self.workloads.values()):
                self.serve(ns)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self._stack.close()

    def apply(self, *updates: Update) -> list[str]:
        """Bring the host to a state, and see that doing it again does nothing; return what is refused."""
        _, refused = self.host.python(apply, self.settings, updates)
        again, _ = self.host.python(apply, self.settings, updates)
        assert again == 0
        return refused

    def sees(self, ns: Netns, address: str, port: int = 80) -> str:
        """Connect from a namespace; return the source the other end saw, "" when nothing passes."""
        return ns.python(seen_by, address, port)

    def tables(self) -> str:
        """Print all tables of both families, without counters."""
        return "".join(
            self.host.run([f"{tool}-{self.backend}-save"]) for tool in ("iptables", "ip6tables")
        )

    def wire(
        self,
        name: str,
        ns: Netns,
        near: dict[int, str],
        far: dict[int, str],
        v4: str,
        v6: str,
    ) -> None:
        """Join an interface of the host with another namespace, and give both ends their addresses."""
        far_name = "v0" if name.startswith("tap") else "r0"
        self.host.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", far_name, "netns", ns.name]
        )
        for where, dev, ips in ((self.host, name, near), (ns, far_name, far)):
            # Else neighbours are not asked for while the link-local address is looked for elsewhere.
            where.sysctl(f"net/ipv6/conf/{dev}/accept_dad", "0")
            where.run(["ip", "link", "set", dev, "up"])
            for family, ip in ips.items():
                length = v4 if family == 4 else v6
                extra = ["nodad"] if family == 6 else []
                where.run(["ip", "addr", "add", f"{ip}{length}", "dev", dev, *extra])

    def serve(self, ns: Netns) -> None:
        """Let a server answer in a namespace."""
        argv = ns.command([sys.executable, "-c", _SERVER, *map(str, PORTS)])
        server = subprocess.Popen(argv, stdout=subprocess.PIPE)
        self._servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

    def _stop(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
