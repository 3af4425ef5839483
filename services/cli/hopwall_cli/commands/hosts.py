"""`hopwall hosts`: which host enforces what, and who is behind; what a host holds back, released."""

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from hopwall_cli import table
from hopwall_cli.client import Client
from hopwall_cli.errors import Usage

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
    parser.add_argument(
        "words",
        nargs="*",
        metavar="HOST",
        help="its BGP sessions too; release HOST: let it obey the snapshot it holds back",
    )
    parser.add_argument("--epoch", default="", help="release only a snapshot of this epoch")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Print a line per host, and what a host refuses or waits for below it."""
    verb, name = _words(args.words)
    if verb == "release":
        return await _release(name, args.epoch, client)
    answer = await client.request("GET", "/v1/hosts" + (f"/{quote(name, safe='')}" if name else ""))
    hosts = [answer] if name else answer.get("items", [])
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


def _words(words: list[str]) -> tuple[str, str]:
    """Return what is to be done ("" for showing), and the host, "" for all."""
    match words:
        case []:
            return "", ""
        case ["release"]:
            raise Usage("Name the host: hopwall hosts release HOST.")
        case [host]:
            return "", host
        case ["release", host]:
            return "release", host
    raise Usage("Say hopwall hosts, hopwall hosts HOST, or hopwall hosts release HOST.")


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


async def _release(host: str, epoch: str, client: Client) -> int:
    path = f"/v1/hosts/{quote(host, safe='')}/release"
    answer = await client.request("POST", path, params={"epoch": epoch} if epoch else None)
    held = answer["held"]
    sys.stdout.write(
        f"{host} obeys epoch {held['epoch']} now. It had held it back: {held['reason']}\n"
    )
    return 0


def row_of(host: dict[str, Any]) -> list[str]:
    """Return a host's cells."""
    if not host.get("reported"):
        return [str(host.get("host", "-")), "never reported", *(["-"] * (len(HEADING) - 2))]
    state = "in sync" if host.get("inSync") else "not in sync"
    if host.get("lastGood"):
        state = "last-good"
    if host.get("held"):
        state = "holds back"
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
    return _life_notes(name, host) + refused + waiting + ([f"{name}, BGP: {bgp}"] if bgp else [])


def _life_notes(name: str, host: dict[str, Any]) -> list[str]:
    """Return what a host says of the state it goes by."""
    notes = []
    if kept := host.get("lastGood"):
        notes.append(
            f"{name} enforces the last-good state of revision {kept['revision']} / epoch {kept['epoch']} "
            f"since {kept['since']}: calc has not been heard."
        )
    if held := host.get("held"):
        notes.append(
            f"{name} goes on with what it has. {held['reason']} Where that is right: "
            f"hopwall hosts release {name}"
        )
    reasons = (host.get("heldUp"), host.get("notKept"))
    return [*notes, *(f"{name}: {why}" for why in reasons if why)]
