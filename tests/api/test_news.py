"""Who waits is woken by news, and leaves the loop to others."""

import asyncio

from hopwall_api.news import News

N_WAITING = 2000


async def test_few_who_wait_are_woken_at_once() -> None:
    """A ring is heard in the same turn of the loop, and again at the next ring."""
    news, looks = News(), 0

    def holds() -> bool:
        nonlocal looks
        looks += 1
        return looks == 4

    async with asyncio.TaskGroup() as tasks:
        waits = tasks.create_task(news.until(holds, 30.0))
        for n in (1, 2, 3):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert looks == n
            news.ring()
    assert waits.result()


async def test_many_who_wait_leave_the_loop_to_others() -> None:
    """With news in every turn, those who do the work have many turns for each at which all look."""
    news, looks, over = News(), 0, False

    def holds() -> bool:
        nonlocal looks
        looks += 1
        return over

    async with asyncio.TaskGroup() as tasks:
        for _ in range(N_WAITING):
            tasks.create_task(news.until(holds, 60.0))
        await asyncio.sleep(0)
        turns = 0
        while looks < 6 * N_WAITING:
            news.ring()
            await asyncio.sleep(0)
            turns += 1
        over = True
        news.ring()
    assert turns > 200


async def test_the_last_ring_is_heard_however_many_came_before() -> None:
    """Rings that are put off are one, and what was news by then is seen."""
    news, known = News(), 0
    async with asyncio.TaskGroup() as tasks:
        waits = [tasks.create_task(news.until(lambda: known == 50, 60.0)) for _ in range(N_WAITING)]
        await asyncio.sleep(0)
        for known in range(1, 51):  # noqa: B007 - the tasks look at it
            news.ring()
            await asyncio.sleep(0)
    assert all(one.result() for one in waits)
