"""`hopwall apply`: write the resources of files, all of them or none."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from hopwall_cli import documents
from hopwall_cli.client import Client, Problem
from hopwall_cli.commands.waiting import add_wait, report
from hopwall_cli.documents import Document
from hopwall_cli.errors import Failure


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("apply", help="write resources from YAML or JSON, all or none")
    parser.add_argument(
        "-f",
        "--filename",
        dest="files",
        action="append",
        required=True,
        metavar="FILE|FOLDER|-",
        help="a file, a folder (*.yaml *.yml *.json, sorted) or - for standard input",
    )
    parser.add_argument("--dry-run", action="store_true", help="check only; nothing is stored")
    add_wait(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Send one call with all resources and print what became of each."""
    found = documents.read(args.files)
    try:
        answer = await client.apply(
            [document.value for document in found],
            wait=args.wait,
            timeout_s=args.timeout,
            dry_run=args.dry_run,
        )
    except Problem as problem:
        raise Failure("\n".join(explain(problem, found))) from problem
    for line in result_lines(answer, dry_run=args.dry_run):
        sys.stdout.write(line + "\n")
    return report(answer, args.wait)


def explain(problem: Problem, found: Sequence[Document]) -> list[str]:
    """Return one line per fault, with file, document and field."""
    lines = []
    for error in problem.errors:
        pointer, reason = str(error.get("pointer", "")), str(error.get("reason", ""))
        parts = pointer.lstrip("#").split("/")
        place, rest = "", parts
        if len(parts) > 2 and parts[1] == "items" and parts[2].isdigit():
            index = int(parts[2])
            place = found[index].where if index < len(found) else f"resource {index + 1}"
            rest = ["", *parts[3:]]
        field = ".".join(part.replace("~1", "/").replace("~0", "~") for part in rest[1:])
        lines.append(": ".join(part for part in (place, field, reason) if part))
    return lines or [str(problem)]


def result_lines(answer: dict[str, Any], *, dry_run: bool) -> list[str]:
    """Return a line for every resource: its name and what was done."""
    suffix = " (dry run)" if dry_run else ""
    lines = []
    for item in answer.get("items", []):
        namespace = item.get("namespace")
        place = f"{namespace}/{item.get('name')}" if namespace else str(item.get("name"))
        lines.append(f"{item.get('kind')} {place} {item.get('result')}{suffix}")
    return lines
