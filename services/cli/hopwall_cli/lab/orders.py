"""A running lab's door: another shell has hosts join and leave.

The process that owns the lab obeys, one order after the other; whoever comes meanwhile waits. An order is a line
of JSON and so is its answer. One that was given is carried out, even if nobody waits for the answer any more.
Owner:  orders.sock in the run folder, for root alone
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from hopwall_cli.client import ClientError
from hopwall_cli.lab.topology import LabError

#: Until who has connected says what is wanted; and until a host has joined, its BGP sessions included.
_SAY_S, _DONE_S = 5.0, 180.0
_MAX_BYTES = 4096


class Order(msgspec.Struct, frozen=True):
    """What is to be done; "" for the host that is next."""

    verb: Literal["join", "leave"]
    host: str = ""
    #: Of a host that joins.
    workloads: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What was done, or why it was not: one sentence."""

    done: str = ""
    refused: str = ""


Obey = Callable[[Order], Awaitable[str]]


async def serve(path: Path, obey: Obey) -> None:
    """Carry out orders until cancelled."""
    with socket.socket(socket.AF_UNIX) as door:
        before = os.umask(0o177)
        try:
            door.bind(str(path))
        finally:
            os.umask(before)
        door.listen()
        door.setblocking(False)
        while True:
            caller, _ = await asyncio.get_running_loop().sock_accept(door)
            with caller:
                await _answer(caller, obey)


async def _answer(caller: socket.socket, obey: Obey) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_SAY_S):
            order = msgspec.json.decode(await _line(caller), type=Order)
    except (OSError, msgspec.MsgspecError):  # TimeoutError is an OSError
        return
    try:
        answer = Answer(done=await obey(order))
    except (LabError, ClientError) as error:
        answer = Answer(refused=str(error))
    try:
        async with asyncio.timeout(_SAY_S):
            await loop.sock_sendall(caller, msgspec.json.encode(answer) + b"\n")
    except OSError:
        return


async def _line(sock: socket.socket) -> bytes:
    """Return the first line that comes; less when the other side ends or says too much."""
    said = b""
    while not said.endswith(b"\n") and len(said) < _MAX_BYTES:
        more = await asyncio.get_running_loop().sock_recv(sock, _MAX_BYTES)
        if not more:
            break
        said += more
    return said


async def give(path: Path, order: Order) -> str:
    """Have a running lab do something and return what it says of it.

    Errors: LabError when it refuses, does not run, or ends before it is done.
    """
    name = path.parent.name
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_DONE_S):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, str(path))
                await loop.sock_sendall(sock, msgspec.json.encode(order) + b"\n")
                answer = msgspec.json.decode(await _line(sock), type=Answer)
        except TimeoutError as error:
            raise LabError(
                f"lab {name} has not said within {_DONE_S:.0f} s that it is done."
            ) from error
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise LabError(
                f"no lab {name} takes orders; `hopwall lab up --name {name}` runs one."
            ) from error
        except (OSError, msgspec.MsgspecError) as error:
            raise LabError(f"lab {name} ended before it was done.") from error
    if answer.refused:
        raise LabError(answer.refused)
    return answer.done
