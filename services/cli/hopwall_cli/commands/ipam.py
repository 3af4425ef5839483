"""`hopwall ipam`: addresses of pools: assign, release, and see who has what."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from hopwall_cli import table
from hopwall_cli.client import Client
from hopwall_cli.errors import Usage

Json = dict[str, Any]

BLOCKS = ("CIDR", "HOST", "POOL", "ASSIGNED", "OF", "BORROWED", "RESTING")
ADDRESSES = ("ADDRESS", "HANDLE", "NODE", "BLOCK", "HOST", "POOL", "ENDPOINTS")
FAULTS = ("WHAT", "ABOUT", "DETAIL")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser("ipam", help="assign and release addresses; show who has them")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    assign = verbs.add_parser("assign", help="give a handle the addresses it lacks")
    assign.add_argument("handle", help="who shall have them: the id of a workload")
    assign.add_argument("--host", required=True)
    assign.add_argument("-4", dest="v4", type=int, default=0, metavar="N", help="IPv4 in all")
    assign.add_argument("-6", dest="v6", type=int, default=0, metavar="N", help="IPv6 in all")
    assign.add_argument("--address", action="append", default=[], help="exactly this one")
    assign.add_argument("--pool", action="append", default=[], help="from this pool")
    assign.add_argument("-n", "--namespace", default="")
    release = verbs.add_parser("release", help="take addresses back, or the blocks of a host")
    release.add_argument("addresses", nargs="*", metavar="ADDRESS")
    release.add_argument("--handle", default="", help="all of this handle, or only its own")
    release.add_argument("--host", default="", help="the blocks of this host, which is gone")
    release.add_argument(
        "--force",
        action="store_true",
        help="also of a host that is declared, has endpoints or speaks",
    )
    show = verbs.add_parser("show", help="who has an address, or what a handle has")
    show.add_argument("what", metavar="ADDRESS|HANDLE")
    blocks = verbs.add_parser("blocks", help="the blocks and how full they are")
    blocks.add_argument("--host", default="")
    check = verbs.add_parser("check", help="what does not fit; exit code 1 when something does not")
    for verb, run in (
        (assign, _assign),
        (release, _release),
        (show, _show),
        (blocks, _blocks),
        (check, _check),
    ):
        verb.add_argument("-o", "--output", choices=("table", "json"), default="table")
        verb.add_argument("--server", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        verb.set_defaults(run=run)


async def _assign(args: argparse.Namespace, client: Client) -> int:
    n4 = args.v4 or int(not (args.v6 or args.address))
    wanted: Json = {"handle": args.handle, "node": args.host, "v4": n4, "v6": args.v6}
    wanted |= {"addresses": args.address, "pools": args.pool}
    if args.namespace:
        wanted["namespace"] = args.namespace
    answer = await client.request("POST", "/v1/ipam/assign", body=wanted)
    return _print(args, answer, ADDRESSES, map(address_row, answer["addresses"]))


async def _release(args: argparse.Namespace, client: Client) -> int:
    if bool(args.host) == bool(args.handle or args.addresses):
        raise Usage("Say what to release: addresses, --handle, or --host.")
    if args.force and not args.host:
        raise Usage("--force goes with --host.")
    wanted: Json = {"addresses": args.addresses, "handle": args.handle, "node": args.host}
    if args.force:
        wanted["force"] = True
    answer = await client.request("POST", "/v1/ipam/release", body=wanted)
    if args.output == "json":
        return _print(args, answer, (), ())
    lines = [f"{address} released" for address in answer["released"]]
    lines += [f"{address} was not assigned" for address in answer["notAssigned"]]
    lines += [f"{cidr} is no block of {args.host} any more" for cidr in answer["blocks"]]
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "There was nothing to release.\n")
    return 0


async def _show(args: argparse.Namespace, client: Client) -> int:
    what = quote(args.what, safe="")
    if is_address(args.what):
        answer = await client.request("GET", f"/v1/ipam/addresses/{what}")
        return _print(args, answer, ADDRESSES, [address_row(answer)])
    answer = await client.request("GET", f"/v1/ipam/handles/{what}")
    return _print(args, answer, ADDRESSES, map(address_row, answer["addresses"]))


async def _blocks(args: argparse.Namespace, client: Client) -> int:
    params = {"node": args.host} if args.host else {}
    answer = await client.request("GET", "/v1/ipam/blocks", params=params)
    return _print(args, answer, BLOCKS, map(block_row, answer["items"]))


async def _check(args: argparse.Namespace, client: Client) -> int:
    answer = await client.request("GET", "/v1/ipam/check")
    rows = [[fault["what"], fault["about"], fault["detail"]] for fault in answer["faults"]]
    _print(args, answer, FAULTS, rows, cut=False)
    n = sum(answer["counts"].values())
    if args.output == "table":
        blocks, assigned = answer["nBlocks"], answer["nAssigned"]
        sys.stdout.write(f"{assigned} addresses in {blocks} blocks; {n} things do not fit.\n")
    return 1 if n else 0


def is_address(text: str) -> bool:
    """Tell an address from a handle: handles may have colons and dots, but not be an address."""
    digits = text.replace(".", "")
    return text.count(":") >= 2 or (digits.isdigit() and text.count(".") == 3)


def address_row(one: Json) -> list[str]:
    """Return an address's cells."""
    host = table.text_of(one.get("host"))
    cells = [one.get(name) for name in ("address", "handle", "node", "block")]
    return [
        *map(table.text_of, cells),
        f"{host} (borrowed)" if one.get("borrowed") else host,
        table.text_of(one.get("pool")),
        table.text_of(one.get("endpoints")),
    ]


def block_row(one: Json) -> list[str]:
    """Return a block's cells."""
    names = ("cidr", "host", "pool", "nAssigned", "nAddresses", "nBorrowed", "nResting")
    cells = [table.text_of(one.get(name)) for name in names]
    if one.get("unreadable"):
        # Nobody knows whose it is, nor how full.
        return [cells[0], "(cannot be read)", cells[2], "?", cells[4], "?", "?"]
    return cells


def _print(
    args: argparse.Namespace,
    answer: Json,
    heading: Sequence[str],
    rows: Any,
    *,
    cut: bool = True,
) -> int:
    if args.output == "json":
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return 0
    shown = list(rows)
    sys.stdout.write((table.render(heading, shown, cut=cut) if shown else "There are none.") + "\n")
    return 0
