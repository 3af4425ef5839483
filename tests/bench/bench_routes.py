"""10,000 routes: our planner and driver against one packed rtnetlink batch, and against `ip -batch`.

Run as root: `python -m tests.bench.bench_routes`. It works in a namespace of its own.
"""

import socket
import struct
import subprocess
import sys
from functools import partial

from hopwall_dataplane.delta import Delta
from hopwall_dataplane.routes.driver import RouteDriver
from hopwall_dataplane.routes.plan import plan_additions, plan_removals, record
from hopwall_dataplane.routes.route import Route, RouteKey
from hopwall_runtime.main import tune_collector
from tests.bench.result import Result, compare, table, timed_ms
from tests.support.netns import Netns

N_ROUTES = 10_000
N_DEVICES = 8
N_ROUNDS = 7
_PER_SEND = 1000

ADDRESSES = [f"10.{64 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(N_ROUTES)]
WAYS = ("fold", "ours", "floor", "ip")
Times = dict[str, list[float]]


def wanted(shift: int) -> list[Route]:
    """Return the routes, each on the device `shift` further."""
    return [
        Route(f"{address}/32", "link", interface=f"tap{(i + shift) % N_DEVICES}")
        for i, address in enumerate(ADDRESSES)
    ]


class Ours:
    """Our road: fold, then plan, apply and record."""

    def __init__(self) -> None:
        """Open the driver."""
        self.driver = RouteDriver()
        self.delta: Delta[RouteKey, Route] = Delta()

    def fold(self, routes: list[Route]) -> None:
        """Want these routes, or none at all, as the agent does when a snapshot arrives."""
        if not routes:
            for key in list(self.delta.desired):
                self.delta.remove_desired(key)
        for route in routes:
            self.delta.set_desired(route.key, route)

    def settle(self) -> None:
        """Make it so."""
        ops = plan_additions(self.delta) + plan_removals(self.delta)
        record(self.delta, ops, self.driver.apply(ops))
        assert not self.delta


class Floor:
    """The bare kernel: bytes built beforehand, sent in packed batches, every message acknowledged."""

    def __init__(self) -> None:
        """Open a socket and build all bytes."""
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
        self.sock.setsockopt(270, 10, 1)
        index = [socket.if_nametoindex(f"tap{i}") for i in range(N_DEVICES)]
        create, replace, delete = (24, 0x405), (24, 0x505), (25, 0x005)
        self.add = self.build(create, index)
        self.replace = self.build(replace, index[1:] + index[:1])
        self.delete = self.build(delete, [0] * N_DEVICES)

    def build(self, what: tuple[int, int], index: list[int]) -> list[bytes]:
        """Return all messages of one kind as datagrams."""
        kind, flags = what
        scope = 255 if kind == 25 else 253
        messages = []
        for i, address in enumerate(ADDRESSES):
            tail = struct.pack("=HH4s", 8, 1, socket.inet_aton(address))
            if index[i % N_DEVICES]:
                tail += struct.pack("=HHI", 8, 4, index[i % N_DEVICES])
            body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 80, scope, 1, 0) + tail
            messages.append(struct.pack("=IHHII", 16 + len(body), kind, flags, i + 1, 0) + body)
        return [b"".join(messages[i : i + _PER_SEND]) for i in range(0, N_ROUTES, _PER_SEND)]

    def go(self, datagrams: list[bytes]) -> None:
        """Send, and take each acknowledgement."""
        for datagram in datagrams:
            self.sock.send(datagram)
            left = _PER_SEND
            while left:
                data = self.sock.recv(65536)
                (code,) = struct.unpack_from("=i", data, 16)
                assert code == 0
                left -= 1


def batch(verb: str, shift: int) -> str:
    """Return the text for `ip -batch`."""
    return "".join(
        f"route {verb} {address}/32 dev tap{(i + shift) % N_DEVICES} scope link proto 80\n"
        for i, address in enumerate(ADDRESSES)
    )


def ip_batch(text: str) -> None:
    """Run `ip -batch`."""
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)


def measure() -> Times:
    """Interleave the three ways, each from an empty table: add all, replace all, remove all."""
    tune_collector()
    ours, floor = Ours(), Floor()
    steps = [
        ("add", wanted(0), floor.add, batch("add", 0)),
        ("replace", wanted(1), floor.replace, batch("replace", 1)),
        ("remove", [], floor.delete, batch("del", 1)),
    ]
    times: Times = {f"{way} {step[0]}": [] for way in WAYS for step in steps}
    for _ in range(N_ROUNDS):
        for what, routes, _, _ in steps:
            times[f"fold {what}"].append(timed_ms(partial(ours.fold, routes)))
            times[f"ours {what}"].append(timed_ms(ours.settle))
        for what, _, datagrams, _ in steps:
            times[f"floor {what}"].append(timed_ms(partial(floor.go, datagrams)))
        for what, _, _, text in steps:
            times[f"ip {what}"].append(timed_ms(partial(ip_batch, text)))
    return times


def main() -> list[Result]:
    """Measure in a namespace of its own and return what was found."""
    with Netns("benchroutes") as ns:
        for i in range(N_DEVICES):
            ns.run(["ip", "link", "add", f"tap{i}", "type", "veth", "peer", "name", f"far{i}"])
            ns.run(["ip", "link", "set", f"tap{i}", "up"])
        times = ns.python(measure)
    results = []
    for what in ("add", "replace", "remove"):
        name = f"{what} {N_ROUTES:,} routes"
        ours, floor, ip = (times[f"{way} {what}"] for way in ("ours", "floor", "ip"))
        whole = [a + b for a, b in zip(times[f"fold {what}"], ours, strict=True)]
        results += [
            compare(f"{name}: plan, apply, against a packed batch", ours, floor, 1.5),
            compare(f"{name}: fold, plan, apply, against ip -batch", whole, ip, 1.0),
        ]
    return results


if __name__ == "__main__":
    sys.stdout.write(table(main()))
