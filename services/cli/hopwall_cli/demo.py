"""`make demo`: the product on a real kernel, step by step, each step checked. `python -m hopwall_cli.demo`.

Exit codes: 0 when every verdict is as the policy says; 1 when one is not, or the lab cannot be built; 130
after Ctrl-C. It cleans up in every case, and what a kill -9 of an earlier run left as well.
"""

import asyncio
import signal
import sys

from hopwall_cli import scene
from hopwall_cli.client import ClientError
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import routes
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab, Proto
from hopwall_cli.lab.rules import entrances
from hopwall_cli.lab.topology import LabError
from hopwall_cli.supervisor import ChildRefused
from hopwall_runtime import clock

NAME = "scene"
PROTOCOLS: tuple[Proto, ...] = ("icmp", "tcp", "udp")
FLIPS = 20
_REPAIR_S = 30.0
#: The agent looks at the whole kernel so often here; 90 s is the default on a real host.
_REFRESH_S = 5
_TABLES = ("raw", "mangle", "filter")


class Demo:
    """The steps, and what each found."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.failures: list[str] = []

    def check(self, what: str, good: bool) -> None:
        """Print a verdict and remember it when it is bad."""
        sys.stdout.write(f"  [{'ok' if good else 'DIFFERS'}] {what}\n")
        sys.stdout.flush()
        if not good:
            self.failures.append(what)

    async def run(self) -> None:
        """Do all steps, in their order."""
        await self.declare()
        await self.routing_table()
        await self.next_hop()
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
        found = await self.lab.routes("h1")
        show(routes.render(found))
        self.check("as it must be, the DHCP interface's own route untouched", found == scene.ROUTES)
        for route in sorted(set(scene.ROUTES) - set(found)):
            self.check(f"missing: {route}", False)
        for route in sorted(set(found) - set(scene.ROUTES)):
            self.check(f"not expected: {route}", False)

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
            one = await self.lab.matrix(proto=proto)
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


async def run() -> int:
    """Build the lab, show the steps, and return the exit code."""
    started = clock.monotonic()
    heading("Three hosts, a fabric, NATS, API, calc and three dataplanes")
    flags = ["--refresh-s", str(_REFRESH_S)]
    async with Lab(NAME, hosts=3, dhcp=True, agent_flags=flags) as lab:
        demo = Demo(lab)
        took = clock.monotonic() - started
        demo.check(f"up and ready after {took:.1f} s", True)
        await demo.run()
    heading(f"Done in {clock.monotonic() - started:.0f} s.")
    for failure in demo.failures:
        show(f"DIFFERS: {failure}")
    return 1 if demo.failures else 0


def main() -> int:
    """Run the demo."""
    try:
        code = asyncio.run(until_interrupted(run()))
    except (LabError, ClientError, ChildRefused) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 130 if code is None else code


if __name__ == "__main__":
    raise SystemExit(main())
