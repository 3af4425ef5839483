"""`hopwall cleanup`: remove everything of ours from this host's kernel, and nothing else."""

import argparse
import asyncio
import sys


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("cleanup", help="remove all of ours from this host's kernel")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, _: object) -> int:
    """Let the dataplane, which knows what is ours, do it."""
    argv = [sys.executable, "-m", "hopwall_dataplane", "--cleanup"]
    if args.dry_run:
        argv.append("--dry-run")
    process = await asyncio.create_subprocess_exec(*argv)
    return min(await process.wait(), 1)
