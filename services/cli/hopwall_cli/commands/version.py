"""`hopwall version`: the version of this command, and of the API where one answers."""

import argparse
import sys
from importlib.metadata import version

from hopwall_cli.client import Client, ClientError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    commands.add_parser("version", help="show versions").set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Print both versions; an API that is not there is no failure."""
    sys.stdout.write(f"hopwall {version('hopwall')}\n")
    try:
        answer = await client.request("GET", "/version", timeout_s=3.0)
        sys.stdout.write(f"api {answer.get('version', 'unknown')} at {args.server}\n")
    except ClientError:
        sys.stdout.write(f"api: none at {args.server}\n")
    return 0
