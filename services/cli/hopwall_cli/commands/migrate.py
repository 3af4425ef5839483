"""`hopwall migrate`: say that a workload has arrived at the target of its live migration."""

import argparse
import sys

from hopwall_cli.client import Client, path_of
from hopwall_cli.commands.waiting import add_wait, report
from hopwall_model.resource_names import DEFAULT_NAMESPACE
from hopwall_model.resources import LiveMigration


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its verb."""
    parser = commands.add_parser("migrate", help="switch a live migration")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    switch = verbs.add_parser("switch", help="the workload runs at the target now")
    switch.add_argument("name", help="of the LiveMigration")
    switch.add_argument("-n", "--namespace", default=DEFAULT_NAMESPACE)
    switch.add_argument("--server", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_wait(switch)
    switch.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Switch, and wait as far as told."""
    place = path_of(LiveMigration, namespace=args.namespace, name=args.name)
    params = {"wait": args.wait, "timeout": f"{args.timeout:g}s"} if args.wait else {}
    answer = await client.request(
        "POST", f"{place}/switch", params=params, timeout_s=args.timeout + 30.0
    )
    sys.stdout.write(f"LiveMigration {args.namespace}/{args.name} switched\n")
    return report(answer, args.wait)
