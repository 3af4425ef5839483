"""`hopwall token`: who may use the REST API. Works on the list that the API reads, so it runs where that is."""

import argparse
import sys
from pathlib import Path

from hopwall_api.access.roles import Role
from hopwall_cli.pki import tokens
from hopwall_cli.pki.files import write_file
from hopwall_cli.pki.folder import DEFAULT
from hopwall_cli.table import render

_FILE = DEFAULT / "api" / "tokens.json"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its parts."""
    parser = commands.add_parser("token", help="tokens of the REST API")
    parts = parser.add_subparsers(dest="part", required=True, metavar="create|list|revoke")
    create = parts.add_parser("create", help="make a token; it is shown once")
    create.add_argument("name", help="recorded with every write")
    create.add_argument("--role", required=True, choices=[str(role) for role in Role])
    create.add_argument(
        "--namespace", action="append", default=[], help="only this namespace; repeat (default all)"
    )
    create.add_argument("--days", type=int, help="good for so long (default: until revoked)")
    create.add_argument("--out", type=Path, help="write it there, mode 0600, instead of showing it")
    create.set_defaults(run=run_create)
    listing = parts.add_parser("list", help="show the tokens; not their secrets, which nobody has")
    listing.set_defaults(run=run_list)
    revoke = parts.add_parser("revoke", help="end tokens, within a second")
    revoke.add_argument("which", nargs="+", metavar="NAME|ID")
    revoke.set_defaults(run=run_revoke)
    for part in (create, listing, revoke):
        part.add_argument("--file", type=Path, default=_FILE, help=f"default {_FILE}")


async def run_create(args: argparse.Namespace, _: object) -> int:
    """Make a token."""
    text = tokens.create(args.file, args.name, args.role, args.namespace, args.days)
    if args.out is None:
        sys.stdout.write(f"{text}\n")
    else:
        write_file(args.out, f"{text}\n".encode(), 0o600)
        sys.stdout.write(f"the token of {args.name} is in {args.out}.\n")
    return 0


async def run_list(args: argparse.Namespace, _: object) -> int:
    """Show the tokens."""
    rows = [
        (
            token.id,
            token.name,
            str(token.role),
            ",".join(token.namespaces) or "all",
            token.created_at[:10],
            token.expires_at[:10] or "never",
        )
        for token in tokens.listed(args.file)
    ]
    head = ("ID", "NAME", "ROLE", "NAMESPACES", "CREATED", "EXPIRES")
    sys.stdout.write(render(head, rows) + "\n")
    return 0


async def run_revoke(args: argparse.Namespace, _: object) -> int:
    """End tokens."""
    for token in tokens.revoke(args.file, args.which):
        sys.stdout.write(f"{token.id} of {token.name} is revoked.\n")
    return 0
