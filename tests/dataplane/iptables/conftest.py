"""One kernel to test against: the fake, or the real thing in a namespace of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from hopwall_dataplane.iptables.backend import choose
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.outcome import Family
from tests.support.fake_iptables import FakeRestore, FakeTables
from tests.support.netns import Netns


@dataclass
class FakeKernel:
    """The fake, as the contract suite sees it."""

    restore: FakeRestore

    def foreign(self, text: str) -> None:
        """Let somebody else change a table."""
        self.restore.tables.restore(text)

    def save(self, table: str) -> str:
        """Print a table."""
        return self.restore.tables.save(table)


@dataclass
class RealKernel:
    """The real tools in a namespace."""

    restore: Restore
    ns: Netns

    @property
    def tool(self) -> str:
        """Name the tool of this family and backend, without its last part."""
        return self.restore.backend.restore_path[self.restore.family].removesuffix("-restore")

    def foreign(self, text: str) -> None:
        """Let somebody else change a table."""
        self.ns.run([f"{self.tool}-restore", "--noflush"], text=text)

    def save(self, table: str, *options: str) -> str:
        """Print a table."""
        return self.ns.run([f"{self.tool}-save", "-t", table, *options])


async def real_kernel(kind: str, family: Family) -> AsyncIterator[RealKernel]:
    """Make a namespace and a driver that works in it; remove both."""
    with Netns("ipt") as ns:
        prefix = ("ip", "netns", "exec", ns.name)
        assert kind in ("nft", "legacy")
        backend = await choose(
            "nft" if kind == "nft" else "legacy", families=(family,), command_prefix=prefix
        )
        restore = Restore(family, backend, command_prefix=prefix)
        try:
            yield RealKernel(restore, ns)
        finally:
            await restore.close()


REAL = [
    pytest.param((kind, family), marks=pytest.mark.kernel, id=f"{kind}-{family}")
    for kind in ("nft", "legacy")
    for family in Family
]
FAKE = [pytest.param((kind, None), id=f"fake-{kind}") for kind in ("nft", "legacy")]


@pytest.fixture(params=[*FAKE, *REAL])
async def kernel(request: pytest.FixtureRequest) -> AsyncIterator[FakeKernel | RealKernel]:
    """Give the fake and the real thing in turn."""
    kind, family = request.param
    if family is None:
        yield FakeKernel(FakeRestore(tables=FakeTables(kind)))
    else:
        async for real in real_kernel(kind, family):
            yield real


@pytest.fixture(params=REAL)
async def real(request: pytest.FixtureRequest) -> AsyncIterator[RealKernel]:
    """Give the real thing alone."""
    async for kernel in real_kernel(*request.param):
        yield kernel
