"""Power cuts, and kill -9 of the broker and of the services, under a load of writes."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_runtime import appender, clock
from hopwall_runtime.appender import Append, cas_headers
from tests.api.caller import running_api
from tests.faults.rig import (
    Load,
    LoopDisk,
    Service,
    add,
    api_of,
    api_ready,
    judged,
    kill_nats,
    pause,
    programmed,
    shown_by,
)
from tests.faults.table import Mode, Result, Trial
from tests.support.brokers import LateServer
from tests.support.netns import Netns, entered
from tests.support.ports import free_port


@asynccontextmanager
async def one_of_each(
    folder: Path, server: NatsServer
) -> AsyncIterator[tuple[Service, Service, Path]]:
    """Run an API and a calc at the server while the block runs."""
    await server.start()
    api, socket = api_of(folder, [server.url])
    calc = Service("calc", "--nats-url", server.url, folder=folder)
    api.start()
    calc.start()
    try:
        await api_ready(socket)
        yield api, calc, socket
    finally:
        for service in (api, calc):
            if service.runs:
                service.kill()
        await server.stop()


async def _power_cuts(trial: Trial, kind: type[NatsServer]) -> Result:
    result = Result()
    disk = LoopDisk(trial.folder / "disk")
    server = kind(listen=f"127.0.0.1:{free_port()}", folder=disk.mount)
    try:
        async with one_of_each(trial.folder, server) as (_, _, socket):
            load = Load(socket)
            async with load.running():
                while trial.goes_on():
                    await asyncio.sleep(pause(trial.chance, 0.3, 1.5))
                    result.recovery.append(await _power_cut(server, disk, load))
                    result.tries += 1
            add(result, await judged(load, [server.url], await shown_by(socket)))
    finally:
        disk.close()
    return result


async def _power_cut(server: NatsServer, disk: LoopDisk, load: Load) -> float:
    """Cut the power of the server's disk and bring it back; return how long no write was taken."""
    server.send(signal.SIGSTOP)
    disk.keep_as_it_is()
    await server.stop(signal.SIGKILL)
    disk.come_back()
    since = clock.monotonic()
    await server.start()
    return await load.recovered(since)


async def power_cut(trial: Trial) -> Result:
    """Cut the power of our server's disk."""
    return await _power_cuts(trial, NatsServer)


async def power_cut_late(trial: Trial) -> Result:
    """Cut the power of a server with the default that acknowledges before it syncs."""
    return await _power_cuts(trial, LateServer)


async def kill_broker(trial: Trial) -> Result:
    """Kill the one server at random moments."""
    result = Result()
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    async with one_of_each(trial.folder, server) as (_, _, socket):
        load = Load(socket)
        async with load.running():
            while trial.goes_on():
                await asyncio.sleep(pause(trial.chance, 0.05, 1.0))
                since = clock.monotonic()
                await kill_nats(server, down_s=pause(trial.chance, 0.0, 0.5))
                result.recovery.append(await load.recovered(since))
                result.tries += 1
        add(result, await judged(load, [server.url], await shown_by(socket)))
    return result


async def kill_services(trial: Trial) -> Result:
    """Kill the API and calc at random moments."""
    result = Result()
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    async with one_of_each(trial.folder, server) as (api, calc, socket):
        load = Load(socket)
        async with load.running():
            while trial.goes_on():
                await asyncio.sleep(pause(trial.chance, 0.05, 0.8))
                victim = trial.chance.choice([api, calc])
                since = clock.monotonic()
                victim.kill()
                victim.start()
                result.recovery.append(await load.recovered(since))
                result.tries += 1
                if not (api.runs and calc.runs):
                    result.faults.append("a service ended by itself")
        await api_ready(socket)
        add(result, await judged(load, [server.url], await shown_by(socket)))
    return result


async def no_compare_and_set(trial: Trial) -> Result:
    """Write through an API that does not say which revision it means to replace."""
    result = Result()

    def without(write: Append) -> dict[str, str]:
        headers = cas_headers(write)
        del headers[topics.HDR_EXPECTED_LAST_SUBJECT_SEQ]
        return headers

    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    await server.start()
    try:
        with mock.patch.object(appender, "cas_headers", without):
            async with (
                running_api(server.url) as caller,
                Load(Path(caller.socket), n_writers=8).running() as load,
            ):
                while trial.goes_on():
                    await asyncio.sleep(1.0)
                    result.tries += 1
                shown = await shown_by(Path(caller.socket))
        add(result, await judged(load, [server.url], shown))
    finally:
        await server.stop()
    return result


async def kill_any(trial: Trial) -> Result:
    """Kill any of the four, the host's agent among them, on a host of their own."""
    result = Result()
    with Netns("kill") as host, entered(host.name):
        host.run(["ip", "link", "add", "tapw", "type", "veth", "peer", "peer"])
        for name in ("tapw", "peer"):
            host.run(["ip", "link", "set", name, "up"])
        server = NatsServer(listen="127.0.0.1:4222", folder=trial.folder / "nats")
        flags = ["--nats-url", server.url, "--host", "h1"]
        agent = Service("dataplane", *flags, folder=trial.folder)
        async with one_of_each(trial.folder, server) as (api, calc, socket):
            agent.start()
            try:
                await _kill_some(
                    trial,
                    result,
                    host,
                    server,
                    {"api": api, "calc": calc, "dataplane": agent},
                    socket,
                )
            finally:
                if agent.runs:
                    agent.kill()
    result.note = "at the end programmed, and a restarted agent changes no line"
    return result


async def _kill_some(
    trial: Trial,
    result: Result,
    host: Netns,
    server: NatsServer,
    services: Mapping[str, Service],
    socket: Path,
) -> None:
    await programmed(socket, "before")
    load = Load(socket)
    async with load.running():
        while trial.goes_on():
            await asyncio.sleep(pause(trial.chance, 0.05, 0.8))
            victim = trial.chance.choice([*services.values(), None])
            since = clock.monotonic()
            if victim is None:
                await kill_nats(server, down_s=pause(trial.chance, 0.0, 0.3))
            else:
                victim.kill()
                victim.start()
            result.recovery.append(await load.recovered(since))
            result.tries += 1
    await programmed(socket, "after")
    rules = _lines(host)
    services["dataplane"].kill()
    services["dataplane"].start()
    await programmed(socket, "again")
    if _lines(host) != rules:
        result.faults.append("an agent that starts over finds other lines than it makes")
    result.faults += [f"{name} ended by itself" for name, s in services.items() if not s.runs]
    add(result, await judged(load, [server.url], await shown_by(socket)))


def _lines(host: Netns) -> list[str]:
    """Return our lines of every table, without their counters."""
    saved = host.run(["iptables-save"]) + host.run(["ip6tables-save"])
    return [line for line in saved.splitlines() if line.startswith("-A")]


MODES = (
    Mode("power cut", "the server's disk keeps only what was synced", power_cut, weight=2),
    Mode("kill -9 nats-server", "one server, down up to 0.5 s", kill_broker, weight=2),
    Mode("kill -9 api, calc", "at random moments under load", kill_services, weight=2),
    Mode("kill -9 api, calc, dataplane, nats", "any of them under load", kill_any, weight=2),
    Mode("no compare-and-set", "eight writers", no_compare_and_set, bad=True, weight=0.3),
    Mode("power cut, server's own default", "sync_interval 2 m", power_cut_late, bad=True),
)
