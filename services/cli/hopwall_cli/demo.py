"""`make demo`: the product on a real kernel, step by step, each step checked. `python -m hopwall_cli.demo`.

Exit codes: 0 when every verdict is as the policy says; 1 when one is not, or the lab cannot be built; 130
after Ctrl-C. It cleans up in every case, and what a kill -9 of an earlier run left as well.
"""

import argparse
import asyncio
import signal
import sys
from typing import Literal

from hopwall_cli import scene
from hopwall_cli.client import ClientError
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import bgp, routes
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Topology
from hopwall_cli.lab.lab import Lab, Proto
from hopwall_cli.lab.rules import entrances
from hopwall_cli.lab.topology import LabError
from hopwall_cli.supervisor import ChildRefused
from hopwall_runtime import clock

NAME = "scene"
PROTOCOLS: tuple[Proto, ...] = ("icmp", "tcp", "udp")
FAMILIES: tuple[Literal[4, 6], ...] = (4, 6)
FLIPS = 20
_REPAIR_S = 30.0
#: The agent looks at the whole kernel so often here; 90 s is the default on a real host.
_REFRESH_S = 5
#: Until BGP has told what it is to tell; and until sessions are up again: BIRD tries every 5 s.
_ROUTES_S = 10.0
_RETURN_S = 30.0
_TABLES = ("raw", "mangle", "filter")


class Demo:
    """The steps, and what each found."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.n_checks = 0
        self.failures: list[str] = []
        #: The routing table of h1 that must come out, and what of it is learnt.
        self.routes, self.learnt = scene.table(lab.topology)

    def check(self, what: str, good: bool) -> None:
        """Print a verdict and remember it when it is bad."""
        sys.stdout.write(f"  [{'ok' if good else 'DIFFERS'}] {what}\n")
        sys.stdout.flush()
        self.n_checks += 1
        if not good:
            self.failures.append(what)

    def verdict(self, took_s: float) -> str:
        """Say in one line what came out, once the lab is gone."""
        if self.failures:
            what = f"{len(self.failures)} of {self.n_checks} checks differ from what must be"
        else:
            what = f"All {self.n_checks} checks are as they must be"
        return f"{what}. Done in {took_s:.0f} s; the lab is taken down again."

    async def run(self) -> None:
        """Do all steps, in their order."""
        await self.declare()
        await self.routing_table()
        await self.learnt_routes()
        await self.next_hop()
        await self.blocks()
        await self.bird_dies()
        await self.isolation()
        await self.other_bookend()
        await self.time_to_enforce()

    async def declare(self) -> None:
        """Tell the API of the workloads, open to all by their profile."""
        lab = self.lab
        await lab.add(*scene.WORKLOADS)
        await lab.client.apply([topo.open_profile(scene.OPEN_PROFILE)])
        started = clock.monotonic()
        answer = await lab.declare()
        took = clock.monotonic() - started
        heading("Four workloads, declared in one call")
        self.check(f"every host enforces it, {took * 1000:.0f} ms after the call", reached(answer))

    async def routing_table(self) -> None:
        """Compare the first host's routing table with the one that must come out."""
        heading("The routing table of h1 (route -n)")
        started = clock.monotonic()
        while (found := await self.lab.routes("h1")) != self.routes:
            if clock.monotonic() - started > _ROUTES_S:
                break
            await asyncio.sleep(0.05)
        show(routes.render(found))
        self.check("as it must be, the DHCP interface's own route untouched", found == self.routes)
        for route in sorted(set(self.routes) - set(found)):
            self.check(f"missing: {route}", False)
        for route in sorted(set(found) - set(self.routes)):
            self.check(f"not expected: {route}", False)

    async def learnt_routes(self) -> None:
        """Show which of the routes BIRD wrote, and from whom each host has them."""
        lab = self.lab
        heading("What of it was learnt by BGP (ip route show proto bird)")
        show(await lab.run("h1", ["ip", "route", "show", "proto", "bird"]))
        learnt = await lab.learnt("h1")
        self.check("the workloads of other hosts, each by its host", learnt == self.learnt)
        for name in lab.machines:
            peers = lab.peers(name)
            found = await lab.birds.established(name)
            wanted = [lab.address(peer, version) for peer in peers for version in FAMILIES]
            text = f"{name} speaks with {', '.join(peers)}, by IPv4 and by IPv6"
            self.check(text, sorted(found) == sorted(wanted))

    async def blocks(self) -> None:
        """Show that one route leads to all of a host's block, and one more to what moved out of it."""
        lab = self.lab
        home, away = scene.BLOCK_HOST, scene.MOVED_TO
        heading(f"Addresses of {home}'s block: one route for all of them, and exceptions")
        given = [
            await lab.assign(name, home, profiles=(scene.OPEN_PROFILE,))
            for name in scene.BLOCK_WORKLOADS
        ]
        await lab.add(*given)
        await lab.declare(*scene.BLOCK_WORKLOADS)
        block = scene.block_of(given[0].ipv4)
        before = await self.learns({block: lab.hosts[home].ipv4})
        show(await lab.run("h1", ["ip", "route", "show", "root", block]))
        inside = [to for to in before if to != block and scene.block_of(to) == block]
        self.check(f"h1 has one route to the block, {block}, and none into it", inside == [])
        show(await lab.run(home, ["ip", "route", "show", "root", block]))
        self.check(
            f"{home} drops what goes to addresses of the block that nobody has",
            (await lab.learnt(home)).get(block) == "",
        )
        mover = given[-1]
        self.check(f"{mover.ipv4} is reached", await lab.reach("vm24", mover.name, "tcp"))
        await lab.remove(mover.name)
        await lab.add(await lab.assign(mover.name, away, profiles=(scene.OPEN_PROFILE,)))
        await lab.declare(mover.name)
        exception = {f"{mover.ipv4}/32": lab.hosts[away].ipv4}
        await self.learns({block: lab.hosts[home].ipv4, **exception})
        show(await lab.run("h1", ["ip", "route", "show", "root", block]))
        self.check(
            f"{mover.ipv4} moved to {away} with its address, and is reached there",
            await lab.reach("vm24", mover.name, "tcp"),
        )

    async def learns(self, wanted: dict[str, str]) -> dict[str, str]:
        """Wait until h1 has learnt these routes; return all that it has learnt, and judge them."""
        found: dict[str, str] = {}
        started = clock.monotonic()
        while not wanted.items() <= (found := await self.lab.learnt("h1")).items():
            if clock.monotonic() - started > _ROUTES_S:
                break
            await asyncio.sleep(0.02)
        text = ", ".join(f"{to} via {way}" for to, way in wanted.items())
        self.check(f"h1 learns {text}", wanted.items() <= found.items())
        return found

    async def bird_dies(self) -> None:
        """Kill the BIRD that tells h1 its routes, and show that no route and no packet is lost."""
        lab = self.lab
        teller = lab.peers("h1")[0]
        heading(f"{teller}'s BIRD, which tells h1 its routes, is killed")
        before = await lab.learnt("h1")
        await lab.start_flow("vm24", "vm23")
        lost: set[str] = set()
        lab.services[f"bird-{teller}"].signal(signal.SIGKILL)
        started, down_s = clock.monotonic(), 0.0
        while clock.monotonic() - started < _RETURN_S:
            lost |= before.keys() - await lab.learnt("h1")
            n_up = len(await lab.birds.established(teller))
            if n_up == 0:
                down_s = clock.monotonic() - started
            elif down_s and n_up == 2 * len(lab.peers(teller)):
                break
            await asyncio.sleep(0.02)
        took = clock.monotonic() - started
        await asyncio.sleep(0.5)
        lost |= before.keys() - await lab.learnt("h1")
        flow = await lab.stop_flow("vm24", "vm23")
        self.check(f"its sessions are up again after {took:.1f} s", 0.0 < down_s < took < _RETURN_S)
        self.check(f"h1 lost {len(lost)} of its {len(before)} routes meanwhile", not lost)
        missing = flow["sent"] - flow["received"]
        self.check(f"of {flow['sent']} packets of .24 to .23, {missing} were lost", missing == 0)

    async def next_hop(self) -> None:
        """Ask by ARP for whatever a workload could take as its next hop."""
        heading("The host is the next hop, whatever route the workload was given")
        for name, addresses in scene.NEXT_HOPS.items():
            mine = await self.lab.mac_towards(name)
            for address in addresses:
                answer = await self.lab.arp(name, address)
                machine = self.lab.workloads[name]
                said = f"is at {answer}" if answer else "is not answered"
                text = f"{machine.ipv4} asks who has {address}: {said}"
                self.check(f"{text}, the end of its cable on {machine.host}", answer == mine)

    async def isolation(self) -> None:
        """Show who reaches whom, before and after the customers are kept apart."""
        heading("Who reaches whom, before any policy")
        await self.matrix(isolated=False)
        heading("Who reaches whom, once each customer may reach itself only")
        started = clock.monotonic()
        answer = await self.lab.client.apply(scene.isolation(), wait="programmed")
        took = clock.monotonic() - started
        self.check(f"every host enforces it, {took * 1000:.0f} ms after the call", reached(answer))
        await self.matrix(isolated=True)

    async def matrix(self, *, isolated: bool) -> None:
        """Probe every pair by every protocol, print the result and judge it."""
        wanted = scene.expected(isolated=isolated)
        found = dict(wanted)
        wrong: list[str] = []
        for proto in PROTOCOLS:
            one = await self.lab.matrix(tuple(scene.CUSTOMERS), proto)
            bad = {pair: good for pair, good in one.items() if good != wanted[pair]}
            found |= bad
            wrong += [f"{proto} {src} to {dst}: {good}" for (src, dst), good in bad.items()]
        show(scene.matrix_text(tuple(scene.CUSTOMERS), found, wanted))
        self.check(
            f"{', '.join(PROTOCOLS)}: {len(wanted)} pairs each as the policy says", not wrong
        )
        for text in wrong:
            self.check(text, False)

    async def other_bookend(self) -> None:
        """Take one host's rules away and show that the other host still holds."""
        heading("h1 loses all its rules by hand, its agent frozen: the other hosts hold alone")
        before = entrances(await self.lab.rules("h1"))
        self.check("before: not one packet of .24 to .21 leaves h1", await self.leaks() == 0)
        agent = self.lab.services["dataplane-h1"]
        agent.signal(signal.SIGSTOP)
        try:
            for table in _TABLES:
                await self.lab.run("h1", ["iptables-nft", "-t", table, "-F"])
            await self.lab.run("h1", ["iptables-nft", "-P", "FORWARD", "ACCEPT"])
            leaks = await self.leaks()
            self.check(f"h1 is open: {leaks} packets of .24 to .21 leave it", leaks > 0)
            await self.matrix(isolated=True)
        finally:
            agent.signal(signal.SIGCONT)
        started = clock.monotonic()
        while (now := entrances(await self.lab.rules("h1"))) != before:
            if clock.monotonic() - started > _REPAIR_S:
                break
            await asyncio.sleep(0.1)
        took = clock.monotonic() - started
        self.check(f"the agent goes on, and its rules are back after {took:.1f} s", now == before)
        self.check("again not one packet of .24 to .21 leaves h1", await self.leaks() == 0)

    async def leaks(self) -> int:
        """Count the packets that h1 lets out from customer B's .24 to customer A's .21."""
        async with self.lab.witness("h1", "vm24", "vm21") as seen:
            await self.lab.reach("vm24", "vm21", "icmp")
        return seen.packets

    async def time_to_enforce(self) -> None:
        """Flip a policy for all hosts and measure from call to enforced, each verdict probed."""
        heading(f"From the API call to enforced on every host ({FLIPS} flips of a policy)")
        samples: list[float] = []
        kind = kind_named("gnp")
        good = True
        for number in range(FLIPS):
            allowed = number % 2 == 0
            started = clock.monotonic()
            answer = await self.lab.client.put(
                kind, scene.exception(allowed=allowed), wait="programmed"
            )
            samples.append(clock.monotonic() - started)
            reaches = await self.lab.reach("vm24", "vm21", "tcp", timeout_s=0.4)
            good = good and reached(answer) and reaches == allowed
        p50, p99 = (scene.percentile(samples, share) * 1000 for share in (0.5, 0.99))
        show(
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms (the call itself, fsync and all answers included)"
        )
        self.check("after every answer a new connection fares as the policy says, at once", good)


def heading(text: str) -> None:
    """Print the title of a step."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def show(text: str) -> None:
    """Print something indented."""
    for line in text.splitlines():
        sys.stdout.write(f"    {line}\n")
    sys.stdout.flush()


def reached(answer: dict[str, object]) -> bool:
    """Tell whether an answer says that all hosts enforce the write."""
    status = answer.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(c["type"] == "Programmed" and c["status"] == "True" for c in conditions)


async def run(topology: Topology) -> int:
    """Build the lab, show the steps, and return the exit code."""
    started = clock.monotonic()
    heading(f"Three hosts and a fabric, routes by BGP: {bgp.TOPOLOGIES[topology]}")
    flags = ["--refresh-s", str(_REFRESH_S)]
    async with Lab(
        NAME, hosts=3, dhcp=True, routing="bgp", topology=topology, agent_flags=flags
    ) as lab:
        demo = Demo(lab)
        took = clock.monotonic() - started
        names = ", ".join(lab.services)
        show(names)
        demo.check(f"all that runs, and every BGP session up, after {took:.1f} s", True)
        await demo.run()
    heading(demo.verdict(clock.monotonic() - started))
    for failure in demo.failures:
        show(f"DIFFERS: {failure}")
    return 1 if demo.failures else 0


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m hopwall_cli.demo", allow_abbrev=False)
    parser.add_argument("--topology", choices=tuple(bgp.TOPOLOGIES), default="reflector")
    asked = parser.parse_args()
    try:
        code = asyncio.run(until_interrupted(run(asked.topology)))
    except (LabError, ClientError, ChildRefused) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    if code is None:
        sys.stderr.write("demo: interrupted; the lab is taken down again.\n")
        return 130
    return code


if __name__ == "__main__":
    raise SystemExit(main())
