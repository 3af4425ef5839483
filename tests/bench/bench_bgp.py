"""Routes by BGP in the lab's topologies: how soon they are everywhere, and what is lost when BIRD dies.

`python -m tests.bench.bench_bgp [topology …] [--write]` as root, some five minutes for all; `--write` keeps what
was found in docs/bgp-report.md. Every figure is by the kernels' own route events (`tests/support/route_watch.py`),
so that a route that was away for a millisecond counts as lost. Ends with 1 when a promise is broken.
"""

import argparse
import asyncio
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hopwall_cli.lab import bgp
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import TOPOLOGIES, Topology
from tests.bench.bgp_rig import FABRIC, HOME, N_ENDPOINTS, NEWCOMER, Kill, Rig, Times, running
from tests.bench.result import Result, table

REPORT = Path(__file__).parents[2] / "docs" / "bgp-report.md"
#: Milliseconds. Source: the product's own promise.
P99_MS = 1000.0
#: Whose BIRD is killed: who announces, who receives, and who reflects.
KILLS: dict[Topology, tuple[str, ...]] = {
    "mesh": (HOME, "h1"),
    "host-reflector": ("h1",),
    "reflector": ("rr1", HOME, "h1"),
    "reflectors": ("rr1", HOME),
    "fabric": (HOME,),
}
#: Both die at once: two hosts that speak with each other, a reflector and its client, two reflectors.
PAIRS: dict[Topology, tuple[tuple[str, str], ...]] = {
    "mesh": ((HOME, "h1"),),
    "host-reflector": (("h1", HOME),),
    "reflector": (("rr1", HOME),),
    "reflectors": (("rr1", "rr2"), ("rr1", HOME)),
    "fabric": ((HOME, "h1"),),
}
ROLES = {HOME: "announces the endpoints", "h1": "receives", "rr1": "reflects"}
BOTH = "reflects and receives"
#: Without BFD a dead peer is noticed after three of these, and its routes are kept for the restart time.
KEEPALIVE_S, RESTART_S = 1, 5
QUICK = {"keepaliveTime": f"{KEEPALIVE_S}s", "maxRestartTime": f"{RESTART_S}s"}
QUICKLY = f"keepaliveTime {KEEPALIVE_S}s, maxRestartTime {RESTART_S}s"
#: Until BIRDs have taken a change and their sessions are up again.
_TAKEN_S = 8.0


@dataclass
class Found:
    """What was measured in one topology; seconds where no unit is said."""

    times: Times
    has_all_s: float = math.nan
    known_s: float = math.nan
    left_s: float = math.nan
    kills: list[Kill] = field(default_factory=list)
    pairs: list[Kill] = field(default_factory=list)
    #: How its sessions are declared → until the routes of a host without power are gone.
    dark_s: dict[str, float] = field(default_factory=dict)
    news_s: float = math.nan
    news_forgotten_s: float = math.nan


def rank(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def measure(topology: Topology) -> Found:
    """Measure one topology in a lab of its own."""
    async with running(topology) as rig:
        found = Found(await rig.endpoints())
        found.has_all_s, found.known_s = await rig.join()
        found.left_s = await rig.leave()
        for who in KILLS[topology]:
            found.kills.append(await rig.kill(who))
        for pair in PAIRS[topology]:
            found.pairs.append(await rig.kill(*pair))
        if topology in ("mesh", "reflector"):
            await lose_power(rig, found)
        if topology == "fabric":
            await lose_power_of_a_routers_peer(rig, found)
        if topology == "reflectors":
            await lose_reflector(rig, found)
    return found


async def lose_power(rig: Rig, found: Found) -> None:
    """Take a host's power twice: with sessions that say they live, and with BFD."""
    reflects = bool(rig.lab.reflectors)
    declared = bgp.reflector_peer if reflects else all_with_all
    await rig.lab.client.apply([declared(**QUICK)])
    await rig.join()
    found.dark_s[QUICKLY] = await rig.lose_power()
    await rig.lab.client.apply([declared(bfd=True)])
    await rig.join()
    who = "rr1" if reflects else "h1"
    await rig.until_bfd(who, 2 * len(rig.lab.peers(who)))
    found.dark_s["bfd"] = await rig.lose_power()


def all_with_all(**more: Any) -> dict[str, Any]:
    """Return a BGPPeer that says of the mesh's sessions what a mesh cannot say; `more` is added to its spec."""
    spec = {"nodeSelector": "all()", "peerSelector": "all()", **more}
    return topo.resource("BGPPeer", "mesh", spec)


async def lose_power_of_a_routers_peer(rig: Rig, found: Found) -> None:
    """Take a host's power whose sessions with the fabric's router say that they live: what that router does."""
    await rig.lab.client.apply([bgp.router_peer(family, **QUICK) for family in (4, 6)])
    await rig.join()
    found.dark_s[f"{QUICKLY}, on the fabric's router"] = await rig.lose_power(FABRIC)


async def lose_reflector(rig: Rig, found: Found) -> None:
    """Let one of two reflectors die for good, and a host's BIRD crash: at once, and when it is given up."""
    await rig.lab.client.apply([bgp.reflector_peer(**QUICK)])
    await asyncio.sleep(_TAKEN_S)
    await rig.lab.crash("rr2")
    found.news_s = await rig.news_after_crash(1)
    await rig.until_forgotten()
    found.news_forgotten_s = await rig.news_after_crash(2)


# ---------------------------------------------------------------- what is said of it


def results(found: dict[Topology, Found]) -> list[Result]:
    """Return the times that are promised with what was found of them."""
    kept = []
    for topology, one in found.items():
        p99 = rank(one.times.from_answer, 0.99)
        title = f"{topology}: programmed to routed everywhere, p99, against the promise"
        kept.append(Result(title, p99, P99_MS, p99 / P99_MS, 1.0))
    return kept


def n_lost(found: dict[Topology, Found]) -> int:
    """Return how many routes and packets all kills took."""
    kills = [kill for one in found.values() for kill in one.kills]
    return sum(len(k.lost_away) + len(k.lost_back) + k.lost_packets for k in kills)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _ms(values: Sequence[float]) -> str:
    return " / ".join(f"{rank(values, share):.0f}" for share in (0.5, 0.99, 1.0))


def _routes(found: dict[Topology, Found]) -> list[str]:
    return [
        _row("topology", "call → `programmed`", "own kernel → others'", "`programmed` → others",
             "call → others"),
        _row(*["---"] * 5),
        *(
            _row(topology, *map(_ms, (t.answer, t.from_kernel, t.from_answer, t.from_call)))
            for topology, t in ((name, one.times) for name, one in found.items())
        ),
    ]  # fmt: skip


def _hosts(found: dict[Topology, Found]) -> list[str]:
    return [
        _row("topology", "joins: has all routes", "its first block is everywhere", "leaves: its block is gone"),
        _row(*["---"] * 4),
        *(
            _row(name, f"{one.has_all_s:.1f} s", f"{one.known_s:.2f} s", f"{one.left_s:.2f} s")
            for name, one in found.items()
        ),
    ]  # fmt: skip


def _dark(found: dict[Topology, Found]) -> list[str]:
    return [
        "",
        "## A host loses its power",
        "",
        _row("topology", "sessions", "its block is gone"),
        _row("---", "---", "---"),
        *(
            _row(name, how, f"{took_s:.2f} s")
            for name, one in found.items()
            for how, took_s in one.dark_s.items()
        ),
        "",
        "A peer that is silent is dead after three keepalives, and then its routes go at once: the restart time is for "
        "peers whose connection broke. Without `keepaliveTime` that is BIRD's hold time, 240 s. A mesh cannot say "
        "either; a BGPPeer of all hosts with all (`nodeSelector` and `peerSelector` `all()`) can, as here.",
    ]


def _pairs(found: dict[Topology, Found]) -> list[str]:
    head = ("topology", "whose BIRDs", "away", "routes lost", "for at most", "packets lost")
    return [
        "",
        "## Two BIRDs are killed at once",
        "",
        "Not promised: each says that it restarts, so neither waits for what the other has to tell "
        "(RFC 4724), and what only the other told goes until it has.",
        "",
        _row(*head),
        _row(*["---"] * len(head)),
        *(
            _row(
                name,
                kill.who,
                f"{kill.back_s:.1f} s",
                f"{len(kill.lost_away) + len(kill.lost_back)} of {kill.n_routes}",
                f"{kill.longest_s * 1000:.0f} ms",
                f"{kill.lost_packets} of {kill.sent}",
            )
            for name, one in found.items()
            for kill in one.pairs
        ),
    ]


def _recovery(found: dict[Topology, Found]) -> list[str]:
    one = found.get("reflectors")
    if one is None:
        return []
    return [
        "",
        "## A BIRD crashes while one of two reflectors is dead for good",
        "",
        f"BIRD of {HOME} is killed and an endpoint declared there, from the kill to its routes on all other hosts; "
        f"keepaliveTime {KEEPALIVE_S}s, maxRestartTime {RESTART_S}s. What is learnt stays meanwhile.",
        "",
        _row("the reflector", "new routes are everywhere"),
        _row("---", "---"),
        _row("died just before", f"{one.news_s:.1f} s"),
        _row("has been dead for longer than routes are kept", f"{one.news_forgotten_s:.1f} s"),
    ]


def _lost(routes: Sequence[str], n_routes: int) -> str:
    named = f": {', '.join(routes[:3])}" if routes else ""
    return f"{len(routes)} of {n_routes}{named}"


def _kills(found: dict[Topology, Found]) -> list[str]:
    head = ("topology", "whose BIRD", "away", "routes lost meanwhile", "on return", "packets lost")
    return [
        _row(*head),
        _row(*["---"] * len(head)),
        *(
            _row(
                name,
                f"{kill.who}, {BOTH if name == 'host-reflector' else ROLES[kill.who]}",
                f"{kill.back_s:.1f} s",
                _lost(kill.lost_away, kill.n_routes),
                _lost(kill.lost_back, kill.n_routes),
                f"{kill.lost_packets} of {kill.sent}",
            )
            for name, one in found.items()
            for kill in one.kills
        ),
    ]


def report(found: dict[Topology, Found], took_s: float) -> str:
    """Return the page."""
    bird = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=True)
    version = (bird.stdout or bird.stderr).strip().removeprefix("BIRD version ")
    lines = [
        "# Routes by BGP, measured",
        "",
        "Made by `make bgp-report`, not by hand. What it shows is in [the design](design/bgp.md).",
        "",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; BIRD {version}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
        f"three hosts, {took_s:.0f} s in all.",
        "",
        "## An endpoint's routes, on every other host",
        "",
        f"{N_ENDPOINTS} endpoints of {HOME}, one after the other, each with a /32 and a /128 outside all blocks. "
        "p50 / p99 / max in ms until both are in the kernels of all other hosts; "
        f"promised: `programmed` → others, p99, at most {P99_MS:.0f} ms; 0 is before the answer.",
        "",
        *_routes(found),
        "",
        "## A host joins, and leaves in order",
        "",
        f"{NEWCOMER} joins: from nothing (namespace, agent, BIRD, Node) to all routes in its kernel; "
        "from the request for an address to its block on all others. It leaves: endpoint, Node and block withdrawn.",
        "",
        *_hosts(found),
        "",
        "## A BIRD is killed (kill -9) and started again",
        "",
        "Promised: no route and no packet. Seen in the kernels of all hosts and of the fabric's router, both families, until "
        "recovery ended and 2 s more; the flow is 100 datagrams a second from h1 to h3 and back.",
        "",
        *_kills(found),
        *_pairs(found),
        *_dark(found),
        *_recovery(found),
    ]
    return "\n".join(lines) + "\n"


async def measure_all(topologies: Sequence[Topology]) -> dict[Topology, Found]:
    """Measure one topology after the other."""
    found: dict[Topology, Found] = {}
    for topology in topologies:
        began_s = time.monotonic()
        found[topology] = await measure(topology)
        sys.stderr.write(f"{topology}: {time.monotonic() - began_s:.0f} s\n")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the report if asked; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench_bgp")
    parser.add_argument("topologies", nargs="*", choices=[*TOPOLOGIES, []], default=[])
    parser.add_argument("--write", action="store_true", help=f"keep the report in {REPORT.name}")
    asked = parser.parse_args(argv)
    if asked.write and asked.topologies:
        parser.error("--write keeps the figures of all topologies: name none.")
    began_s = time.monotonic()
    found = asyncio.run(measure_all(asked.topologies or list(TOPOLOGIES)))
    text = report(found, time.monotonic() - began_s)
    promises, lost = results(found), n_lost(found)
    sys.stdout.write(f"{text}\n{table(promises)}{lost} routes and packets lost by kills\n")
    if asked.write:
        REPORT.write_text(text)
    return 0 if not lost and all(one.holds for one in promises) else 1


if __name__ == "__main__":
    raise SystemExit(main())
