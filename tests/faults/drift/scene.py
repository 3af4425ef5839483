"""One damaged host: a real agent in it, streams through it, and what it holds of ours as text.

    remote (192.0.2.2) ── eth0 host ── tapa workload a (10.65.0.10)
                                    └─ tapb workload b (10.65.0.11)

Workload a may reach b. Nobody may reach a; b refuses the remote machine by a deny that names a set.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from hopwall_model.updates import (
    NAT_POOLS,
    POOLS,
    EndpointId,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    Nat,
    PolicyId,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    SetBucket,
    SetId,
    TierPolicies,
)
from tests.faults.drift.damages import NEIGHBOUR, REMOTE, Damage, damages
from tests.faults.streams import Prober, Stream, Verdict, always, socket_in
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario

WORKLOAD = {
    "a": {4: "10.65.0.10", 6: "fd65::10"},
    "b": {4: "10.65.0.11", 6: "fd65::11"},
}
FLOATING = {"a": {4: "203.0.113.10", 6: "fd03::10"}, "b": {4: "203.0.113.11", 6: "fd03::11"}}
#: Within which a repair must be, by how it is found.
BOUND_S = {"event": 1.0, "audit": 30.0}
_PORT = 9000
_POLL_S = 0.02
#: How many hand on the word of a damage, one after the other, each of whom a busy machine may let wait: the kernel, the
#: agent's ear, the agent, the tools that it reads and writes with, and whoever looks here.
_HANDS = 10
#: Until what must come has come.
_PATIENCE_S = 60.0
#: Long enough for what is not ours to be put right by mistake.
_FOREIGN_S = 0.5
#: What makes a noisy neighbour's line of a listing differ each time.
#: Translations are spelled in two ways, by chance.
_NOISE = re.compile(
    r"\[\d+:\d+\]|^#.*$|packets \d+ bytes \d+|(snat|dnat|masquerade)( to \S+)?( fully-random)?$",
    re.M,
)


class Row(NamedTuple):
    """What became of one damage."""

    kind: str
    name: str
    family: int
    backend: str
    found: str
    repair_s: float
    verdict: Verdict
    fault: str = ""


async def say_all(calc: CalcStandIn) -> None:
    """Say the policies, the workloads and one that lives elsewhere."""
    good, bad = SetId("s:good"), SetId("s:bad")
    both = (WORKLOAD["a"], WORKLOAD["b"])
    pieces = (
        SetBucket(
            id=good, version=1, members=tuple(sorted(_wide(a[f], f) for a in both for f in (4, 6)))
        ),
        SetBucket(id=bad, version=2, members=tuple(_wide(NEIGHBOUR[f], f) for f in (4, 6))),
        PolicySet(
            id=PolicyId("gnp/a"), version=3, ingress=(_rule("deny"),), egress=(_rule("allow"),)
        ),
        PolicySet(
            id=PolicyId("gnp/b"),
            version=4,
            ingress=(_rule("deny", bad), _rule("allow", good), _rule("allow")),
            egress=(_rule("allow"),),
        ),
        RoutesBucket(
            host="h2",
            version=5,
            gateway_v4=NEIGHBOUR[4],
            gateway_v6=NEIGHBOUR[6],
            cidrs=tuple(_wide(REMOTE[f], f) for f in (4, 6)),
        ),
    )
    calc.version = 9
    await calc.say(
        pieces=(*pieces, *_more()),
        endpoints=(_endpoint("a"), _endpoint("b")),
        host_endpoints=(_host(),),
    )


def _more() -> tuple[SetBucket | PolicySet, ...]:
    """What lets every table have something of ours: pools that hide, a policy for the host itself."""
    pools = ("10.65.0.0/24", "fd65::/64")
    return (
        SetBucket(id=SetId(POOLS), version=6, members=pools),
        SetBucket(id=SetId(NAT_POOLS), version=7, members=pools),
        PolicySet(
            id=PolicyId("gnp/host"), version=8, ingress=(_rule("allow"),), egress=(_rule("allow"),)
        ),
        PolicySet(
            id=PolicyId("gnp/early"), version=9, ingress=(_rule("pass"),), egress=(_rule("pass"),)
        ),
    )


def _host() -> HostEndpointSet:
    """Return an endpoint of the host's uplink, with policies in all places."""
    tiers = TierPolicies(
        name="default", ingress=(PolicyId("gnp/host"),), egress=(PolicyId("gnp/host"),)
    )
    early = TierPolicies(
        name="default",
        ingress_default="pass",
        egress_default="pass",
        ingress=(PolicyId("gnp/early"),),
        egress=(PolicyId("gnp/early"),),
    )
    return HostEndpointSet(
        id=HostEndpointId("up"),
        interface="eth0",
        tiers=(tiers,),
        forward=(tiers,),
        pre_dnat=(structs.replace(early, egress=()),),
        untracked=(early,),
    )


def _wide(address: str, family: int) -> str:
    return f"{address}/{32 if family == 4 else 128}"


def _rule(action: str, *sets: SetId) -> ResolvedRule:
    return ResolvedRule(id="r", action=action, source=Entity(sets=sets))  # type: ignore[arg-type]


def _endpoint(name: str) -> EndpointSet:
    ids = (PolicyId(f"gnp/{name}"),)
    return EndpointSet(
        id=EndpointId(f"d/{name}"),
        interface=f"tap{name}",
        addresses=tuple(_wide(WORKLOAD[name][f], f) for f in (4, 6)),
        nats=tuple(Nat(_wide(FLOATING[name][f], f), _wide(WORKLOAD[name][f], f)) for f in (4, 6)),
        tiers=(TierPolicies(name="default", ingress=ids, egress=ids),),
    )


def streams(namespaces: dict[str, str]) -> list[Stream]:
    """Open a stream a → b, which is open, and two that are closed, in both families."""
    found = []
    for family in (4, 6):
        targets = {
            name: socket_in(namespaces[name], family, WORKLOAD[name][family], _PORT)
            for name in WORKLOAD
        }
        more = socket_in(namespaces["b"], family, WORKLOAD["b"][family], _PORT + 1)
        for source, name, target, port, is_open in (
            ("a", "b", targets["b"], _PORT, True),
            ("b", "a", targets["a"], _PORT, False),
            ("remote", "b", more, _PORT + 1, False),
        ):
            one = socket_in(namespaces[source], family)
            address = (WORKLOAD[name][family], port)
            name_of = f"{source} to {name} v{family}"
            found.append(Stream(name_of, always(is_open), one, target, address))
    return found


def run(command: str) -> str:
    """Run a line of shell in this namespace; what it says on its error output is part of its failure."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{command} ended with {done.returncode}: {done.stderr}"
        raise RuntimeError(message)
    return done.stdout


class Host:
    """What the host holds, as text."""

    def __init__(self, backend: str) -> None:
        """Take note of the backend."""
        self.backend = backend

    def everything(self) -> str:
        """Return all tables, without counters."""
        if self.backend == "nft":
            return _NOISE.sub("", run("nft -s list ruleset 2>/dev/null"))
        return _NOISE.sub("", run("iptables-legacy-save; ip6tables-legacy-save"))

    def ours(self) -> str:
        """Return what is ours: chains, the first lines of kernel chains, sets, routes, sysctls."""
        chains = _ours_native if self.backend == "nft" else _ours_legacy
        sets = sorted(re.findall(r"^(?:create|add) hw.*$", run("ipset save"), re.M))
        # Room and hash are the kernel's business: a set that was made anew has others.
        sets = [re.sub(r" (hashsize|initval|bucketsize) \S+", "", line) for line in sets]
        routes = run("ip route show proto 80 table all; ip -6 route show proto 80 table all")
        names = [
            f"{tree}/{'neigh' if name == 'proxy_delay' else 'conf'}/{where}/{name}"
            for tree, names in _SYSCTLS.items()
            for name in names
            for where in ("tapa", "tapb")
        ] + ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/eth0/accept_ra"]
        values = [f"{n}={Path(f'/proc/sys/net/{n}').read_text().strip()}" for n in names]
        lines = [*chains(self.everything()), *sets, *sorted(routes.splitlines()), *values]
        return "\n".join(line.strip() for line in lines)


_SYSCTLS = {
    "ipv4": ("rp_filter", "forwarding", "proxy_arp", "accept_redirects", "send_redirects", "route_localnet", "proxy_delay"),
    "ipv6": ("forwarding", "accept_redirects", "accept_ra"),
}  # fmt: skip


_KERNELS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def _ours_legacy(text: str) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line
            seen = set()
        if line.startswith((":hw-", "-A hw-")):
            found.append(f"{table} {line}")
        elif line.startswith("-A "):
            chain = line.split()[1]
            if chain in _KERNELS and (chain not in seen or "-j hw-" in line):
                found.append(
                    f"{table} {line}" if "-j hw-" in line else f"{table} {chain} foreign first"
                )
            seen.add(chain)
    # The two families follow each other, so their order tells them apart.
    return found


def _ours_native(text: str) -> list[str]:
    found: list[str] = []
    table = chain = ""
    n_rules = 0
    for line in map(str.strip, text.splitlines()):
        if line.startswith("table "):
            table, is_kernels = line, False
        elif line.startswith("flags ") and "inet theirs" not in table:
            found.append(f"{table} - {line}")
        elif line.startswith("chain "):
            chain, n_rules, is_kernels = line.split()[1], 0, False
            if chain.startswith("hw-"):
                found.append(f"{table} {chain}")
        elif line.startswith("type ") and chain in _KERNELS:
            is_kernels = True
            found.append(f"{table} {chain} {line.partition(' policy')[0]}")
        elif line and line != "}" and not line.startswith("type ") and "inet theirs" not in table:
            n_rules += 1
            is_ours = chain.startswith("hw-") or (chain in _KERNELS and "jump hw-" in line)
            if is_ours:
                found.append(f"{table} {chain} {line}")
            elif n_rules == 1 and is_kernels and (chain != "POSTROUTING" or "nat" not in table):
                found.append(f"{table} {chain} foreign first")
    # Chains are listed in the order in which they were made.
    return _by_chain(found)


def _by_chain(lines: list[str]) -> list[str]:
    return [
        line
        for _, line in sorted(
            enumerate(lines),
            key=lambda one: (one[1].split("{")[0], one[1].split("{")[1].split()[0], one[0]),
        )
    ]


class Rig:
    """Does damage, and sees what becomes of it."""

    def __init__(self, calc: CalcStandIn, host: Host, prober: Prober) -> None:
        """Take note of the parts."""
        self.calc, self.host, self.prober = calc, host, prober
        self.whole = ""

    async def do(self, damage: Damage) -> Row:
        """Do one damage, wait for the repair, and judge the streams over that time."""
        self.calc.drifts.clear()
        begin = time.monotonic()
        done = begin
        for command in damage.commands:
            done = (
                time.monotonic()
            )  # before the last of them, as it may be put right before it has ended
            run(command)
        fault = ""
        if damage.found == "foreign":
            await asyncio.sleep(_FOREIGN_S)
            repair_s = 0.0
            fault = self._differs()
        else:
            repaired = await self._repaired(done, BOUND_S[damage.found] + _PATIENCE_S)
            repair_s = (repaired or float("inf")) - done
            bound_s = BOUND_S[damage.found] + _HANDS * self.prober.latest_s(begin)
            if repair_s > bound_s:
                fault = (
                    f"not repaired within {bound_s:.1f} s, but in {repair_s:.1f}: {self._differs()}"
                )
        end = time.monotonic()
        await asyncio.sleep(0.3)
        await self._until_told(damage.told)
        if damage.stays and damage.stays not in self.host.everything():
            fault = fault or f"{damage.stays} is not there any more"
        told = {drift.object for drift in self.calc.drifts}
        if damage.told and damage.told not in told:
            fault = fault or f"no drift of a {damage.told} was told, only of {sorted(told)}"
        if not damage.told and damage.found == "foreign" and told:
            fault = fault or f"drift was told where there is none: {self.calc.drifts}"
        for command in damage.after:
            run(command)
        verdict = self.prober.verdict(begin, end, damage.family)
        after = self.prober.verdict(end + 0.05, time.monotonic() - 0.2, damage.family)
        if after.n_open or after.n_closed:
            fault = fault or f"not as it must be after the repair: {after}"
        return Row(
            damage.kind, damage.name, damage.family, damage.backend, damage.found, repair_s, verdict, fault
        )  # fmt: skip

    def _differs(self) -> str:
        now = self.host.ours()
        if now == self.whole:
            return ""
        gone = sorted(set(self.whole.splitlines()) - set(now.splitlines()))
        new = sorted(set(now.splitlines()) - set(self.whole.splitlines()))
        return f"missing {gone[:4]}, too much {new[:4]}"

    async def _until_told(self, told: str) -> None:
        """Wait for the news of a drift, where there must be some."""
        deadline_at = time.monotonic() + _PATIENCE_S
        while told and all(drift.object != told for drift in self.calc.drifts):
            if time.monotonic() > deadline_at:
                return
            await asyncio.sleep(_POLL_S)

    async def _repaired(self, begin: float, within_s: float) -> float | None:
        """Return when the first of two looks in a row ended that found all as it was.

        One is not enough: it reads one thing after the other, and may see this before and that after the repair.
        """
        found_at: float | None = None
        while time.monotonic() < begin + within_s:
            is_whole = await asyncio.to_thread(self.host.ours) == self.whole
            if is_whole and found_at is not None:
                return found_at
            found_at = time.monotonic() if is_whole else None
            await asyncio.sleep(_POLL_S)
        return None

    async def settle(self) -> None:
        """Take note of what the host holds, once it stays so and all streams fare as they must."""
        deadline_at = time.monotonic() + _PATIENCE_S
        while True:
            begin, before = time.monotonic(), await asyncio.to_thread(self.host.ours)
            await asyncio.sleep(1.0)
            self.whole = await asyncio.to_thread(self.host.ours)
            verdict = self.prober.verdict(begin, time.monotonic() - 0.4)
            is_right = verdict.n_sent and not verdict.n_open and not verdict.n_closed
            if is_right and before == self.whole:
                return
            assert time.monotonic() < deadline_at, f"it does not come to rest: {verdict}"


async def scenario(
    calc: CalcStandIn, _agent: AgentProcess, backend: str, namespaces: dict[str, str], only: str
) -> list[Row]:
    """Bring the host up, do the damages one by one, and return what became of each."""
    await say_all(calc)
    await calc.applied()
    host = Host(backend)
    with Prober(streams(namespaces)) as prober:
        rig = Rig(calc, host, prober)
        await rig.settle()
        rows = []
        for damage in damages(backend):
            if (only == "quick" and not damage.quick) or (
                only not in ("", "quick") and only not in damage.name
            ):
                continue
            row = await rig.do(damage)
            rows.append(row)
            print(json.dumps(row._asdict() | {"verdict": row.verdict.__dict__}), flush=True)
        return rows


def main() -> None:
    """Run inside the host's namespace: backend, folder, namespaces as JSON, which damages."""
    backend, folder, namespaces, only = sys.argv[1:5]

    async def go(calc: CalcStandIn, agent: AgentProcess) -> list[Row]:
        return await scenario(calc, agent, backend, json.loads(namespaces), only)

    run_scenario(go, Path(folder), "--backend", backend, "--refresh-s", "3600")


if __name__ == "__main__":
    main()
