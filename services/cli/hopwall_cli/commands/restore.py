"""`hopwall restore`: make the store say what a backup says; what is the same already is not touched.

Hosts go on with what they enforce until the last of it is stored, and then take over the difference in one step.
A restore that broke off opens nothing; the same command goes on with it.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from hopwall_cli import backup_file
from hopwall_cli.backup_file import Backup, BackupError, Difference
from hopwall_cli.client import Client, Problem
from hopwall_cli.errors import Failure

#: What is to be said of a restore that stops half-way.
_BEGUN = (
    "The restore has begun and is not ended: hosts go on with what they have, and other writes are refused until it"
    " is. Say the same again; or restore another file with --instead, which gives this one up."
)
_TRIES = 30
_LOOKS = 50
_ROUNDS = 5


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("restore", help="make the store say what a backup says")
    parser.add_argument("file", help="a file of `hopwall backup`; - for standard input")
    parser.add_argument(
        "--replace", action="store_true", help="also when the store holds resources already"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--edited", action="store_true", help="the file was changed by hand")
    parser.add_argument(
        "--instead", action="store_true", help="give up another file's restore that broke off"
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace, client: Client) -> int:
    """Compare, say what is to be done, and do it."""
    wanted = _read(args.file, edited=args.edited)
    now = await _now(client)
    todo = backup_file.difference(now.resources, wanted.resources)
    sys.stdout.write(f"backup: {wanted.says}\nstore:  {now.says}\n")
    for line in backup_file.summary(todo):
        sys.stdout.write(line + "\n")
    if bad := backup_file.faults(todo):
        # Before it is begun: a restore that is not ended keeps all others from writing.
        told = "\n".join(bad)
        raise Failure(f"{args.file} holds what cannot be stored, so nothing is begun:\n{told}")
    if args.dry_run:
        sys.stdout.write("dry run: nothing was written.\n")
        return 0
    begin = {"file": wanted.sha256, "replace": args.replace, "instead": args.instead}
    begun = await _post(client, "", begin)
    try:
        await _make(client, wanted, todo, begun)
        await _post(client, "/end", {"file": wanted.sha256})
    except Failure as failure:
        raise Failure(f"{failure}\n{_BEGUN}") from failure
    sys.stdout.write("restored; the hosts take over what is different.\n")
    return 0


async def _make(client: Client, wanted: Backup, said: Difference, revision: int) -> None:
    """Write the difference until there is none: others may have written before the restore began, at this revision.

    What they wrote since it was compared is said: it was acknowledged, and the restore undoes it.
    What the API has taken twice and still says otherwise is the same in today's form: a file may be of an older
    version, or changed by hand.
    """
    todo = backup_file.difference((await _now(client, revision)).resources, wanted.resources)
    if (lines := backup_file.summary(todo)) != backup_file.summary(said):
        sys.stdout.write("others have written since that was compared; what is to be done is:\n")
        sys.stdout.writelines(line + "\n" for line in lines)
    for _ in range(_ROUNDS):
        for items, removed in backup_file.parts(todo):
            remove = [{"kind": k, "namespace": ns, "name": name} for k, ns, name in removed]
            part: dict[str, object] = {"file": wanted.sha256, "items": items, "remove": remove}
            revision = max(revision, await _post(client, "/items", part))
        before = todo
        todo = backup_file.difference((await _now(client, revision)).resources, wanted.resources)
        if not (todo.added or todo.removed) and todo.changed in ([], before.changed):
            return
    left = "\n".join(backup_file.summary(todo))
    raise Failure(
        "The store does not come to say what the backup says, so the restore was not ended and the hosts stay"
        f" as they are. What is left:\n{left}"
    )


async def _now(client: Client, revision: int = 0) -> Backup:
    """Return what the store says now, or at this revision or later; while a restore is under way that is a mixture.

    Errors: Failure, also where a replica that lags behind the one that wrote does not come to see it.
    """
    for _ in range(_LOOKS):
        lines = [line async for line in client.lines("/v1/backup")]
        lines[0] = lines[0].replace(b'"restoring":true', b'"restoring":false')
        now = _checked(lines, "the API's answer", edited=False)
        if int(now.head.get("revision", 0)) >= revision:
            return now
        await asyncio.sleep(0.2)
    raise Failure(f"The API at {client.server} does not come to show revision {revision}.")


def _read(file: str, *, edited: bool) -> Backup:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}.") from error
    return _checked(data.splitlines(), file, edited=edited)


def _checked(lines: list[bytes], where: str, *, edited: bool) -> Backup:
    try:
        return backup_file.read(lines, where, edited=edited)
    except BackupError as error:
        raise Failure(str(error)) from error


async def _post(client: Client, path: str, body: dict[str, object]) -> int:
    """Ask until it is taken, and return the revision: every request of a restore may be repeated."""
    attempt = 0
    while True:
        attempt += 1
        try:
            answer = await client.request("POST", f"/v1/restore{path}", body=body, timeout_s=120.0)
            return int(answer["resourceVersion"])
        except Problem as problem:
            if problem.status != 503 or attempt == _TRIES:
                raise _told(problem) from problem
            await asyncio.sleep(2.0)


def _told(problem: Problem) -> Failure:
    errors = [f"{e.get('pointer')}: {e.get('reason')}" for e in problem.errors[:20]]
    return Failure("\n".join([str(problem), *errors]))
