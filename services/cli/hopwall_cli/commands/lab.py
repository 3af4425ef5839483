"""`hopwall lab`: hosts and workloads as network namespaces, for trying things out."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from hopwall_cli.errors import Failure, Usage
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.lab import build, netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import TOPOLOGIES, Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.run_folder import ROOT, Description, RunFolder

DEFAULT_NAME = "demo"
_END_S = 30.0


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its four parts."""
    parser = commands.add_parser("lab", help="hosts and workloads as network namespaces")
    parts = parser.add_subparsers(dest="part", required=True, metavar="up|down|status|exec")
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
    up.set_defaults(run=run_up)
    down = parts.add_parser("down", help="end a lab, also one that a crash left")
    down.set_defaults(run=run_down)
    status = parts.add_parser("status", help="show what runs")
    status.set_defaults(run=run_status)
    inside = parts.add_parser("exec", help="run a command in a host or a workload")
    inside.add_argument("place", metavar="HOST|WORKLOAD|fabric")
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- command …")
    inside.set_defaults(run=run_exec)
    for part in (up, down, status, inside):
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
        hosts=args.hosts,
        backend=args.backend,
        routing=routing_of(args),
        topology=topology,
        say=say,
    ) as lab:
        await lab.client.apply([topo.open_profile("open")])
        workloads = topo.spread(tuple(lab.hosts), args.workloads, profiles=("open",))
        if lab.routing == "bgp":
            # In blocks of their hosts, so that one route leads to a host, and not one to each workload.
            given = (lab.assign(w.name, w.host, profiles=w.profiles) for w in workloads)
            workloads = tuple(await asyncio.gather(*given))
        await lab.add(*workloads)
        await lab.declare()
        say(f"lab {lab.name} is up: {', '.join(lab.machines)}; {', '.join(lab.workloads)}.")
        say(f"  hopwall --server {lab.folder.server} get wep")
        where = f"--name {lab.name} " if lab.name != DEFAULT_NAME else ""
        say(f"  hopwall lab exec {where}{workloads[0].name} -- ping -c1 {workloads[-1].ipv4}")
        say("Ctrl-C ends it.")
        await asyncio.Event().wait()


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


async def run_exec(args: argparse.Namespace, _: object) -> int:
    """Become the command, inside the namespace."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise Usage("Say which command to run: hopwall lab exec h1 -- ip route.")
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
