"""What the kernel's events, and looks at what has none, tell of a real host; what is ours calls for nothing."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator

import pytest

from hopwall_dataplane.drift import Found
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.nft_driver import NftDriver
from hopwall_dataplane.iptables.static import TABLES
from hopwall_dataplane.iptables.table import TableState
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.links.monitor import LinkMonitor
from hopwall_dataplane.outcome import Family, Retry
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.service import open_kernel
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.stale import Doubts, Stale
from hopwall_dataplane.watch.audit import SetsAudit, SettingsAudit
from hopwall_dataplane.watch.legacy import LegacyTables
from hopwall_dataplane.watch.watch import Watch
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    TierPolicies,
)
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel
SETTINGS = {b: DataplaneSettings(backend=b, host="h1") for b in ("nft", "legacy")}
Told = tuple[Doubts, list[Found]]


@pytest.fixture
def ns() -> Iterator[Netns]:
    """Make a host with two workload interfaces."""
    with Netns("watch") as made:
        for name in ("tapa", "tapb"):
            made.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"v{name}"])
            made.run(["ip", "link", "set", name, "up"])
            made.run(["ip", "link", "set", f"v{name}", "up"])
        yield made


def sh(*commands: str) -> None:
    """Run lines of shell in this namespace."""
    for command in commands:
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)


def step(revision: int, n_rules: int = 1) -> Step:
    """Say two workloads with a policy of so many rules."""
    ids = (PolicyId("gnp/p"),)
    rules = tuple(
        ResolvedRule(id=f"r{i}", action="allow", protocol=i % 200 + 1) for i in range(n_rules)
    )
    endpoints = tuple(
        EndpointSet(
            id=EndpointId(f"d/{name}"),
            interface=f"tap{name}",
            addresses=(f"10.65.0.{i}/32", f"fd65::{i}/128"),
            tiers=(TierPolicies(name="default", ingress=ids, egress=ids),),
        )
        for i, name in enumerate("ab", 1)
    )
    policy = PolicySet(id=PolicyId("gnp/p"), version=revision, ingress=rules, egress=rules)
    return Step("e", revision, full=True, updates=(policy, *endpoints))


async def apply(kernel: Kernel, revision: int, n_rules: int = 1) -> None:
    """Bring the kernel there, and sweep."""
    kernel.desired.apply(step(revision, n_rules))
    turn = await kernel.apply()
    assert not turn.held_by
    for _ in range(3):
        await asyncio.sleep(0.03)
        await kernel.sweep()


class Scene:
    """A kernel with a watch over it, and what the watch was told."""

    def __init__(self, kernel: Kernel, watch: Watch, told: list[Told]) -> None:
        """Take note of them."""
        self.kernel, self.watch, self.told = kernel, watch, told

    async def news(self) -> Doubts:
        """Return all that was told within a moment, and forget it."""
        await asyncio.sleep(0.15)
        found = Doubts()
        for doubts, _ in self.told:
            found.add(doubts)
        self.told.clear()
        return found


def in_scene(ns: Netns, backend: str, play: Callable[[Scene], Awaitable[None]]) -> None:
    """Play with a host whose state is applied and watched by events alone."""

    async def whole() -> None:
        kernel = await open_kernel(SETTINGS[backend])
        monitor = LinkMonitor()
        links = {n: LinkState(x.index, x.up, x.addresses) for n, x in monitor.links.items()}
        kernel.desired.set_links(links)
        await kernel.resync()
        watch = Watch(kernel, legacy=backend == "legacy")
        told: list[Told] = []
        watch._events.start(asyncio.get_running_loop(), lambda d, n: told.append((d, n)))
        try:
            await apply(kernel, 1)
            await play(Scene(kernel, watch, told))
        finally:
            watch.close()
            monitor.close()
            await kernel.close()

    def go() -> None:
        asyncio.run(whole())

    ns.python(go)


def test_what_we_write_ourselves_calls_for_no_reading(ns: Netns) -> None:
    """Small and large transactions, sweeps, routes, sets and sysctls of ours are no news."""

    async def play(scene: Scene) -> None:
        assert not await scene.news()
        for revision, n_rules in enumerate((2, 400, 3, 500, 1), 2):
            await apply(scene.kernel, revision, n_rules)
        assert not await scene.news()

    in_scene(ns, "nft", play)


def test_what_others_write_says_which_table_and_who_wrote(ns: Netns) -> None:
    """Only tables where we have lines, and in them only chains of ours and the kernel's own, count."""

    async def play(scene: Scene) -> None:
        sh("iptables-nft -t raw -I PREROUTING 1 -j ACCEPT")
        assert (await scene.news()).tables == {(Family.V4, "raw")}
        writer = scene.watch._events.last_writer
        assert writer is not None
        assert writer.name == "iptables-nft"
        sh("ip6tables-nft -F hw-known")
        assert (await scene.news()).tables == {(Family.V6, "filter")}
        sh(
            "nft add table inet theirs",
            "nft add chain inet theirs c",
            "nft add rule inet theirs c accept",
        )
        sh("iptables-nft -N theirs")
        for i in range(20):
            sh(f"iptables-nft -A theirs -s 198.51.100.{i} -j DROP")
        assert not await scene.news()
        sh("iptables-nft -E hw-known theirs2")  # one of ours goes under a name that is not
        assert (await scene.news()).tables == {(Family.V4, "filter")}

    in_scene(ns, "nft", play)


def test_a_write_during_a_large_transaction_of_ours_is_told(ns: Netns) -> None:
    """While nobody listens the numbers of transactions tell that there was another one."""

    async def play(scene: Scene) -> None:
        with scene.kernel.hush(1000):
            sh("iptables-nft -F hw-known")
        assert (await scene.news()).whole == {Stale.TABLES}
        with scene.kernel.hush(1000):
            pass
        assert not await scene.news()

    in_scene(ns, "nft", play)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_routes_and_settings_are_told_by_whose_they_are(ns: Netns, backend: str) -> None:
    """A route of ours that goes, or is replaced; forwarding that is turned off; others' routes are no news."""

    async def play(scene: Scene) -> None:
        sh("ip route add 192.0.2.0/24 dev tapa proto static", "ip route del 192.0.2.0/24")
        assert not await scene.news()
        sh("ip route replace 10.65.0.1/32 dev tapb proto static")
        assert (await scene.news()).whole == {Stale.ROUTES}
        sh("ip route replace 10.65.0.1/32 dev tapa proto 80")
        assert (await scene.news()).routes == set()
        for how, proto, is_met in (
            ("append", 4, False),
            ("prepend", 4, True),
            ("append", 80, True),
        ):
            sh(f"ip route {how} 10.65.0.1/32 dev tapb proto {proto}")
            assert bool((await scene.news()).routes) == is_met
            sh(f"ip route del 10.65.0.1/32 dev tapb proto {proto}")
            await scene.news()
        sh("ip addr add 10.65.0.1/32 dev tapb", "ip route add 10.65.0.1/32 tos 8 dev tapb")
        await asyncio.sleep(0.15)
        notes = [note for _, found in scene.told for note in found]
        assert ["own addresses" in note.detail for note in notes] == [True, False]
        await scene.news()
        sh("ip -6 route del fd65::1/128")
        assert (await scene.news()).whole == {Stale.ROUTES}
        sh("echo 0 > /proc/sys/net/ipv4/conf/tapa/proxy_arp")
        assert (await scene.news()).links == {scene.kernel.desired.link_indices["tapa"]}
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward")
        assert -1 in (await scene.news()).links
        sh("echo 2 > /proc/sys/net/ipv4/conf/tapa/rp_filter")
        assert not await scene.news()

    in_scene(ns, backend, play)


def test_lost_events_put_everything_in_doubt(ns: Netns) -> None:
    """A burst that does not fit is answered by reading all, and later events still come."""

    async def play(scene: Scene) -> None:
        one = scene.watch._events._routes._socket
        one.setsockopt(1, 33, 2048)
        batch = "".join(f"route add 198.18.{i // 250}.{i % 250}/32 dev tapa\n" for i in range(3000))
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        assert (await scene.news()).whole == {Stale.ROUTES, Stale.SYSCTLS}
        sh("ip route del 10.65.0.1/32")
        assert (await scene.news()).whole == {Stale.ROUTES}

    in_scene(ns, "nft", play)


# ---------------------------------------------------------------- what has no events


def _sets() -> None:
    audit = SetsAudit()
    audit.look()
    sh(
        "ipset create hw4-s-x hash:net",
        "ipset create theirs hash:net",
        "ipset add hw4-s-x 10.0.0.0/8",
    )
    assert audit.look().sets == {"hw4-s-x"}
    sh("ipset add theirs 10.0.0.0/8")
    assert not audit.look()
    sh("ipset del hw4-s-x 10.0.0.0/8", "ipset add hw4-s-x 11.0.0.0/8")
    assert audit.look().sets == {"hw4-s-x"}
    sh("".join(f"ipset add hw4-s-x 10.1.{i}.0/24;" for i in range(200)))
    assert audit.look().sets == {"hw4-s-x"}
    for _ in range(20):
        assert not audit.look()
    sh("ipset swap hw4-s-x theirs", "ipset destroy theirs")
    assert audit.look().sets == {"hw4-s-x"}


def test_a_look_at_sets_sees_any_change_of_ours(ns: Netns) -> None:
    """As many members but another one, a swap: all is seen; others' sets and what stands still are not."""
    ns.python(_sets)


def _settings() -> None:
    audit = SettingsAudit()
    audit.look()
    index = socket.if_nametoindex("tapa")
    for name in (
        "ipv4/conf/tapa/accept_redirects",
        "ipv4/conf/tapa/route_localnet",
        "ipv4/neigh/tapa/proxy_delay",
        "ipv6/conf/tapa/accept_ra",
        "ipv6/conf/tapa/forwarding",
    ):
        sh(f"echo 0 > /proc/sys/net/{name}")
        audit.look()
        sh(f"echo 1 > /proc/sys/net/{name}")
        assert audit.look().links == {index}, name
    for _ in range(20):
        assert not audit.look()


def test_a_look_at_settings_sees_any_of_those_we_keep(ns: Netns) -> None:
    """Each sysctl of a workload's interface, and the interface it is of; what stands still is not seen."""
    ns.python(_settings)


def _legacy(family: Family, tool: str) -> None:
    tables = LegacyTables(family)
    seen = {tables.digest("filter")}
    net = "198.51.100.7" if family is Family.V4 else "fd99::7"
    for number, command in enumerate(
        (
            f"-A FORWARD -s {net} -j ACCEPT",
            f"-R FORWARD 1 -s {net} -j DROP",
            "-P FORWARD DROP",
            "-N hw-x",
            "-A hw-x -m limit --limit 5/second -j ACCEPT",
            "-A INPUT -i lo -j hw-x",
        ),
        2,
    ):
        sh(f"{tool} {command}")
        seen.add(tables.digest("filter"))
        assert len(seen) == number, command
    loopback = "127.0.0.1" if family is Family.V4 else "::1"
    with contextlib.suppress(subprocess.CalledProcessError):
        sh(f"ping -c 3 -i 0.2 {loopback}")
    sh(f"{tool} -Z")
    assert tables.digest("filter") in seen
    tables.close()


@pytest.mark.parametrize(
    ("family", "tool"), [(Family.V4, "iptables-legacy"), (Family.V6, "ip6tables-legacy")]
)
def test_a_legacy_table_has_another_digest_after_any_change(
    ns: Netns, family: Family, tool: str
) -> None:
    """A line replaced by one as long, a policy: all is seen; packets that are counted are not."""
    ns.python(_legacy, family, tool)


def _lines(state: TableState) -> dict[str, list[str | None]]:
    """Return the lines of kernel chains; the tool also prints chains that are not there."""
    return {chain: [line.hash for line in held] for chain, held in state.kernel.items() if held}


def test_the_kernel_itself_and_the_tool_say_the_same_of_a_table(ns: Netns) -> None:
    """Where the tool can print a table, reading it from nf_tables gives the same chains and hashes."""

    async def play(scene: Scene) -> None:
        sh("iptables-nft -I FORWARD 1 -s 192.0.2.9 -j ACCEPT")
        for family in Family:
            driver = NftDriver(family)
            for table in TABLES:
                read = driver.read(table)
                printed = await scene.kernel.restores[family].read(table)
                assert not isinstance(printed, Retry)
                assert read.chains == printed.chains
                assert _lines(read) == _lines(printed)
            driver.close()

    in_scene(ns, "nft", play)
