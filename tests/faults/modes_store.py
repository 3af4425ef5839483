"""Power cuts, and kill -9 of the broker and of the services, under a load of writes."""

import asyncio
import signal
from collections.abc import AsyncIterator
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
    shown_by,
)
from tests.faults.table import BROKER_ALONE, Mode, Result, Run, Trial
from tests.support.brokers import LateServer
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
    disk = LoopDisk(trial.folder / "disk", trial.folder / "mount")
    server = kind(listen=f"127.0.0.1:{free_port()}", folder=disk.mount)
    try:
        async with one_of_each(trial.folder, server) as (_, _, socket):
            load = Load(socket)
            async with load.running():
                while trial.goes_on():
                    await asyncio.sleep(pause(trial.chance, 0.3, 1.5))
                    await load.recovered(clock.monotonic())  # there is something to lose
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
                result.kills += 1
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
                result.kills += 1
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


def _mode(
    name: str, what: str, run: Run, covers: tuple[str, ...] = (), weight: float = 1.0
) -> Mode:
    here = "tests/faults/modes_store.py"
    return Mode(name, what, run, covers, BROKER_ALONE, weight, bad=not covers, where=here)


MODES = (
    _mode("power cut", "one server; its disk keeps only what was synced", power_cut, ("B7",)),
    _mode("kill -9 nats-server", "one server, down up to 0.5 s", kill_broker, ("B1", "P1"), 2),
    _mode("kill -9 api, calc", "at random moments under load", kill_services, ("P1",), 2),
    _mode("no compare-and-set", "eight writers", no_compare_and_set, weight=0.2),
    _mode("power cut, server's own default", "sync_interval 2 m", power_cut_late, weight=0.3),
)
