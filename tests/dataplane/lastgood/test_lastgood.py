"""The last-good file: what is written is read again, and what is damaged is not believed."""

import asyncio
import io
import os
import random
import time
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.feed import Step
from hopwall_dataplane.lastgood.codec import Unusable, read
from hopwall_dataplane.lastgood.driver import LastGoodFile
from hopwall_dataplane.lastgood.keeper import Keeper
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_model.updates import (
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicyId,
    PolicySet,
    RoutesBucket,
    Scope,
    SetBucket,
    SetId,
    Update,
)


def step(
    *updates: Update, revision: int = 1, full: bool = False, fresh: tuple[str, ...] = ()
) -> Step:
    """Return a step of the one epoch."""
    scopes = frozenset(Scope(scope) for scope in fresh)
    return Step("e1", revision, full=full, updates=updates, fresh=scopes)


def endpoint(name: str, address: str = "10.65.0.24/32") -> EndpointSet:
    """Return an endpoint."""
    return EndpointSet(id=EndpointId(f"d/{name}"), interface=f"tap{name}", addresses=(address,))


def bucket(n: int, *members: str, n_buckets: int = 2, version: int = 1) -> SetBucket:
    """Return a bucket of the one set."""
    return SetBucket(
        id=SetId("s:x"), version=version, n_buckets=n_buckets, bucket=n, members=members
    )


FIRST = step(
    PolicySet(id=PolicyId("gnp/p"), version=1),
    bucket(0, "10.0.0.1/32"),
    bucket(1, "10.0.0.2/32"),
    RoutesBucket(host="h2", version=1, cidrs=("10.65.0.9/32",)),
    NeedSet(scope=Scope("policy/gnp/p"), version=1),
    NeedSet(scope=Scope("set/s:x"), version=1),
    endpoint("a"),
    HostEndpointSet(id=HostEndpointId("eth0"), interface="eth0"),
    revision=7,
    full=True,
    fresh=("policy/gnp/p", "set/s:x", "routes/h2"),
)
CHANGES = (
    step(endpoint("b", "10.65.0.25/32"), revision=8),
    step(bucket(1, "10.0.0.3/32", version=2), revision=9),
    step(EndpointRemoved(id=EndpointId("d/a")), revision=10),
    step(HostEndpointRemoved(id=HostEndpointId("eth0")), revision=11),
    step(bucket(0, "10.0.0.4/32", n_buckets=1, version=3), revision=12),
    step(NeedRemoved(scope=Scope("policy/gnp/p")), revision=13),
)


def file_in(folder: Path, host: str = "h1") -> LastGoodFile:
    """Return a host's file."""
    return LastGoodFile(folder, host=host, written_by="test")


def written(folder: Path, *steps: Step) -> Path:
    """Write these steps and return the file's path."""
    file = file_in(folder)
    file.rewrite(steps[0])
    for one in steps[1:]:
        file.append([one])
    file.close()
    return file.path


def folded(*steps: Step) -> Mirror:
    """Fold steps."""
    mirror = Mirror()
    for one in steps:
        mirror.fold(one)
    return mirror


def test_each_step_is_read_as_it_was_written(tmp_path: Path) -> None:
    """However many changes follow the whole state, what is read is their fold."""
    for n in range(len(CHANGES) + 1):
        path = written(tmp_path, FIRST, *CHANGES[:n])
        loaded = file_in(tmp_path).load()
        assert loaded is not None
        assert loaded.mirror == folded(FIRST, *CHANGES[:n])
        assert loaded.n_cut_off == 0
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_fold_is_what_a_snapshot_would_say() -> None:
    """A removed need takes its pieces along; another number of buckets replaces the set."""
    mirror = folded(FIRST, *CHANGES)
    assert [e.id for e in mirror.endpoints.values()] == ["d/b"]
    assert mirror.host_endpoints == {}
    assert mirror.pieces.keys() == {"set/s:x", "routes/h2"}
    assert mirror.pieces[Scope("set/s:x")] == {0: CHANGES[4].updates[0]}
    again = folded(mirror.step())
    assert again.step() == mirror.step()


def test_a_file_cut_anywhere_is_an_earlier_state_or_none(tmp_path: Path) -> None:
    """Never a half of one: each prefix gives exactly the state of a step that was complete."""
    whole = written(tmp_path, FIRST, *CHANGES).read_bytes()
    states = [folded(FIRST, *CHANGES[:n]) for n in range(len(CHANGES) + 1)]
    seen = set()
    for size in range(len(whole)):
        try:
            loaded = read(io.BytesIO(whole[:size]), "h1")
        except Unusable:
            continue
        assert loaded.mirror in states
        seen.add(loaded.mirror.revision)
    assert seen == {7, 8, 9, 10, 11, 12}


def test_a_file_with_a_changed_byte_gives_no_state_that_never_was(tmp_path: Path) -> None:
    """A flipped bit makes it unusable, or takes off its end."""
    whole = written(tmp_path, FIRST, *CHANGES).read_bytes()
    states = [folded(FIRST, *CHANGES[:n]) for n in range(len(CHANGES) + 1)]
    chance = random.Random(1)
    n_refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        try:
            loaded = read(io.BytesIO(damaged), "h1")
        except Unusable:
            n_refused += 1
            continue
        assert loaded.mirror in states
    assert n_refused > 0.8 * len(whole)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"host":"h1"', b'"host":"h2"', "of host 'h2'"),
        (b'"version":1', b'"version":0', "version is 0"),
        (b'"version":1', b'"version":2', "version is 2"),
        (b"hopwall last-good", b"something else", "format"),
        (b'{"format"', b"", "first line"),
        (b'"kind":"policy.set"', b'"kind":"policy.zet"', "digest"),
    ],
)
def test_a_file_that_is_not_ours_says_why(tmp_path: Path, old: bytes, new: bytes, why: str) -> None:
    """Another host's, another version's, another program's."""
    path = written(tmp_path, FIRST)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(Unusable, match=why):
        file_in(tmp_path).load()


async def test_an_unusable_file_is_set_aside_and_named(tmp_path: Path) -> None:
    """It is ignored loudly, and kept for people."""
    path = written(tmp_path, FIRST)
    path.write_bytes(path.read_bytes()[:-40])
    keeper = Keeper(file_in(tmp_path))
    assert await keeper.load() is None
    assert "is not used, as it ends before its first state is complete" in keeper.fault
    assert not path.exists()
    assert path.with_suffix(".unusable").exists()


def test_changes_cost_what_they_are_until_they_outweigh_the_whole(tmp_path: Path) -> None:
    """A small change adds a small end; a rewrite is wanted when the changes outgrow the state."""
    file = file_in(tmp_path)
    many = tuple(endpoint(str(n), f"10.66.{n >> 8}.{n & 255}/32") for n in range(5000))
    file.rewrite(step(*many, full=True))
    size = file.path.stat().st_size
    file.append([step(endpoint("a"), revision=2)])
    assert file.path.stat().st_size - size < 500
    assert not file.wants_whole
    n_appended = 0
    while not file.wants_whole:
        file.append([step(*many[:1000], revision=3)])
        n_appended += 1
    assert n_appended in (5, 6)
    file.close()


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of an addition: the state before it stands, and the next write is whole."""
    file = file_in(tmp_path)
    file.rewrite(FIRST)
    room = [200]
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        n = real(fd, bytes(data)[: room[0]])
        room[0] -= n
        return n

    monkeypatch.setattr(os, "write", full)
    many = tuple(endpoint(str(n)) for n in range(100))
    with pytest.raises(OSError, match="No space"):
        file.append([step(*many, revision=8)])
    assert file.wants_whole
    with pytest.raises(OSError, match="No space"):
        file.rewrite(step(*many, revision=9, full=True))
    monkeypatch.undo()
    loaded = file_in(tmp_path).load()
    assert loaded is not None
    assert loaded.mirror == folded(FIRST)
    assert loaded.n_cut_off > 0
    assert not file.path.with_suffix(".new").exists()


async def test_the_keeper_writes_what_it_was_given_and_says_when_it_cannot(tmp_path: Path) -> None:
    """In the end the file holds all of it; a folder that cannot be written is named."""
    keeper = Keeper(file_in(tmp_path / "state"))
    task = asyncio.get_running_loop().create_task(keeper.run())
    for one in (FIRST, *CHANGES):
        keeper.fold(one)
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loaded = file_in(tmp_path / "state").load()
    assert loaded is not None
    assert loaded.mirror == folded(FIRST, *CHANGES) == keeper.mirror
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    keeper = Keeper(file_in(blocked))
    keeper.fold(FIRST)
    task = asyncio.get_running_loop().create_task(keeper.run())
    async with asyncio.timeout(60):
        while not keeper.fault:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert str(blocked) in keeper.fault


async def test_an_end_amid_a_write_lets_nobody_write_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that writes cannot be stopped: what waits is written when it is done."""
    right = LastGoodFile.rewrite

    def slow(self: LastGoodFile, whole: Step) -> None:
        time.sleep(0.2)
        right(self, whole)

    monkeypatch.setattr(LastGoodFile, "rewrite", slow)
    keeper = Keeper(file_in(tmp_path))
    task = asyncio.get_running_loop().create_task(keeper.run())
    keeper.fold(FIRST)
    await asyncio.sleep(0.05)
    for one in CHANGES:
        keeper.fold(one)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    loaded = file_in(tmp_path).load()
    assert loaded is not None
    assert loaded.mirror == folded(FIRST, *CHANGES)


def test_values_survive_the_file_whatever_they_say(tmp_path: Path) -> None:
    """Text with newlines, quotes or strange characters is one line still."""
    odd = structs.replace(endpoint("a"), interface='x"\n{"kind":"commit"}\u2028é')
    written(tmp_path, step(odd, full=True))
    loaded = file_in(tmp_path).load()
    assert loaded is not None
    assert loaded.mirror.endpoints == {odd.id: odd}
