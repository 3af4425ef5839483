"""`hopwall hosts`: which host enforces what, and who is behind; what a host holds back, released."""

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from hopwall_cli import table
from hopwall_cli.client import Client
from hopwall_cli.errors import Usage

HEADING = ("HOST", "STATE", "REVISION", "BEHIND", "REFUSED", "WAITING", "DRIFT", "AT", "VERSION")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("hosts", help="show which host enforces what")
    parser.add_argument(
        "action", nargs="?", choices=("release",), help="let HOST obey the snapshot it holds back"
    )
    parser.add_argument("host", nargs="?", default="")
    parser.add_argument("--epoch", default="", help="release only a snapshot of this epoch")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Print a line per host, and what a host refuses or waits for below it."""
    if args.action:
        return await _release(args.host, args.epoch, client)
    answer = await client.request("GET", "/v1/hosts")
    hosts = answer.get("items", [])
    if args.output == "json":
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    elif not hosts:
        sys.stdout.write("No host has reported yet.\n")
    else:
        sys.stdout.write(table.render(HEADING, [row_of(host) for host in hosts]) + "\n")
        for host in hosts:
            for line in notes_of(host):
                sys.stdout.write(line + "\n")
    return 0


async def _release(host: str, epoch: str, client: Client) -> int:
    if not host:
        raise Usage("Name the host: hopwall hosts release HOST.")
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
        table.text_of(host.get("at")),
        table.text_of(host.get("version")),
    ]


def notes_of(host: dict[str, Any]) -> list[str]:
    """Return a sentence for each object that a host refuses or waits for."""
    name = host.get("host", "")
    refused = [f"{name} refuses {r['object']}: {r['reason']}" for r in host.get("refused", [])]
    waiting = [f"{name} waits for {w['endpoint']}: {w['reason']}" for w in host.get("waiting", [])]
    return _life_notes(name, host) + refused + waiting


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
    if host.get("notKept"):
        notes.append(f"{name}: {host['notKept']}")
    return notes
