"""`hopwall rules`: the rules in a host's kernel and how often each was met; what a log line stands for."""

import argparse
import json
import re
import sys
from typing import Any
from urllib.parse import quote

from hopwall_cli import table
from hopwall_cli.client import Client
from hopwall_cli.errors import Failure, Usage

HEADING = ("IDENTITY", "TIER", "POLICY", "PLACE", "DIRECTION", "ACTION", "PACKETS", "BYTES")

_IDENTITY = re.compile(r"[a-z2-7]{10}")
#: A log prefix or a line's comment, wherever it stands in the text: its identity is the last part but ":also".
_BORNE = re.compile(r"hw:[A-Za-z0-9_:-]*?:([a-z2-7]{10})(?::also)?(?![A-Za-z0-9_:-])")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("rules", help="show a host's rules, their counters, log lines")
    parser.add_argument("host")
    parser.add_argument(
        "identities",
        nargs="*",
        metavar="IDENTITY",
        help="an identity, a whole log prefix (hw:i:deny:…), or a log line with one in it",
    )
    parser.add_argument("--policy", default="", help="gnp/name, np/namespace/name, profile/name")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def identity_in(text: str) -> str:
    """Return the identity that a pasted text is or bears.

    Errors: Usage.
    """
    if _IDENTITY.fullmatch(text):
        return text
    borne = _BORNE.findall(text)
    if not borne:
        raise Usage(
            f"{text[:100]!r} has no identity in it: it is ten of a-z and 2-7, the last part of hw:i:deny:…"
        )
    return str(borne[-1])


async def run(args: argparse.Namespace, client: Client) -> int:
    """Print a line per rule, policies first, then the default denials.

    Errors: Failure when the host has none of what was asked for.
    """
    identities = [identity_in(text) for text in args.identities]
    params = {"policy": args.policy, "identity": ",".join(identities)}
    answer = await client.request(
        "GET",
        f"/v1/hosts/{quote(args.host, safe='')}/rules",
        params={name: value for name, value in params.items() if value},
    )
    items = answer.get("items", [])
    if args.output == "json":
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    elif items:
        sys.stdout.write(table.render(HEADING, [row_of(item) for item in items]) + "\n")
        for line in refusals_of(args.host, items):
            sys.stdout.write(line + "\n")
    absent = [one for one in identities if one not in {item["identity"] for item in items}]
    if absent:
        raise Failure(
            f"Host {args.host} has no rule {', '.join(absent)} now: it has changed or gone since, or is "
            "another host's."
        )
    if not items:
        raise Failure(f"Host {args.host} has no such rules: does it use policy {args.policy}?")
    return 0


def row_of(item: dict[str, Any]) -> list[str]:
    """Return a rule's cells."""
    names = ("identity", "tier", "policy", "place", "direction", "action")
    cells = [table.text_of(item.get(name)) for name in names]
    return [*cells, str(item.get("packets")), str(item.get("bytes"))]


def refusals_of(host: str, items: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each rule whose chain the kernel refused."""
    return [
        f"{host} refuses {item.get('policy')}, {item['place']}: {item['refused']}"
        for item in items
        if item.get("refused")
    ]
