"""`hopwall up`: all of it on this one host, supervised. Ending it leaves the kernel as it is."""

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hopwall_cli.client import Client, ClientError
from hopwall_cli.errors import Failure
from hopwall_cli.interrupt import until_interrupted
from hopwall_cli.nats_server import NatsServerError, StuckStore
from hopwall_cli.nats_server import command as nats_command
from hopwall_cli.pki.folder import PkiFolder
from hopwall_cli.supervisor import Child, ChildRefused
from hopwall_model.permissions import User
from hopwall_model.topics import Role

#: tool → the Debian package it comes in.
TOOLS = {
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "iptables-save": "iptables",
    "ip6tables-restore": "iptables",
}
STORE_LOOK_S = 5.0
_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("up", help="run everything on this host")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="where the REST API listens")
    parser.add_argument("--nats-listen", default="127.0.0.1:4222")
    parser.add_argument("--state-dir", type=Path, default=Path("/var/lib/hopwall"))
    parser.add_argument("--host", default=socket.gethostname(), help="this host's name")
    parser.add_argument("--interface-prefixes", default="tap,cali")
    parser.add_argument("--backend", choices=("auto", "nft", "legacy"), default="auto")
    parser.add_argument("--log-level", default="info")
    parser.add_argument(
        "--pki",
        type=Path,
        metavar="FOLDER",
        help="with TLS, tokens and permissions: a folder that `hopwall pki init` made",
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, _: object) -> int:
    """Run until Ctrl-C or SIGTERM; 0 then, 1 when something cannot run."""
    _check(args)
    with _only_one(args.state_dir):
        await until_interrupted(_keep(args))
    say("ended; the kernel stays as it is.")
    return 0


async def _keep(args: argparse.Namespace) -> None:
    stuck = StuckStore()
    nats, *services = children_of(args, stuck)
    try:
        async with asyncio.TaskGroup() as outer:
            server = outer.create_task(nats.keep(), name=nats.name)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for child in services:
                        tasks.create_task(child.keep(), name=child.name)
                    tasks.create_task(_announce(args), name="announce")
                    tasks.create_task(_watch_store(args, nats, stuck), name="store")
            finally:
                server.cancel()  # last: the others still have something to say to it
    except* (ChildRefused, ClientError) as group:
        raise Failure(str(_first(group))) from group


def _first(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def say(text: str) -> None:
    """Print a line of our own or of a child."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def children_of(args: argparse.Namespace, stuck: StuckStore) -> list[Child]:
    """Return the four processes; what nats says is also looked at for a store that is stuck.

    Errors: Failure when the embedded NATS server is not installed.
    """
    pki = PkiFolder(args.pki) if args.pki is not None else None
    users = {
        "api": User(Role.API),
        "calc": User(Role.CALC),
        "dataplane": User(Role.HOST, args.host),
    }
    monitor = f"127.0.0.1:{_free_port()}"
    try:
        security = pki.security_conf if pki is not None else None
        folder = args.state_dir / "nats"
        nats = nats_command(listen=args.nats_listen, folder=folder, http=monitor, security=security)
    except NatsServerError as error:
        raise Failure(str(error)) from error
    common = ["--nats-url", f"nats://{args.nats_listen}", "--log-level", args.log_level]
    dataplane = ["--host", args.host, "--interface-prefixes", args.interface_prefixes]
    dataplane += ["--backend", args.backend, "--state-dir", str(args.state_dir.absolute())]
    api = ["--listen", args.listen, "--nats-monitor-url", f"http://{monitor}"]
    flags = {"api": api, "calc": [], "dataplane": dataplane}
    if pki is not None:
        flags = {name: [*own, *pki.flags(users[name])] for name, own in flags.items()}
    services = [
        Child(name, [sys.executable, "-m", f"hopwall_{name}", *common, *own], say=say)
        for name, own in flags.items()
    ]

    def hear(text: str) -> None:
        stuck.hear(text)
        say(text)

    return [Child("nats", nats, say=hear, is_ours=False), *services]


def _free_port() -> int:
    """Return a port of loopback for nats-server's own page, where the api sees that it syncs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _watch_store(args: argparse.Namespace, nats: Child, said: StuckStore) -> None:
    """Restart the server when its disk was full and has room again: by itself it would refuse for ever."""
    while True:
        await asyncio.sleep(STORE_LOOK_S)
        free = shutil.disk_usage(args.state_dir).free
        if said.may_restart(free):
            say("the disk of nats has room again; it is started again, to take writes.")
            nats.signal(signal.SIGTERM)


async def _announce(args: argparse.Namespace) -> None:
    first = args.listen.split(",")[0]
    unix = first.startswith("unix:")
    scheme = "http" if args.pki is None else "https"
    server = f"unix://{first.removeprefix('unix:')}" if unix else f"{scheme}://{_own(first)}"
    client = Client(server, ca=str(args.pki / "ca.crt") if args.pki is not None else "")
    try:
        await client.ready(timeout_s=3600.0)
        say(f"ready: the REST API answers at {server}; this host is {args.host}.")
    finally:
        await client.close()


def _own(place: str) -> str:
    """Return where this machine itself reaches what listens at a place."""
    host, _, port = place.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else place  # noqa: S104


def _check_pki(args: argparse.Namespace) -> None:
    pki = PkiFolder(args.pki)
    if User(Role.HOST, args.host) not in pki.users():
        raise Failure(
            f"host {args.host} has no credential in {args.pki}:"
            f" `hopwall pki issue --folder {args.pki} {args.host}` makes one."
        )


def _check(args: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        raise Failure("hopwall up needs root: it programs this host's routes and iptables.")
    missing = {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if missing:
        tools, packages = ", ".join(missing), " ".join(sorted(set(missing.values())))
        raise Failure(f"{tools} is missing: install it with apt-get install {packages}.")
    if args.pki is not None:
        _check_pki(args)
    for place in args.listen.split(",") if args.pki is None else ():
        if not place.startswith(_LOOPBACK):
            raise Failure(
                f"--listen {place}: without --pki the API lets in whoever reaches it, so it listens on "
                "loopback or a unix socket only."
            )


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: the kernel drops it however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failure(f"hopwall up is running already with {folder}.") from error
        yield
    finally:
        os.close(lock)
