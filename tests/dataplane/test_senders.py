"""The check of senders follows the routes: at no moment is it on where a route it needs is not there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sources import CHECK
from hopwall_dataplane.links.sysctl import SetSysctl, SysctlDriver
from hopwall_dataplane.outcome import Outcome
from hopwall_model.updates import EndpointRemoved, EndpointSet, Move
from tests.dataplane.test_desired import LINKS, endpoint, policy
from tests.dataplane.test_kernel import turn
from tests.support.fake_kernel import FakeHost


class Watched(SysctlDriver):
    """A tree of files, and a look at everything after each file that is written."""

    look: Any = None

    def apply(self, ops: Sequence[SetSysctl]) -> list[Outcome]:
        """Write one after the other."""
        found: list[Outcome] = []
        for op in ops:
            found += super().apply([op])
            self.look()
        return found


class Scene:
    """A host whose routes and checks are looked at after each thing that is written."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        for name in LINKS:
            (tree / CHECK.format(name)).parent.mkdir(parents=True)
            (tree / CHECK.format(name)).write_text("2")
        self.host = FakeHost()
        self.driver = Watched(tree)
        self.driver.look = self.look
        held_apply = self.host.routes.apply

        def apply(ops: Sequence[Any]) -> list[Outcome]:
            found: list[Outcome] = []
            for op in ops:
                found += held_apply([op])
                self.look()
            return found

        self.host.routes.apply = apply  # type: ignore[method-assign]
        #: Interface → the addresses that are sent from there, by the state before or after.
        self.legal: dict[str, set[str]] = {}
        self.kernel = self.agent()

    def agent(self) -> Kernel:
        """Return the kernel as an agent without memory sees it, with the tree's sysctls."""
        kernel = self.host.agent()
        kernel.interfaces = InterfaceSetup(self.driver, prefixes=("tap",), ipv6=False)
        return kernel

    async def begin_again(self) -> None:
        """Exchange the agent for one without memory, which reads the kernel before it is told of interfaces."""
        links, self.host.links = self.host.links, {}
        self.kernel = self.agent()
        await self.kernel.resync()
        self.host.links = links
        self.kernel.desired.set_links(links)

    def check(self, name: str) -> str:
        """Return an interface's check of senders."""
        return (self.tree / CHECK.format(name)).read_text()

    def leads(self, cidr: str) -> str:
        """Return the interface that the best route to an address leads to."""
        routes = [r for r in self.host.routes.held.values() if r.cidr == cidr]
        return min(routes, key=lambda r: r.priority).interface if routes else ""

    def look(self) -> None:
        """See that nobody who sends now, and will go on, is stopped."""
        for name, cidrs in self.legal.items():
            if self.check(name) == "1":
                assert [c for c in cidrs if self.leads(c) != name] == [], (name, cidrs)


def lives(chance: Random) -> Iterator[EndpointSet | EndpointRemoved]:
    """Yield changes of two endpoints that share an address at times."""
    for _ in range(40):
        number = chance.randrange(2)
        one = endpoint(number, "gnp/a", address=chance.choice((1, 1, 2)), tap=chance.randrange(3))
        if chance.random() < 0.2:
            yield EndpointRemoved(id=one.id)
            continue
        if chance.random() < 0.3:
            one = structs.replace(one, extra_sources=("10.99.0.0/24",))
        elif chance.random() < 0.3:
            move = Move(
                role="target", migration=f"m/{chance.random()}", peer=one.id, host="h9",
                addresses=one.addresses,
            )  # fmt: skip
            one = structs.replace(one, move=move)
        yield one


@pytest.mark.parametrize("seed", range(20))
async def test_no_check_is_on_before_its_routes_stand_or_after_one_goes(
    seed: int, tmp_path: Path
) -> None:
    """Endpoints come, go, share addresses, send for others and arrive; who has his routes both before and after is never stopped."""
    scene = Scene(tmp_path)
    await turn(scene.kernel, policy("gnp/a"))
    placed: dict[str, EndpointSet] = {}
    left: set[str] = set()
    for update in lives(Random(seed)):
        before = sent_from(placed, scene)
        left |= {one.interface for one in placed.values()}
        if isinstance(update, EndpointSet):
            placed[update.id] = update
        else:
            placed.pop(update.id, None)
        stay = {
            name: before[name] & cidrs
            for name, cidrs in sent_from(placed, scene).items()
            if name in before
        }
        scene.legal = stay
        if Random(f"{seed}{update.id}").random() < 0.1:
            await scene.begin_again()
            await turn(scene.kernel, policy("gnp/a"), *placed.values())
        else:
            assert not await turn(scene.kernel, update)
        for name in {one.interface for one in placed.values()}:
            its = [one for one in placed.values() if one.interface == name]
            cidrs = {c for one in its for c in one.addresses if "." in c}
            free = any(one.extra_sources for one in its)
            wanted = not free and all(scene.leads(c) == name for c in cidrs)
            assert scene.check(name) == ("1" if wanted else "0"), (name, its)
        # Who is declared again must not have been left without an answer to its ARP.
        left -= {one.interface for one in placed.values()}
        assert {scene.check(name) for name in left} <= {"0"}


async def test_who_went_while_the_agent_was_away_is_checked_no_more(tmp_path: Path) -> None:
    """An agent without memory answers his ARP, too: else he gives his next hop up, and is declared again in vain."""
    scene = Scene(tmp_path)
    one = endpoint(0, "gnp/a", address=1, tap=1)
    await turn(scene.kernel, policy("gnp/a"), one)
    assert scene.check("tap1") == "1"

    await scene.begin_again()
    await turn(scene.kernel, policy("gnp/a"))

    assert not scene.leads("10.65.0.1/32")
    assert scene.check("tap1") == "0"


def sent_from(placed: dict[str, EndpointSet], scene: Scene) -> dict[str, set[str]]:
    """Return the IPv4 addresses of each interface to which a route leads now."""
    found: dict[str, set[str]] = {}
    for one in placed.values():
        cidrs = {c for c in one.addresses if "." in c and scene.leads(c) == one.interface}
        found.setdefault(one.interface, set()).update(cidrs)
    return found
