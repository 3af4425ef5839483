"""The dataplane service: settings, drivers and the agent, wired."""

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from msgspec.structs import replace

from hopwall_dataplane.abilities import fitted
from hopwall_dataplane.agent import Agent
from hopwall_dataplane.bgp.driver import BirdDriver
from hopwall_dataplane.bgp.speaker import Speaker
from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.revocation import Revocation
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.failsafe import parse_failsafe
from hopwall_dataplane.feed import Step
from hopwall_dataplane.guard import Guard, Limits
from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.iptables.backend import BackendError, choose
from hopwall_dataplane.iptables.driver import Backend, Restore
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.lastgood.driver import LastGoodFile
from hopwall_dataplane.lastgood.keeper import Keeper, host_endpoints_of
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_dataplane.links.codec import Link as NetworkLink
from hopwall_dataplane.links.monitor import LinkMonitor
from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sysctl import SysctlDriver
from hopwall_dataplane.marks import MarkMaskError, layout
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.moves.carrier import Carrier
from hopwall_dataplane.moves.phases import Moves
from hopwall_dataplane.moves.rivals import Rivals
from hopwall_dataplane.other_backend import forsake
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.poison import Poison
from hopwall_dataplane.reserved import nats_addresses, reserved_cidrs
from hopwall_dataplane.routes.driver import RouteDriver
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_dataplane.watch.watch import Watch
from hopwall_dataplane.ways import ways_to
from hopwall_runtime.config import ConfigError
from hopwall_runtime.health import serve_health
from hopwall_runtime.link import Link

log = logging.getLogger(__name__)


def render_settings(settings: DataplaneSettings) -> RenderSettings:
    """Return what rendering depends on.

    Errors: ConfigError for a mark mask that cannot be used.
    """
    try:
        marks = layout(int(settings.mark_mask, 0))
    except MarkMaskError as error:
        raise ConfigError(f"mark_mask: {error}") from error
    except ValueError as error:
        text = f"mark_mask is {settings.mark_mask!r}; it must be a number, as 0xffffff00."
        raise ConfigError(text) from error
    return RenderSettings(
        marks=marks,
        prefixes=settings.interface_prefixes,
        workload_to_host=settings.workload_to_host,
        failsafe_in=tuple(parse_failsafe(entry) for entry in settings.failsafe_inbound),
        failsafe_out=tuple(parse_failsafe(entry) for entry in settings.failsafe_outbound),
        log=settings.log,
        revoke_flows=settings.revoke_flows,
        max_flows=settings.max_flows,
    )


def families_of(root: Path = Path("/proc/sys/net")) -> tuple[Family, ...]:
    """Return the families this host's kernel speaks: what it speaks must be filtered, wanted or not."""
    return (Family.V4, Family.V6) if (root / "ipv6").exists() else (Family.V4,)


async def open_kernel(
    settings: DataplaneSettings, metrics: Metrics | None = None, *, resolve: bool = True
) -> Kernel:
    """Find the tools, start the helpers, open the sockets; tracked flows are counted in `metrics`.

    Without `resolve` nobody is asked where NATS is, if its address is not said: there may be no network yet.

    Errors: BackendError, OSError: before anything is touched.
    """
    families = families_of()
    backend = await _chosen(settings, families)
    log.info("using the %s backend of iptables", backend.kind)
    sysctls = SysctlDriver(Path(settings.sysctl_dir))
    able = await fitted(render_settings(settings), backend, families, sysctls)
    restores = {family: Restore(family, backend) for family in families}
    for restore in restores.values():
        await restore.start()
    nats = await asyncio.to_thread(nats_addresses, settings.nats_url, resolve=resolve)
    desired = Desired(
        host=settings.host_name,
        settings=able.rendering,
        families=families,
        link_local_gateway=settings.link_local_gateway,
        reserved=reserved_cidrs(nats, settings.link_local_gateway),
        ipv6=settings.ipv6,
        nats=nats,
        moves=Moves(settings.migration_convergence_s, settings.bgp),
    )
    desired.shortfalls.lacking |= able.lacking
    flows = None
    if settings.revoke_flows:
        flows = Revocation(desired, ConntrackDriver(), metrics or Metrics())
    return Kernel(
        desired=desired,
        flows=flows,
        restores=restores,
        sets=IpsetDriver(),
        routes=RouteDriver(),
        interfaces=InterfaceSetup(
            sysctls,
            prefixes=settings.interface_prefixes,
            ipv6=settings.ipv6,
            udplite=settings.udplite,
        ),
    )


async def _chosen(settings: DataplaneSettings, families: tuple[Family, ...]) -> Backend:
    mode = settings.backend
    return await choose(
        "nft" if mode == "nft" else "legacy" if mode == "legacy" else "auto", families=families
    )


def last_good_file(settings: DataplaneSettings) -> LastGoodFile | None:
    """Return where the last complete state is kept; None when it is not."""
    if not settings.state_dir:
        return None
    folder = Path(settings.state_dir)
    return LastGoodFile(folder, host=settings.host_name, written_by=version("hopwall"))


async def build_wall(settings: DataplaneSettings) -> None:
    """Close the interfaces of a host on which nothing of ours stands yet, and end: workloads', and those of the host
    endpoints that it had last, which no wall without memory could know.

    Errors: BackendError where no backend of iptables works; OSError.
    """
    settings = await _with_backend(settings)
    try:
        await _build_wall(settings, host_endpoints_of(last_good_file(settings)))
    except Exception as error:
        log.error("the wall is built without host endpoints: %s", error, exc_info=error)
        await _build_wall(settings, None)


async def _with_backend(settings: DataplaneSettings) -> DataplaneSettings:
    """Return settings whose backend works here: a wall by another one than was asked for is better than none."""
    if settings.backend == "auto":
        return settings
    try:
        await _chosen(settings, families_of())
    except BackendError as error:
        log.error("the wall is built with whichever backend works: %s", error)
        return replace(settings, backend="auto")
    return settings


async def _build_wall(settings: DataplaneSettings, step: Step | None) -> None:
    kernel = await open_kernel(settings, resolve=False)
    try:
        await kernel.resync()
        stands = kernel.as_of.stands or kernel.desired.classes.remembered
        if step is not None and not stands:
            Poison().apply(kernel.desired, step, Mirror())
        await kernel.build_wall()
    finally:
        await kernel.close()


async def serve(settings: DataplaneSettings) -> None:
    """Run the agent until cancelled; the kernel is left as it is."""
    metrics = Metrics()
    kernel = await open_kernel(settings, metrics)
    link = Link("dataplane", settings.host_name)
    agent = Agent(
        settings=settings,
        link=link,
        kernel=kernel,
        metrics=metrics,
        version=version("hopwall"),
        keeper=Keeper(last_good_file(settings)),
        guard=Guard(Limits(settings.guard_share, settings.guard_count)),
    )

    carrier = agent.arrivals.carrier = Carrier(settings.host_name, kernel.desired, link)
    if settings.state_dir:
        carrier.notes.folder = Path(settings.state_dir)
    if kernel.flows is not None:
        carrier.is_ending = kernel.flows.is_ending
        kernel.flows.on_ended = carrier.on_ended
    if settings.bgp:
        bird = BirdDriver(
            socket=Path(settings.bird_socket),
            config=Path(settings.bird_config),
            secrets=Path(settings.bird_secrets),
        )
        agent.speaker = Speaker(
            bird,
            settings.interface_prefixes,
            agent.look_again,
            kernel.desired.reserved,
        )
        agent.arrivals.rivals = Rivals(kernel.desired, agent.speaker.hears_of, agent.look_again)

    def on_links(links: Mapping[str, NetworkLink]) -> None:
        states = {n: LinkState(link.index, link.up, link.addresses) for n, link in links.items()}
        names = {link.index: link.name for link in links.values()}
        agent.on_links(states, ways_to(kernel.desired.nats, names))

    monitor = LinkMonitor()
    backend = next(iter(kernel.restores.values())).backend
    agent.watch = Watch(kernel, legacy=backend.kind == "legacy", metrics=metrics)
    try:
        monitor.start(asyncio.get_running_loop(), on_links)
        async with (
            serve_health(settings.health_listen, lambda: agent.why_not_ready, metrics.registry),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(forsake(kernel, lambda: bool(agent.progress.epoch)))
            await agent.run()
    finally:
        monitor.close()
        agent.watch.close()
        await carrier.close()
        await kernel.close()
        await link.close()
