"""The `hopwall` command: flags to subcommands, faults to one sentence and an exit code.

Exit codes: 0 done; 1 not done (the reason is on standard error); 2 called in a wrong way.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from hopwall_cli.client import DEFAULT_SERVER, Client, ClientError, read_token
from hopwall_cli.commands import (
    apply,
    backup,
    cleanup,
    delete,
    get,
    hosts,
    ipam,
    lab,
    migrate,
    pki,
    restore,
    rules,
    token,
    up,
    version,
)
from hopwall_cli.errors import Failure, Usage
from hopwall_cli.lab.topology import LabError

COMMANDS = (
    apply,
    get,
    delete,
    hosts,
    rules,
    ipam,
    migrate,
    backup,
    restore,
    up,
    cleanup,
    lab,
    pki,
    token,
    version,
)

#: Those that ask no API themselves: what is said of one, perhaps in the environment, need not be there yet.
LOCAL = frozenset({"up", "cleanup", "lab", "pki", "token"})

Run = Callable[[argparse.Namespace, Client], Awaitable[int]]


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    whole = argparse.ArgumentParser(
        prog="hopwall",
        description="A plain routed IP address and a firewall at both ends of every flow.",
        allow_abbrev=False,
    )
    server = os.environ.get("HOPWALL_SERVER", DEFAULT_SERVER)
    text = f"the REST API, http://… or unix:///path (env HOPWALL_SERVER; now {server})"
    whole.add_argument("--server", default=server, metavar="URL", help=text)
    whole.add_argument(
        "--token-file",
        default=os.environ.get("HOPWALL_TOKEN_FILE", ""),
        metavar="FILE",
        help="a file with the token for the API (env HOPWALL_TOKEN_FILE)",
    )
    whole.add_argument(
        "--ca",
        default=os.environ.get("HOPWALL_CA", ""),
        metavar="FILE",
        help="who signed the certificate of https://… (env HOPWALL_CA)",
    )
    whole.add_argument(
        "--cert",
        default=os.environ.get("HOPWALL_CERT", ""),
        metavar="FILE",
        help="a certificate of your own and its key, where the API wants one (env HOPWALL_CERT)",
    )
    commands = whole.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for command_parser in commands.choices.values():
        for flag in ("--server", "--token-file", "--ca", "--cert"):
            command_parser.add_argument(
                flag, default=argparse.SUPPRESS, metavar="X", help=argparse.SUPPRESS
            )
    return whole


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says; names may also come after the flags, as in kubectl.

    Errors: SystemExit 2 with usage.
    """
    whole = parser()
    args, late = whole.parse_known_args(argv)
    names = [word for word in late if not word.startswith("-")]
    if names == late and args.subcommand == "get" and not args.name and len(late) <= 1:
        args.name = "".join(late)
    elif names == late and args.subcommand == "lab" and args.part == "join" and len(late) == 1:
        (args.host,) = late
    elif names == late and args.subcommand == "delete":
        args.names += late
    elif names == late and args.subcommand == "rules":
        args.identities += late
    elif late:
        whole.error(f"unrecognized arguments: {' '.join(late)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parse(argv)
    try:
        return asyncio.run(_run(args.run, args))
    except Usage as fault:
        return _say(fault, 2)
    except (Failure, ClientError, LabError) as fault:
        return _say(fault, 1)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python must not write to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _say(fault: Exception, code: int) -> int:
    for line in str(fault).splitlines():
        sys.stderr.write(f"hopwall: {line}\n")
    return code


async def _run(run: Run, args: argparse.Namespace) -> int:
    if args.subcommand in LOCAL:
        client = Client()
    else:
        client = Client(args.server, token=read_token(args.token_file), ca=args.ca, cert=args.cert)
    try:
        return await run(args, client)
    finally:
        if client.stale_s:
            sys.stderr.write(
                f"hopwall: the API has not heard NATS for {client.stale_s} s: what it shows may be old.\n"
            )
        await client.close()


if __name__ == "__main__":
    raise SystemExit(main())
