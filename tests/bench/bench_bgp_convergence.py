"""10,000 workload routes, from the first in the kernel of one host to the last in that of a third, by a reflector.

Ours: the agent programs the routes of endpoints that a bus tells it of, and its BIRD announces them; the three
BIRDs have the configurations we render, with all filters. Floor: three plain BIRDs without filters, the same
routes in the same kernel by `ip -batch`. The time is what the third host's kernel says, by its own monitor.

`outside`: each route travels by itself. `blocks`: the addresses are in 40 blocks of 256, and those travel; the
agent programs the same 10,000 routes meanwhile, and the end is when both are done. The plain BIRDs have the same
room for the kernel's news: without it they would learn of the burst at their next scan, up to 10 s later.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from msgspec import structs

from hopwall_model.bgp import Bgp, PrefixRange, Session
from hopwall_model.updates import BgpSet, EndpointId, EndpointSet
from tests.bench.result import Result, compare, table
from tests.support.bird_hosts import AS, BirdHost, BirdHosts, mesh, speaker, until
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario

N_ROUTES, N_TAPS, N_ROUNDS = 10_000, 100, 3
#: Against plain BIRDs: the agent writes the routes, and every filter looks at each of them.
BOUND = 3.0
PATIENCE_S = 120.0
POOL = "10.65.0.0/16"
ADDRESSES = [f"10.65.{n >> 8}.{n & 255}/32" for n in range(N_ROUTES)]
BLOCKS = sorted({f"10.65.{n >> 8}.0/24" for n in range(N_ROUTES)})


def endpoints() -> tuple[EndpointSet, ...]:
    """Return the workloads: as many addresses each."""
    each = N_ROUTES // N_TAPS
    return tuple(
        EndpointSet(
            id=EndpointId(f"d/{n}"),
            interface=f"tap{n}",
            addresses=tuple(ADDRESSES[n * each : (n + 1) * each]),
        )
        for n in range(N_TAPS)
    )


def sessions(blocks: tuple[str, ...]) -> dict[int, Bgp]:
    """Return what the advertiser, the reflector and the receiver are to do."""
    length = 24 if blocks else 32
    any_of = PrefixRange(POOL, length, 32)

    def client(here: int) -> Session:
        return mesh(here, 2, any_of, name="peer/rr/172.30.0.2", passive=False)

    clients = [
        mesh(2, n, any_of, name=f"peer/rr/172.30.0.{n}", reflector_client=True, passive=False)
        for n in (1, 3)
    ]
    return {
        1: speaker(1, client(1), blocks=blocks),
        2: speaker(2, *clients, cluster_id="2.0.0.2"),
        3: speaker(3, client(3)),
    }


PLAIN = """log stderr all; router id 172.30.0.{n};
protocol device {{ }}
protocol direct {{ ipv4; interface "eth0"; }}
protocol kernel {{ learn on; persist on; scan time 10; metric 2048;
  netlink rx buffer 67108864;
  ipv4 {{ import all; export where source = RTS_BGP; }}; }}
{sessions}
"""
_PLAIN_BGP = """protocol bgp b{there} {{ local 172.30.0.{here} as {AS}; neighbor 172.30.0.{there} as {AS};
  connect delay time 1; {client} ipv4 {{ import all; export {export}; }}; }}
"""


def plain(number: int, blocks: tuple[str, ...], *, early: bool = False) -> str:
    """Return a configuration without anything of ours; with `early` it does not know its blocks yet."""
    here = number == 1 and blocks and not early
    statics = "".join(f"route {b} blackhole; " for b in blocks) if here else ""
    what = 'where proto = "blocks"' if blocks else "where source = RTS_INHERIT"
    export = {1: what, 2: "all", 3: "none"}[number]
    text = "".join(
        _PLAIN_BGP.format(
            here=number, there=there, AS=AS, export=export, client="rr client;" * (number == 2)
        )
        for there in ((1, 3) if number == 2 else (2,))
    )
    if statics:
        text += f"protocol static blocks {{ ipv4; {statics} }}\n"
    return PLAIN.format(n=number, sessions=text)


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[BirdHosts]:
    """Make three hosts, the first with its workloads' interfaces."""
    with BirdHosts("conv", folder, 3) as found:
        lines = [
            line
            for n in range(N_TAPS)
            for line in (f"link add tap{n} type veth peer name v{n}", f"link set tap{n} up")
        ]
        lines += [f"link set v{n} up" for n in range(N_TAPS)]
        found[1].ns.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")
        yield found


class Clock:
    """From the first route that a host's kernel gets to the last that another's gets, by their monitors."""

    def __init__(self, here: BirdHost, there: BirdHost, wanted: Collection[str]) -> None:
        self._here, self._there = here, there
        #: As the kernel prints it: a single address has no length.
        self._wanted = {network.removesuffix("/32") for network in wanted}

    def __enter__(self) -> "Clock":
        """Begin to listen."""
        self._stack = contextlib.ExitStack()
        self._files = []
        for host in (self._here, self._there):
            path = host.folder / "routes.log"
            out = self._stack.enter_context(path.open("w"))
            argv = host.ns.command(["ip", "-rcvbuf", "67108864", "-ts", "-o", "monitor", "route"])
            process = subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL)
            self._stack.callback(process.wait)
            self._stack.callback(process.terminate)
            self._files.append(path)
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._stack.close()

    def took_ms(self) -> float:
        """Wait until all is there, and return the time: to the last address here or network there."""
        until(lambda: self._there.learnt().keys() >= self._wanted, PATIENCE_S)
        until(lambda: self._here.all_routes().count(" proto 80 ") == N_ROUTES, PATIENCE_S)
        time.sleep(0.5)
        addresses = {address.removesuffix("/32") for address in ADDRESSES}
        here = _first_seen(self._files[0], addresses, " proto 80 ")
        there = _first_seen(self._files[1], self._wanted, " proto bird ")
        return (max(*here.values(), *there.values()) - min(here.values())) * 1000


def _first_seen(log: Path, networks: Collection[str], mark: str) -> dict[str, float]:
    """Return when a monitor first saw each of the networks."""
    found: dict[str, float] = {}
    for line in log.read_text().splitlines():
        stamp, _, rest = line[1:].partition("]")
        to = rest.split()[0]
        if mark in f"{rest} " and to in networks and to not in found:
            whole, _, part = stamp.partition(".")
            moment = time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
            found[to] = moment + float(f"0.{part}")
    missing = len(networks) - len(found)
    assert not missing, f"the monitor missed {missing} routes"
    return found


def up(host: BirdHost) -> bool:
    """Tell whether all of a host's sessions are up."""
    lines = [x for x in host.ask("show protocols").text.splitlines() if " BGP " in x]
    return bool(lines) and all("Established" in x for x in lines)


def floor_ms(folder: Path, blocks: tuple[str, ...]) -> float:
    """Measure three plain BIRDs."""
    with hosts(folder) as three:
        for n in (1, 2, 3):
            three[n].config.write_text(plain(n, blocks, early=True))
            three[n].start()
        until(lambda: all(up(three[n]) for n in (1, 2, 3)))
        each = N_ROUTES // N_TAPS
        lines = [f"route add {a} dev tap{i // each} proto 80" for i, a in enumerate(ADDRESSES)]
        with Clock(three[1], three[3], blocks or ADDRESSES) as clock:
            if blocks:
                three[1].config.write_text(plain(1, blocks))
                three[1].ask("configure")
            three[1].ns.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")
            return clock.took_ms()


def ours_ms(folder: Path, blocks: tuple[str, ...]) -> float:
    """Measure our agent and our configurations."""
    with hosts(folder) as three:
        todo = sessions(blocks)
        for n in (1, 2, 3):
            three[n].start()
        for n in (2, 3):
            three[n].configure(todo[n])

        async def scenario(calc: CalcStandIn, _: AgentProcess) -> float:
            # Nothing is announced before it is told of the blocks.
            before = structs.replace(todo[1], blocks=(), pools=()) if blocks else todo[1]
            await calc.say(bgp=BgpSet(bgp=before))
            await calc.until(lambda s: s.bgp is not None and s.bgp.n_established == 1, 60)
            with Clock(three[1], three[3], blocks or ADDRESSES) as clock:
                await calc.say(endpoints=endpoints(), bgp=BgpSet(bgp=todo[1]))
                took = await asyncio.to_thread(clock.took_ms)
                await calc.applied(60)
                return took

        host = three[1]
        return host.ns.python(
            run_scenario, scenario, host.folder, "--bgp", "--bird-socket", str(host.socket),
            "--bird-config", str(host.config), "--bird-secrets", str(host.secrets),
        )  # fmt: skip


def measured(call: Callable[[Path, tuple[str, ...]], float], blocks: tuple[str, ...]) -> float:
    """Run once in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="hwt-conv-"))
    try:
        return call(folder, blocks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> list[Result]:
    """Measure both ways, interleaved, and return the medians."""
    results = []
    for name, blocks in (("outside blocks, 10,000 x /32", ()), ("in 40 blocks", tuple(BLOCKS))):
        ours, floor = [], []
        for _ in range(N_ROUNDS):
            floor.append(measured(floor_ms, blocks))
            ours.append(measured(ours_ms, blocks))
        title = f"{N_ROUTES:,} addresses on a third host, {name}: against plain BIRDs"
        results.append(compare(title, ours, floor, BOUND))
    return results


if __name__ == "__main__":
    sys.stdout.write(table(main()))
