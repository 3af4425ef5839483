"""All services together on a real kernel: three hosts, workloads on both kinds of cable, both families."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio

from hopwall_cli import scene
from hopwall_cli.client import path_of
from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab, Proto
from hopwall_cli.lab.rules import entrances
from hopwall_cli.lab.topology import LabError, Workload
from tests.support.flows import flows_until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

NAME = "e2e"
PROTOCOLS: tuple[Proto, ...] = ("icmp", "tcp", "udp")
FAMILIES: tuple[Literal[4, 6], ...] = (4, 6)
WEP, GNP, GNS, PROFILE = (kind_named(name) for name in ("wep", "gnp", "gns", "profile"))


def in_both_families(workload: Workload) -> Workload:
    """Return the scene's workload with an IPv6 address as well."""
    last = workload.ipv4.rpartition(".")[2]
    return Workload(
        name=workload.name,
        host=workload.host,
        ipv4=workload.ipv4,
        ipv6=f"fd65::{last}",
        kind=workload.kind,
        routing=workload.routing,
        interface=workload.interface,
        labels=workload.labels,
        profiles=workload.profiles,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    """Run one lab for the module: the demo's workloads, declared, with an open profile."""
    async with Lab(NAME, hosts=3, dhcp=True, agent_flags=["--refresh-s", "5"]) as running:
        await running.add(*(in_both_families(workload) for workload in scene.WORKLOADS))
        await running.client.apply([topo.open_profile(scene.OPEN_PROFILE)])
        answer = await running.declare()
        assert reached(answer), answer["status"]
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def isolated(lab: Lab) -> AsyncIterator[None]:
    """Keep the customers apart for one test."""
    answer = await lab.client.apply(scene.isolation(), wait="programmed")
    assert reached(answer), answer["status"]
    yield
    for policy in scene.isolation():
        await lab.client.delete(
            GNP, namespace="", name=policy["metadata"]["name"], wait="programmed"
        )


async def wrong(lab: Lab, wanted: dict[tuple[str, str], bool]) -> list[str]:
    """Return every probe, by all protocols and families, that is not as wanted."""
    ways = [(version, proto) for version in FAMILIES for proto in PROTOCOLS]
    names = tuple(scene.CUSTOMERS)
    found = await asyncio.gather(*(lab.matrix(names, proto, version=v) for v, proto in ways))
    return [
        f"{proto} over IPv{version}: {src} to {dst} is {good}"
        for (version, proto), matrix in zip(ways, found, strict=True)
        for (src, dst), good in matrix.items()
        if good != wanted[src, dst]
    ]


async def put_profile(lab: Lab, spec: dict[str, Any]) -> None:
    """Write the profile that every workload has, and wait for the hosts."""
    profile = topo.resource("Profile", scene.OPEN_PROFILE, spec)
    assert reached(await lab.client.put(PROFILE, profile, wait="programmed"))


async def test_routes_are_those_of_the_scene(lab: Lab) -> None:
    """The first host's table is exactly the expected one, a foreign route in the pool included."""
    assert await lab.routes("h1") == scene.ROUTES


async def test_host_answers_arp_for_any_next_hop(lab: Lab) -> None:
    """Whatever next hop a workload was given, its host answers with its own address; never for itself."""
    for name, addresses in scene.NEXT_HOPS.items():
        mine = await lab.mac_towards(name)
        assert [await lab.arp(name, address) for address in addresses] == [mine] * len(addresses)
    assert await lab.arp("vm21", "10.65.0.21") == ""


async def test_open_profile_lets_all_reach_all(lab: Lab) -> None:
    """With a profile that allows all and no policy, every pair reaches each other, both families."""
    assert await wrong(lab, scene.expected(isolated=False)) == []


async def test_without_a_rule_nothing_passes(lab: Lab) -> None:
    """A profile without rules closes all its endpoints."""
    await put_profile(lab, {})
    try:
        assert await wrong(lab, dict.fromkeys(scene.expected(isolated=True), False)) == []
    finally:
        await put_profile(lab, topo.open_profile("open")["spec"])


@pytest.mark.usefixtures("isolated")
async def test_customers_reach_only_themselves(lab: Lab) -> None:
    """Each customer reaches itself and nobody else, across hosts and on one host."""
    assert await wrong(lab, scene.expected(isolated=True)) == []


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("host", ["h1", "h2", "h3"])
async def test_other_bookend_holds(lab: Lab, host: str) -> None:
    """Where one host has lost all its rules, flows to workloads of other hosts stay closed."""
    agent = lab.services[f"dataplane-{host}"]
    before = entrances(await lab.rules(host))
    agent.signal(signal.SIGSTOP)
    try:
        for tool in ("iptables-nft", "ip6tables-nft"):
            for table in ("raw", "mangle", "filter"):
                await lab.run(host, [tool, "-t", table, "-F"])
        for version in FAMILIES:
            matrix = await lab.matrix(tuple(scene.CUSTOMERS), "icmp", version=version)
            wanted = scene.expected(isolated=True)
            across = {
                pair for pair in wanted if {lab.workloads[name].host for name in pair} != {host}
            }
            assert {pair: matrix[pair] for pair in across} == {
                pair: wanted[pair] for pair in across
            }
    finally:
        agent.signal(signal.SIGCONT)
    async with asyncio.timeout(60):
        while entrances(await lab.rules(host)) != before:
            await asyncio.sleep(0.1)
    assert await wrong(lab, scene.expected(isolated=True)) == []


async def kill(lab: Lab, *names: str) -> None:
    """kill -9 of services at once; return when each is another process."""
    before = {name: lab.services[name].pid for name in names}
    for name in names:
        lab.services[name].signal(signal.SIGKILL)
    async with asyncio.timeout(60):
        while any(lab.services[name].pid in (0, pid) for name, pid in before.items()):
            await asyncio.sleep(0.05)


async def test_flow_does_not_notice_that_all_services_are_killed(lab: Lab) -> None:
    """kill -9 of every service, and their return, costs a running flow not one packet."""
    flows: tuple[tuple[str, str, Literal[4, 6]], ...]
    flows = (("vm21", "vm22", 4), ("vm24", "vm23", 6))
    for src, dst, version in flows:
        await lab.start_flow(src, dst, version=version)
    for src, dst, _ in flows:
        await flows_until(lab, src, dst, received=1)
    await kill(lab, *lab.services)
    await lab.client.ready(timeout_s=60.0)
    # A write that every host enforces shows that all of them are back.
    answer = await lab.client.apply(scene.isolation(), wait="programmed", timeout_s=60.0)
    for policy in scene.isolation():
        await lab.client.delete(GNP, namespace="", name=policy["metadata"]["name"])
    results = [await lab.stop_flow(src, dst) for src, dst, _ in flows]
    assert reached(answer), answer["status"]
    assert [result["sent"] - result["received"] for result in results] == [0, 0]
    assert all(result["sent"] > 50 for result in results)


async def test_what_was_acknowledged_survives_kill_9(lab: Lab) -> None:
    """A write that was answered is there after kill -9 of the API and of the event store."""
    wanted = [
        topo.resource("GlobalNetworkSet", f"kept-{n}", {"nets": [f"192.0.2.{n}/32"]})
        for n in range(20)
    ]
    await lab.client.apply(wanted)
    await kill(lab, "nats", "api", "calc")
    await lab.client.ready(timeout_s=60.0)
    listed = await lab.client.list(GNS)
    assert {item["metadata"]["name"] for item in listed["items"]} == {
        item["metadata"]["name"] for item in wanted
    }


async def test_undeclared_workload_is_closed(lab: Lab) -> None:
    """A workload that nobody declared reaches nobody, is reached by nobody, and gets no route."""
    await lab.add(Workload(name="stray", host="h2", ipv4="10.65.0.66"))
    try:
        for proto in PROTOCOLS:
            assert not await lab.reach("stray", "vm24", proto)
            assert not await lab.reach("stray", "h2", proto)
        assert not await lab.reach("vm24", "stray")
        for host in lab.hosts:
            assert "10.65.0.66" not in {route.destination for route in await lab.routes(host)}
    finally:
        await lab.remove("stray")


async def test_endpoint_waits_for_its_interface(lab: Lab) -> None:
    """A declared endpoint without an interface is reported; when the interface comes, it works."""
    late = Workload(name="late", host="h2", ipv4="10.65.0.67", profiles=(scene.OPEN_PROFILE,))
    answer = await lab.client.put(WEP, late.resource(), wait="programmed", timeout_s=1.0)
    assert not reached(answer)
    try:
        async with asyncio.timeout(60):
            while not any("late" in reason for reason in await held_up_by(lab, "late")):
                await asyncio.sleep(0.1)
        await lab.add(late)
        async with asyncio.timeout(60):
            while not await lab.reach("late", "vm24"):
                await asyncio.sleep(0.05)
        assert await lab.reach("vm24", "late", "tcp")
    finally:
        await lab.client.delete(WEP, namespace="default", name="late", wait="programmed")
        await lab.remove("late")


async def held_up_by(lab: Lab, name: str) -> list[str]:
    """Return why an endpoint is not enforced yet, by its status."""
    where = path_of(WEP, namespace="default", name=name)
    status = (await lab.client.request("GET", where))["status"]
    return [late["reason"] for late in status.get("laggards", ())]


async def test_removed_endpoint_is_closed_and_unreachable(lab: Lab) -> None:
    """After the removal of an endpoint its route is gone everywhere and nothing passes."""
    gone = Workload(name="gone", host="h3", ipv4="10.65.0.68", profiles=(scene.OPEN_PROFILE,))
    await lab.add(gone)
    try:
        assert reached(await lab.declare("gone"))
        assert await lab.reach("vm24", "gone")
        answer = await lab.client.delete(WEP, namespace="default", name="gone", wait="programmed")
        assert reached(answer), answer
        for host in lab.hosts:
            assert "10.65.0.68" not in {route.destination for route in await lab.routes(host)}
        assert not await lab.reach("vm24", "gone", "tcp")
        assert not await lab.reach("gone", "vm24", "udp")
    finally:
        await lab.remove("gone")


async def test_spoofed_source_is_dropped_at_its_own_host(lab: Lab) -> None:
    """A packet with the address of another workload does not leave the sender's host."""
    await lab.run("vm24", ["ip", "address", "add", "10.65.0.22/32", "dev", "eth0"])
    try:
        async with lab.witness("h1", "vm22", "vm21") as seen:
            prober = await lab.prober("vm24")
            probe = {"src": "10.65.0.22", "dst": "10.65.0.21"}
            assert not (await prober.ask("icmp", probe))["ok"]
        assert seen.packets == 0
    finally:
        await lab.run("vm24", ["ip", "address", "del", "10.65.0.22/32", "dev", "eth0"])


async def test_port_and_protocol_are_matched(lab: Lab) -> None:
    """A policy for one TCP port opens that port and nothing else."""
    spec = {
        "selector": "customer == 'b'",
        "types": ["Ingress"],
        "ingress": [
            {
                "action": "Allow",
                "protocol": "TCP",
                "source": {"selector": "customer == 'a'"},
                "destination": {"ports": [7001]},
            }
        ],
    }
    policy = topo.resource("GlobalNetworkPolicy", "one-port", spec)
    assert reached(await lab.client.put(GNP, policy, wait="programmed"))
    try:
        assert await lab.reach("vm21", "vm24", "tcp", port=7001)
        assert not await lab.reach("vm21", "vm24", "tcp", port=7002)
        assert not await lab.reach("vm21", "vm24", "udp", port=7001)
        assert not await lab.reach("vm23", "vm24", "tcp", port=7001)
        assert await lab.reach("vm24", "vm21", "udp", port=7001)
    finally:
        await lab.client.delete(GNP, namespace="", name="one-port", wait="programmed")


async def test_hosts_are_in_sync_and_without_complaint(lab: Lab) -> None:
    """After all of this no host refuses or waits for anything."""
    async with asyncio.timeout(60):
        while True:
            hosts = (await lab.client.request("GET", "/v1/hosts"))["items"]
            if all(host["inSync"] and not host.get("lag") for host in hosts):
                break
            await asyncio.sleep(0.1)
    assert [(host["host"], host.get("refused"), host.get("waiting")) for host in hosts] == [
        (name, None, None) for name in lab.hosts
    ]


# ---------------------------------------------------------------- the command, against the same lab


async def hopwall(lab: Lab, *argv: str, text: str = "") -> tuple[int, str, str]:
    """Run the command against the lab; return exit code and both outputs."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "hopwall_cli", *lab.client_flags, *argv],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    return process.returncode or 0, out.decode(), err.decode()


SET = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: friends, labels: {role: friend}}
spec: {nets: [192.0.2.0/24]}
"""


async def test_apply_get_delete_round(lab: Lab) -> None:
    """What is applied is shown, in a form that can be applied again, and is gone when deleted."""
    assert await hopwall(lab, "apply", "-f", "-", "--dry-run", text=SET) == (
        0,
        "GlobalNetworkSet friends created (dry run)\n",
        "",
    )
    assert await hopwall(lab, "apply", "-f", "-", "--wait", "programmed", text=SET) == (
        0,
        "GlobalNetworkSet friends created\n",
        "",
    )
    code, shown, _ = await hopwall(lab, "get", "gns", "-l", "role == 'friend'", "-o", "yaml")
    assert code == 0
    assert await hopwall(lab, "apply", "-f", "-", text=shown) == (
        0,
        "GlobalNetworkSet friends unchanged\n",
        "",
    )
    _, listed, _ = await hopwall(lab, "get", "GlobalNetworkSets", "friends")
    assert listed.splitlines()[1].split() == ["friends", "192.0.2.0/24"]
    assert (await hopwall(lab, "delete", "gns", "friends"))[0] == 0
    code, _, said = await hopwall(lab, "get", "gns", "friends")
    assert (code, said) == (1, "hopwall: GlobalNetworkSet friends does not exist.\n")


async def test_fault_is_told_with_document_and_field(lab: Lab) -> None:
    """Nothing is stored when one document is wrong, and the line names document and field."""
    wrong_set = SET.replace("192.0.2.0/24", "192.0.2.0/99").replace("friends", "wrong")
    code, out, said = await hopwall(lab, "apply", "-f", "-", text=f"{SET}---\n{wrong_set}")
    assert (code, out) == (1, "")
    assert said.startswith("hopwall: standard input, document 2: spec.nets.0: ")
    assert (await hopwall(lab, "get", "gns", "friends"))[0] == 1


@pytest.mark.usefixtures("isolated")
async def test_a_dropped_packet_is_counted_where_it_was_dropped(lab: Lab) -> None:
    """The end of the tier that dropped it counts it, and a pasted log prefix is resolved to it."""

    async def tier_end() -> dict[str, Any]:
        rules = (await lab.client.request("GET", "/v1/hosts/h1/rules"))["items"]
        (found,) = [
            rule
            for rule in rules
            if (rule["place"], rule.get("direction")) == ("end of tier default", "egress")
        ]
        return dict(found)

    before = await tier_end()
    assert not await lab.reach("vm24", "vm21", "udp")
    after = await tier_end()
    assert after["packets"] > before["packets"]
    assert after["bytes"] > before["bytes"]
    code, shown, _ = await hopwall(lab, "rules", "h1", f"hw:e:deny:aaaaaa:-:{after['identity']}")
    assert code == 0
    assert "end of tier default" in shown
    assert (await hopwall(lab, "rules", "h9"))[0] == 1
    assert (await hopwall(lab, "rules", "h1", "zzzzzzzzzz"))[0] == 1


async def test_wrong_call_is_exit_code_2(lab: Lab) -> None:
    """A call that cannot be meant ends with 2."""
    assert (await hopwall(lab, "get", "pods"))[0] == 2
    assert (await hopwall(lab, "get", "gns", "-n", "default"))[0] == 2
    assert (await hopwall(lab, "delete"))[0] == 2


async def test_watch_shows_changes(lab: Lab) -> None:
    """A watch begins with what is there, and goes on with each change and removal."""
    events: list[tuple[str, str]] = []

    async def follow() -> None:
        async for event, _, data in lab.client.watch(GNS, selector="role == 'friend'"):
            events.append((event, data.get("metadata", {}).get("name", "")))
            if event == "removed":
                return

    # Each command is a Python that starts.
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        while ("bookmark", "") not in events:
            await asyncio.sleep(0.01)
        await hopwall(lab, "apply", "-f", "-", text=SET)
        await hopwall(lab, "delete", "gns", "friends")
    assert events == [("bookmark", ""), ("set", "friends"), ("removed", "friends")]


async def test_hosts_command_lists_all(lab: Lab) -> None:
    """`hopwall hosts` has a line for each host."""
    code, out, _ = await hopwall(lab, "hosts")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["HOST", *lab.hosts]


async def test_second_lab_of_the_name_is_refused(lab: Lab) -> None:
    """A lab that runs is never swept away by another of its name."""
    with pytest.raises(LabError, match="is running already"):
        async with Lab(NAME, services=False):
            pass
    assert topo.host_namespace(NAME, "h1") in netns.present(topo.prefix(NAME))
    assert await lab.reach("vm21", "vm22")
