"""`hopwall pki`: a secured set-up in one command, and its hosts as they come and go."""

import argparse
import sys
from pathlib import Path

from hopwall_cli.pki.folder import DEFAULT, PkiFolder

_RELOAD = (
    "nats-server learns of it when it reads its configuration again: systemctl reload hopwall-nats, or"
    " docker compose kill -s HUP nats."
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its parts."""
    parser = commands.add_parser(
        "pki", help="keys, certificates and permissions of a secured set-up"
    )
    parts = parser.add_subparsers(
        dest="part", required=True, metavar="init|issue|revoke|renew|show"
    )
    init = parts.add_parser("init", help="make all of it: authority, servers, users, admin's token")
    init.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="also for this host"
    )
    init.add_argument(
        "--service-uid",
        type=int,
        metavar="UID",
        help="the user that api and calc run as (compose: 65532)",
    )
    init.add_argument(
        "--mutual-tls", action="store_true", help="clients of NATS show a certificate too"
    )
    init.set_defaults(run=run_init)
    issue = parts.add_parser("issue", help="give hosts a credential; an earlier one ends")
    issue.set_defaults(run=run_issue)
    revoke = parts.add_parser("revoke", help="take the credential of hosts away")
    revoke.set_defaults(run=run_revoke)
    for part in (issue, revoke):
        part.add_argument("hosts", nargs="+", metavar="HOST")
    renew = parts.add_parser("renew", help="make the servers' certificates anew")
    renew.set_defaults(run=run_renew)
    for part in (init, renew):
        part.add_argument(
            "--name", action="append", default=[], help="a DNS name of NATS or the API; repeat"
        )
        part.add_argument(
            "--address",
            action="append",
            default=[],
            help="an IP address of NATS or the API; repeat",
        )
    show = parts.add_parser("show", help="show who has a credential")
    show.set_defaults(run=run_show)
    for part in (init, issue, revoke, renew, show):
        part.add_argument("--folder", type=Path, default=DEFAULT, help=f"default {DEFAULT}")


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


async def run_init(args: argparse.Namespace, _: object) -> int:
    """Make the folder."""
    folder = PkiFolder(args.folder)
    folder.make(
        hosts=args.host,
        names=args.name,
        addresses=args.address,
        mutual=args.mutual_tls,
        service_uid=args.service_uid,
    )
    say(f"{folder.path} holds the set-up: a folder for each process, and the authority's key.")
    say(f"the admin's token is in {folder.path}/admin/token:")
    say(
        f"  hopwall --server https://… --ca {folder.path}/ca.crt --token-file {folder.path}/admin/token hosts"
    )
    return 0


async def run_issue(args: argparse.Namespace, _: object) -> int:
    """Give hosts credentials."""
    folder = PkiFolder(args.folder)
    folder.issue(args.hosts)
    for host in args.hosts:
        say(f"host {host}: {folder.path}/hosts/{host}")
    say(_RELOAD)
    return 0


async def run_revoke(args: argparse.Namespace, _: object) -> int:
    """Take credentials away."""
    PkiFolder(args.folder).revoke(args.hosts)
    say(f"{', '.join(args.hosts)}: no credential any more. {_RELOAD}")
    return 0


async def run_renew(args: argparse.Namespace, _: object) -> int:
    """Renew the servers' certificates."""
    folder = PkiFolder(args.folder)
    folder.renew(names=args.name, addresses=args.address)
    say(f"{folder.path}: the certificates are new; the API reads them by itself. {_RELOAD}")
    return 0


async def run_show(args: argparse.Namespace, _: object) -> int:
    """Show the users."""
    folder = PkiFolder(args.folder)
    for user in folder.users():
        say(f"{user.role:<8} {user.host:<20} {folder.folder_of(user)}")
    return 0
