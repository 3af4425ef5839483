"""`hopwall hosts`: which host enforces what, and who is behind."""

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from hopwall_cli import table
from hopwall_cli.client import Client

HEADING = (
    "HOST",
    "STATE",
    "REVISION",
    "BEHIND",
    "REFUSED",
    "WAITING",
    "DRIFT",
    "BGP",
    "AT",
    "VERSION",
)

SESSIONS = ("SESSION", "STATE", "IMPORTED", "FILTERED", "EXPORTED", "SINCE", "LAST ERROR")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("hosts", help="show which host enforces what")
    parser.add_argument("host", nargs="?", metavar="HOST", help="its BGP sessions too")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Print a line per host, and what a host refuses or waits for below it."""
    answer = await client.request(
        "GET", "/v1/hosts" + (f"/{quote(args.host)}" if args.host else "")
    )
    hosts = [answer] if args.host else answer.get("items", [])
    if args.output == "json":
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    elif not hosts:
        sys.stdout.write("No host has reported yet.\n")
    else:
        sys.stdout.write(table.render(HEADING, [row_of(host) for host in hosts]) + "\n")
        for host in hosts:
            for line in notes_of(host):
                sys.stdout.write(line + "\n")
            if sessions := host.get("bgp", {}).get("sessions", []):
                rows = [session_row(one) for one in sessions]
                sys.stdout.write("\n" + table.render(SESSIONS, rows) + "\n")
    return 0


def bgp_of(host: dict[str, Any]) -> str:
    """Return how many sessions are up, of how many; "-" where the host has no part in BGP."""
    bgp = host.get("bgp")
    if bgp is None:
        return "-"
    count = f"{bgp.get('nEstablished', 0)}/{bgp.get('nSessions', 0)}"
    return count if bgp.get("inSync") else f"{count}, not in sync"


def session_row(one: dict[str, Any]) -> list[str]:
    """Return a session's cells."""
    numbers = [str(one.get(what, 0)) for what in ("imported", "filtered", "exported")]
    words = [table.text_of(one.get(what)) for what in ("since", "lastError")]
    return [str(one.get("name", "-")), str(one.get("state", "-")), *numbers, *words]


def row_of(host: dict[str, Any]) -> list[str]:
    """Return a host's cells."""
    if not host.get("reported"):
        return [str(host.get("host", "-")), "never reported", *(["-"] * (len(HEADING) - 2))]
    state = "in sync" if host.get("inSync") else "not in sync"
    if host.get("silentS") is not None:
        state = f"silent {host['silentS']} s"
    return [
        str(host.get("host", "-")),
        state,
        table.text_of(host.get("revision")),
        table.text_of(host.get("lag")),
        str(len(host.get("refused", []))),
        str(len(host.get("waiting", []))),
        str(host.get("driftRepaired", 0)),
        bgp_of(host),
        table.text_of(host.get("at")),
        table.text_of(host.get("version")),
    ]


def notes_of(host: dict[str, Any]) -> list[str]:
    """Return a sentence for each object that a host refuses or waits for."""
    name = host.get("host", "")
    refused = [f"{name} refuses {r['object']}: {r['reason']}" for r in host.get("refused", [])]
    waiting = [f"{name} waits for {w['endpoint']}: {w['reason']}" for w in host.get("waiting", [])]
    bgp = host.get("bgp", {}).get("reason", "")
    return refused + waiting + ([f"{name}, BGP: {bgp}"] if bgp else [])
