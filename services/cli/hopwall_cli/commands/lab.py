"""`hopwall lab`: hosts and workloads as network namespaces, for trying things out."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from functools import partial

from hopwall_cli.errors import Failure, Usage
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.lab import build, netns, orders
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import TOPOLOGIES, Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.orders import Order
from hopwall_cli.lab.run_folder import ROOT, Description, RunFolder

DEFAULT_NAME = "demo"
_END_S = 30.0


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its parts."""
    parser = commands.add_parser("lab", help="hosts and workloads as network namespaces")
    parts = parser.add_subparsers(
        dest="part", required=True, metavar="up|down|status|exec|join|leave"
    )
    up = parts.add_parser("up", help="build a lab and keep it until Ctrl-C")
    up.add_argument("--hosts", type=int, default=3)
    up.add_argument("--workloads", type=int, default=2, help="per host (default 2)")
    up.add_argument(
        "--routing",
        choices=("direct", "bgp"),
        default="",
        help="who tells the hosts of each other's workloads: calc, or BIRD (default direct)",
    )
    up.add_argument(
        "--topology",
        choices=tuple(TOPOLOGIES),
        default="",
        help="who speaks BGP with whom (default mesh): "
        + "; ".join(f"{name}: {text}" for name, text in TOPOLOGIES.items()),
    )
    up.add_argument("--backend", choices=("auto", "nft", "legacy"), default="nft")
    up.add_argument("--insecure", action="store_true", help="without TLS, tokens and permissions")
    up.set_defaults(run=run_up)
    down = parts.add_parser("down", help="end a lab, also one that a crash left")
    down.set_defaults(run=run_down)
    status = parts.add_parser("status", help="show what runs")
    status.set_defaults(run=run_status)
    inside = parts.add_parser("exec", help="run a command in a host or a workload")
    inside.add_argument("place", metavar="HOST|WORKLOAD|fabric")
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- command …")
    inside.set_defaults(run=run_exec)
    join = parts.add_parser("join", help="have one more host in a running lab")
    join.add_argument(
        "host", nargs="?", default="", metavar="HOST", help="h4, … (default the next)"
    )
    join.add_argument("--workloads", type=int, default=2, help="on it (default 2)")
    join.set_defaults(run=run_order)
    leave = parts.add_parser("leave", help="take a host or a reflector out of a running lab")
    leave.add_argument("host", metavar="HOST")
    leave.set_defaults(run=run_order, workloads=0)
    for part in (up, down, status, inside, join, leave):
        part.add_argument(
            "--name", default=DEFAULT_NAME, help=f"the lab's name (default {DEFAULT_NAME})"
        )


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run_up(args: argparse.Namespace, _: object) -> int:
    """Build the lab, open to all within it, and wait for Ctrl-C or SIGTERM."""
    await until_interrupted(_keep_up(args))
    return 0


def routing_of(args: argparse.Namespace) -> Routing:
    """Return how routes are spread; a topology alone means BGP.

    Errors: Usage for a topology without BGP.
    """
    if args.topology and args.routing == "direct":
        raise Usage("--topology says who speaks BGP with whom: leave it out with --routing direct.")
    return "bgp" if args.topology or args.routing == "bgp" else "direct"


async def _keep_up(args: argparse.Namespace) -> None:
    topology: Topology = args.topology or "mesh"
    async with Lab(
        args.name,
        secure=not args.insecure,
        hosts=args.hosts,
        backend=args.backend,
        routing=routing_of(args),
        topology=topology,
        say=say,
    ) as lab:
        await lab.client.apply([topo.open_profile("open")])
        await populate(lab, tuple(lab.hosts), args.workloads)
        say(f"lab {lab.name} is up: {', '.join([*lab.machines, *lab.workloads])}.")
        say(f"  hopwall {' '.join(lab.client_flags)} get wep")
        where = f"--name {lab.name} " if lab.name != DEFAULT_NAME else ""
        say(f"  hopwall lab exec {where}{example(lab)}")
        say("Ctrl-C ends it.")
        await orders.serve(lab.folder.orders, partial(obey, lab))


async def populate(lab: Lab, hosts: tuple[str, ...], each: int) -> list[str]:
    """Give hosts workloads, open to all, and declare them; return their names."""
    first = topo.next_workload(lab.workloads)
    workloads = topo.spread(hosts, each, first=first, profiles=("open",))
    if lab.routing == "bgp":
        # In blocks of their hosts, so that one route leads to a host, and not one to each workload.
        given = (lab.assign(w.name, w.host, profiles=w.profiles) for w in workloads)
        workloads = tuple(await asyncio.gather(*given))
    await lab.add(*workloads)
    names = [workload.name for workload in workloads]
    if names:
        await lab.declare(*names)
    return names


def example(lab: Lab) -> str:
    """Return a place in the lab and a command to try there."""
    workloads = list(lab.workloads.values())
    if len(workloads) < 2:
        return f"{next(iter(lab.hosts))} -- ip route"
    return f"{workloads[0].name} -- ping -c1 {workloads[-1].ipv4}"


async def obey(lab: Lab, order: Order) -> str:
    """Do what another shell asks of a running lab; return what was done."""
    if order.verb == "leave":
        await lab.leave(order.host)
        return f"{order.host} has left lab {lab.name}."
    host = await lab.join(order.host)
    names = await populate(lab, (host.name,), order.workloads)
    return f"{', '.join([host.name, *names])} joined lab {lab.name}."


async def run_order(args: argparse.Namespace, _: object) -> int:
    """Have a running lab take a host in or out."""
    order = Order(args.part, args.host, args.workloads)
    say(await orders.give(RunFolder(args.name).orders, order))
    return 0


async def run_down(args: argparse.Namespace, _: object) -> int:
    """End the owner if it lives, and sweep what is there."""
    folder = RunFolder(args.name)
    description = folder.read()
    if folder.alive() and description is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(description.owner, signal.SIGTERM)
        await _wait_until_gone(folder)
    folder.take()
    try:
        count = await build.sweep(args.name)
        folder.clear()
    finally:
        folder.release()
    say(f"lab {args.name} is down ({count} namespaces were left).")
    return 0


async def _wait_until_gone(folder: RunFolder) -> None:
    for _ in range(int(_END_S / 0.1)):
        if not folder.alive():
            return
        await asyncio.sleep(0.1)
    raise Failure(f"lab {folder.name} does not end within {_END_S:.0f} s.")


async def run_status(args: argparse.Namespace, _: object) -> int:
    """Show one lab; 1 when it does not run."""
    folder = RunFolder(args.name)
    description = folder.read()
    namespaces = netns.present(topo.prefix(args.name))
    if description is None or not folder.alive():
        left = f"; a crash left {len(namespaces)} namespaces" if namespaces else ""
        say(f"lab {args.name} does not run{left}.")
        return 1
    for line in status_lines(description, folder.server):
        say(line)
    return 0


def status_lines(description: Description, server: str) -> list[str]:
    """Return what runs in a lab, a line each."""
    return [
        f"lab {description.name}: process {description.owner}, API {server}",
        *(f"  host      {name:<12} {address}" for name, address in description.hosts.items()),
        *(f"  workload  {name:<12} {place}" for name, place in description.workloads.items()),
        *(f"  process   {name:<16} {pid}" for name, pid in description.processes.items()),
    ]


#: What the guide runs in a lab, and no lab needs.
_PACKAGES = {"ping": "iputils-ping"}


async def run_exec(args: argparse.Namespace, _: object) -> int:
    """Become the command, inside the namespace."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise Usage("Say which command to run: hopwall lab exec h1 -- ip route.")
    if shutil.which(command[0]) is None:
        where = f": apt-get install {_PACKAGES[command[0]]}" if command[0] in _PACKAGES else "."
        raise Failure(f"There is no command {command[0]} on this machine{where}")
    if not (ROOT / args.name).is_dir():
        raise Failure(f"lab {args.name} does not run.")
    candidates = (
        topo.host_namespace(args.name, args.place),
        topo.workload_namespace(args.name, args.place),
    )
    present = netns.present(topo.prefix(args.name))
    for namespace in candidates:
        if namespace in present:
            argv = netns.inside(namespace, command)
            process = await asyncio.create_subprocess_exec(*argv)
            return await process.wait()
    raise Failure(f"lab {args.name} has no host and no workload {args.place}.")
