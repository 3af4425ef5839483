"""`hopwall delete`: remove resources by name, or those of files."""

import argparse
import sys

from hopwall_cli import documents
from hopwall_cli.client import Client, Problem
from hopwall_cli.commands.waiting import add_wait, report
from hopwall_cli.errors import Failure, Usage
from hopwall_cli.kinds import kind_named
from hopwall_model.resource_names import DEFAULT_NAMESPACE
from hopwall_model.resources import KINDS, Resource

_NOT_FOUND = 404


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("delete", help="remove resources")
    parser.add_argument("kind", nargs="?", default="")
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("-f", "--filename", dest="files", action="append", default=[])
    parser.add_argument("-n", "--namespace", default="")
    parser.add_argument("--ignore-not-found", action="store_true")
    add_wait(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Remove one after the other, what refers to others first; go on after a failure."""
    faults: list[str] = []
    code = 0
    for kind, namespace, name in _targets(args):
        try:
            answer = await client.delete(
                kind, namespace=namespace, name=name, wait=args.wait, timeout_s=args.timeout
            )
        except Problem as problem:
            if problem.status != _NOT_FOUND or not args.ignore_not_found:
                faults.append(str(problem))
            continue
        place = f"{namespace}/{name}" if namespace else name
        sys.stdout.write(f"{kind.__name__} {place} removed\n")
        code = max(code, report(answer, args.wait))
    if faults:
        raise Failure("\n".join(faults))
    return code


def _targets(args: argparse.Namespace) -> list[tuple[type[Resource], str, str]]:
    if bool(args.files) == bool(args.kind):
        raise Usage("Say what to delete: a kind and names, or -f and a file.")
    if args.kind:
        kind = kind_named(args.kind)
        if not args.names:
            raise Usage(f"Say which {kind.PLURAL} to delete.")
        return [(kind, _namespace(kind, args.namespace), name) for name in args.names]
    found = []
    for document in documents.read(args.files):
        metadata = document.value.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise Failure(f"{document.where}: metadata.name is missing.")
        kind = kind_named(str(document.value.get("kind", "")))
        namespace = _namespace(kind, str(metadata.get("namespace") or args.namespace))
        found.append((kind, namespace, str(metadata["name"])))
    return sorted(found, key=lambda target: -KINDS.index(target[0]))


def _namespace(kind: type[Resource], namespace: str) -> str:
    return (namespace or DEFAULT_NAMESPACE) if kind.NAMESPACED else ""
