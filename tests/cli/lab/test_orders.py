"""The door of a running lab: one order after the other, and one sentence when it cannot be."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hopwall_cli.lab import orders
from hopwall_cli.lab.orders import Obey, Order, give, serve
from hopwall_cli.lab.topology import LabError
from hopwall_cli.main import parse


async def with_door(path: Path, obey: Obey, callers: Callable[[], Awaitable[None]]) -> None:
    """Let callers come while orders are obeyed."""
    async with asyncio.TaskGroup() as tasks:
        door = tasks.create_task(serve(path, obey))
        while not path.exists():
            await asyncio.sleep(0.01)
        await callers()
        door.cancel()


async def test_orders_are_carried_out_one_after_the_other(tmp_path: Path) -> None:
    """Whoever comes meanwhile waits; each hears what became of its own."""
    path = tmp_path / "orders.sock"
    running: list[str] = []

    async def obey(order: Order) -> str:
        running.append(order.host)
        assert len(running) == 1
        await asyncio.sleep(0.05)
        running.remove(order.host)
        return f"{order.host} done"

    async def callers() -> None:
        given = [give(path, Order("join", f"h{n}")) for n in range(4)]
        assert await asyncio.gather(*given) == [f"h{n} done" for n in range(4)]
        assert path.stat().st_mode & 0o077 == 0

    await with_door(path, obey, callers)


async def test_what_is_refused_is_said_and_the_next_is_served(tmp_path: Path) -> None:
    """A fault of one order is its caller's alone."""
    path = tmp_path / "orders.sock"

    async def obey(order: Order) -> str:
        if order.verb == "leave":
            raise LabError("there is no such host.")
        return "done"

    async def callers() -> None:
        with pytest.raises(LabError, match=r"^there is no such host\.$"):
            await give(path, Order("leave", "h9"))
        assert await give(path, Order("join")) == "done"

    await with_door(path, obey, callers)


async def test_who_says_nothing_does_not_keep_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that connects and is silent is hung up on after a while."""
    monkeypatch.setattr(orders, "_SAY_S", 0.1)
    path = tmp_path / "orders.sock"

    async def obey(_: Order) -> str:
        return "done"

    async def callers() -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        assert await give(path, Order("join")) == "done"
        writer.close()

    await with_door(path, obey, callers)


async def test_lab_that_ends_meanwhile_is_said(tmp_path: Path) -> None:
    """An order that was not done to its end is never taken for done."""
    path = tmp_path / "orders.sock"
    begun = asyncio.Event()

    async def obey(_: Order) -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async with asyncio.TaskGroup() as tasks:
        door = tasks.create_task(serve(path, obey))
        while not path.exists():
            await asyncio.sleep(0.01)
        order = tasks.create_task(_refusal(path))
        await begun.wait()
        door.cancel()
    assert "ended before it was done" in order.result()
    assert "takes orders" in await _refusal(path)


async def _refusal(path: Path) -> str:
    with pytest.raises(LabError) as caught:
        await give(path, Order("join"))
    return str(caught.value)


@pytest.mark.parametrize("words", [["h4", "--name", "x"], ["--name", "x", "h4"]])
def test_host_comes_before_or_after_the_flags(words: list[str]) -> None:
    """`hopwall lab join` takes its host in either place."""
    args = parse(["lab", "join", *words])
    assert (args.host, args.name) == ("h4", "x")
