"""`hopwall get`: show resources, once or as they change."""

import argparse
import sys

from hopwall_cli import table
from hopwall_cli.client import Client, Json, path_of
from hopwall_cli.errors import Usage
from hopwall_cli.kinds import kind_named
from hopwall_model import staleness
from hopwall_model.resource_names import DEFAULT_NAMESPACE
from hopwall_model.resources import Resource

FORMS = ("table", "wide", "yaml", "json", "name")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("get", help="show resources")
    parser.add_argument("kind", help="plural, singular or short: workloadendpoints, gnp, node …")
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("-n", "--namespace", default="")
    parser.add_argument("-A", "--all-namespaces", action="store_true")
    parser.add_argument("-l", "--selector", default="", help="a selector: customer == 'a'")
    parser.add_argument("-o", "--output", choices=FORMS, default="table")
    parser.add_argument("-w", "--watch", action="store_true", help="go on as they change")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Show one resource, a list, or a stream of changes."""
    kind = kind_named(args.kind)
    namespace = namespace_of(args, kind)
    if args.watch:
        if args.name or args.output not in ("table", "wide"):
            raise Usage("--watch goes with a kind alone, as a table.")
        return await _watch(args, client, kind, namespace)
    if args.name:
        item = await client.request("GET", path_of(kind, namespace=namespace, name=args.name))
        items = [item]
    else:
        listed = await client.list(kind, namespace=namespace, selector=args.selector)
        items = listed["items"]
    sys.stdout.write(table.show(kind, items, form=args.output, single=bool(args.name)) + "\n")
    return 0


def namespace_of(args: argparse.Namespace, kind: type[Resource]) -> str:
    """Return the namespace to look in: "" for all of them, and for global kinds.

    Errors: Usage when the flags contradict each other or the kind.
    """
    if args.all_namespaces and (args.namespace or args.name):
        raise Usage("--all-namespaces goes neither with --namespace nor with a name.")
    if not kind.NAMESPACED:
        if args.namespace:
            raise Usage(f"{kind.__name__} is in no namespace; leave --namespace out.")
        return ""
    return "" if args.all_namespaces else args.namespace or DEFAULT_NAMESPACE


async def _watch(
    args: argparse.Namespace, client: Client, kind: type[Resource], namespace: str
) -> int:
    wide = args.output == "wide"
    heading = ["EVENT", "REVISION", *(name for name, _ in table.columns_of(kind, wide=wide))]
    sys.stdout.write("   ".join(heading) + "\n")
    async for event, revision, data in client.watch(
        kind, namespace=namespace, selector=args.selector
    ):
        if event in (staleness.STALE, staleness.FRESH):
            sys.stderr.write(f"hopwall: {_age(event, data)}\n")
        if event not in ("set", "removed"):
            continue
        known = revision or data["metadata"].get("resourceVersion", "")
        cells = table.row_of(kind, data, wide=wide)
        sys.stdout.write("   ".join([event.ljust(7), known, *cells]) + "\n")
        sys.stdout.flush()
    return 0


def _age(event: str, data: Json) -> str:
    if event == staleness.FRESH:
        return "the API hears NATS again: all that was written is shown."
    return f"the API has not heard NATS for {data.get('seconds', 0)} s: what is shown may be old."
