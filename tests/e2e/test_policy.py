"""The policy language on two hosts: each part declared over REST, waited for, and tried with packets."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import pytest_asyncio

from hopwall_cli.client import Problem, path_of
from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab, Proto
from hopwall_cli.lab.netns import inside
from hopwall_cli.lab.topology import Workload, open_profile, resource
from hopwall_runtime import clock
from tests.support.flows import flows_until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
#: Within which a flow that policy denies is cut, and how often of that a busy machine may let each of the hands wait
#: through which the word of it goes: the agent, its thread, the kernel's tools.
CUT_S, HANDS = 1.0, 10

Doc = dict[str, Any]
FAMILIES: tuple[Literal[4, 6], ...] = (4, 6)
#: A floating address, routed to the first host's side of the fabric and nobody's own.
FLOATING = {4: "192.0.2.10", 6: "2001:db8::10"}
WORKLOADS = (
    Workload(name="web", host="h1", ipv4="10.65.0.31", ipv6="fd65::31", profiles=("open",)),
    Workload(name="near", host="h1", ipv4="10.65.0.32", ipv6="fd65::32", profiles=("open",)),
    Workload(name="far", host="h2", ipv4="10.65.0.33", ipv6="fd65::33", profiles=("open",)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    """Run one lab for the module; the fabric knows the way to the workloads and answers as a stranger."""
    async with Lab("policy", hosts=2, agent_flags=["--refresh-s", "30", "--udplite"]) as running:
        await running.add(*WORKLOADS)
        await running.client.apply([open_profile("open")])
        assert reached(
            await running.client.apply([_endpoint(w) for w in WORKLOADS], wait="programmed")
        )
        await _way_back(running, "add")
        for place in ("fabric", "h1", "h2"):
            await running.prober(place)
        yield running


async def _way_back(lab: Lab, verb: Literal["add", "del"]) -> None:
    """Let the fabric know, or not know, where the workloads are."""
    for workload in WORKLOADS:
        host = lab.hosts[workload.host]
        for address, gateway in ((workload.ipv4, host.ipv4), (workload.ipv6, host.ipv6)):
            await lab.run("fabric", ["ip", "route", verb, address, "via", gateway])


def _endpoint(workload: Workload) -> Doc:
    """Return a workload's endpoint with its name as a label, and a named port."""
    made = workload.resource()
    made["metadata"]["labels"] = {"role": workload.name}
    made["spec"]["ports"] = [{"name": "service", "protocol": "TCP", "port": 7000}]
    return made


def gnp(name: str, selector: str, **spec: Any) -> Doc:
    """Return a global policy."""
    return resource("GlobalNetworkPolicy", name, {"selector": selector, **spec})


@asynccontextmanager
async def declared(lab: Lab, *documents: Doc) -> AsyncIterator[None]:
    """Declare resources for a block, enforced when it begins and gone when it ends."""
    answer = await lab.client.apply(documents, wait="programmed")
    assert reached(answer), answer["status"]
    try:
        yield
    finally:
        for document in reversed(documents):
            kind = kind_named(document["kind"].lower())
            meta = document["metadata"]
            namespace = meta.get("namespace", "default" if kind.NAMESPACED else "")
            await lab.client.delete(kind, namespace=namespace, name=meta["name"], wait="programmed")


async def verdicts(lab: Lab, src: str, dst: str, *probes: tuple[Proto, int]) -> list[list[bool]]:
    """Return for each family whether each probe is answered; an address of the source's kind is used."""
    return [
        list(
            await asyncio.gather(
                *(lab.reach(src, dst, proto, port=port, version=version) for proto, port in probes)
            )
        )
        for version in FAMILIES
    ]


TCP, UDP, OTHER, ICMP = ("tcp", 7000), ("udp", 7000), ("tcp", 7001), ("icmp", 7000)
PROBES: tuple[tuple[Proto, int], ...] = (TCP, UDP, OTHER, ICMP)  # type: ignore[assignment]


async def both(lab: Lab, src: str, dst: str) -> list[bool]:
    """Return whether tcp 7000, udp 7000, tcp 7001 and a ping are answered, the same in both families."""
    four, six = await verdicts(lab, src, dst, *PROBES)
    assert four == six, (four, six)
    return four


async def test_a_tier_passes_denies_or_ends(lab: Lab) -> None:
    """Pass goes on to the next tier, Deny does not, and what a tier leaves undecided is denied."""
    first = [
        {"action": "Pass", "protocol": "TCP", "destination": {"ports": [7000]}},
        {"action": "Deny", "protocol": "UDP"},
    ]
    async with declared(
        lab,
        resource("Tier", "security", {"order": 10}),
        gnp("guard", "role == 'web'", tier="security", ingress=first),
        gnp("let", "role == 'web'", ingress=[{"action": "Allow"}]),
    ):
        assert await both(lab, "far", "web") == [True, False, False, False]
        assert await both(lab, "near", "web") == [True, False, False, False]
        assert await both(lab, "far", "near") == [True, True, True, True]


async def test_order_decides_and_ties_go_by_name(lab: Lab) -> None:
    """The lower order comes first, no order comes last, and equal orders go by name."""
    deny, allow = [{"action": "Deny"}], [{"action": "Allow"}]
    async with declared(
        lab,
        gnp("z", "role == 'web'", order=1, ingress=deny),
        gnp("a", "role == 'web'", ingress=allow),
    ):
        assert await both(lab, "far", "web") == [False] * 4
    async with declared(
        lab,
        gnp("b", "role == 'web'", order=1, ingress=deny),
        gnp("a", "role == 'web'", order=1, ingress=allow),
    ):
        assert await both(lab, "far", "web") == [True] * 4


async def test_who_only_logs_does_not_close(lab: Lab) -> None:
    """A policy with nothing but Log leaves its endpoints as they were."""
    async with declared(
        lab, gnp("watch", "role == 'web'", types=["Ingress"], ingress=[{"action": "Log"}])
    ):
        assert await both(lab, "far", "web") == [True] * 4


async def test_a_named_port_is_that_of_the_endpoint(lab: Lab) -> None:
    """A port's name means what the endpoint calls so, for the rule's protocol; negated it excludes that."""
    by_name = [{"action": "Allow", "protocol": "TCP", "destination": {"ports": ["service"]}}]
    async with declared(lab, gnp("named", "role == 'web'", ingress=by_name)):
        assert await both(lab, "far", "web") == [True, False, False, False]
    but = [{"action": "Allow", "protocol": "TCP", "destination": {"notPorts": ["service"]}}]
    async with declared(lab, gnp("named", "role == 'web'", ingress=but)):
        assert await both(lab, "far", "web") == [False, False, True, False]


async def test_an_unknown_address_is_nobody(lab: Lab) -> None:
    """`selector: !has(x)` means known endpoints only; `notSelector: has(x)` lets strangers by."""
    known = [{"action": "Allow", "source": {"selector": "!has(absent)"}}]
    async with declared(lab, gnp("known", "role == 'web'", ingress=known)):
        assert await both(lab, "far", "web") == [True] * 4
        assert await both(lab, "fabric", "web") == [False] * 4
    strangers = [{"action": "Allow", "source": {"notSelector": "role == 'far'"}}]
    async with declared(lab, gnp("strangers", "role == 'web'", ingress=strangers)):
        assert await both(lab, "far", "web") == [False] * 4
        assert await both(lab, "fabric", "web") == [True] * 4


async def test_ports_beyond_one_multiport(lab: Lab) -> None:
    """More than fifteen ranges on both sides are one rule still."""
    ranges = [f"{2 * i + 100}:{2 * i + 101}" for i in range(0, 40, 2)]
    wide = [*ranges, "6999:7000"]
    rule = {
        "action": "Allow",
        "protocol": "TCP",
        "source": {"ports": [*ranges, "1024:65535"]},
        "destination": {"ports": wide},
    }
    async with declared(lab, gnp("ranges", "role == 'web'", ingress=[rule])):
        assert await both(lab, "far", "web") == [True, False, False, False]


_LITE = """
import socket, sys
role, address, patience_s = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM, 136)
sock.settimeout(float(patience_s) or None)
if role == "serve":
    sock.bind((address, 7000))
    print("ready", flush=True)
    while True:
        sock.sendto(*sock.recvfrom(100))
sock.connect((address, 7000))
try:
    sock.send(b"hopwall")
    print(sock.recv(100) == b"hopwall")
except OSError:
    print(False)
"""


async def test_udplite_is_allowed_and_answered(lab: Lab) -> None:
    """By name between two hosts, both families, though only one of them has the policy; UDP is not meant."""
    web = next(w for w in WORKLOADS if w.name == "web")
    python = [sys.executable, "-c", _LITE]
    allow = [{"action": "Allow", "protocol": "UDPLite", "destination": {"ports": [7000]}}]
    for address in (web.ipv4, web.ipv6):
        argv = inside(lab.namespace("web"), [*python, "serve", address, "0"])
        server = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert await server.stdout.readline() == b"ready\n"
            async with declared(lab, gnp("lite", "role == 'web'", ingress=allow)):
                assert await lab.run("far", [*python, "ask", address, "20"]) == "True\n"
                assert await both(lab, "far", "web") == [False] * 4
            deny = [{"action": "Deny", "protocol": "UDPLite"}, {"action": "Allow"}]
            async with declared(lab, gnp("lite", "role == 'web'", ingress=deny)):
                assert await lab.run("far", [*python, "ask", address, "1"]) == "False\n"
        finally:
            server.kill()
            await server.wait()


async def test_icmp_by_type_and_code(lab: Lab) -> None:
    """Echo is allowed by its type alone; another code of it is another thing."""
    echo = [
        {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
        {"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 128}},
    ]
    async with declared(lab, gnp("echo", "role == 'web'", ingress=echo)):
        assert await both(lab, "far", "web") == [False, False, False, True]
    other = [
        {"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8, "code": 0}},
        {"action": "Allow", "protocol": 58, "notICMP": {"type": 128}},
    ]
    async with declared(lab, gnp("echo", "role == 'web'", ingress=other)):
        assert await both(lab, "far", "web") == [False, False, False, False]


async def test_a_live_flow_is_cut_within_a_second_and_no_other(lab: Lab) -> None:
    """When policy narrows, the flow it denies stops though both ends still talk; the others lose nothing."""
    for version in FAMILIES:
        await lab.start_flow("far", "web", version=version)
        await lab.start_flow("near", "far", version=version)
        await flows_until(lab, "far", "web", received=40)
        deny = [{"action": "Deny", "source": {"selector": "role == 'far'"}}, {"action": "Allow"}]
        async with declared(lab, gnp("cut", "role == 'web'", ingress=deny)):
            programmed_at = clock.monotonic()
            await flows_until(lab, "far", "web", quiet_s=2.0)
            cut = await lab.stop_flow("far", "web")
            kept = await lab.stop_flow("near", "far")
        # Of the other nothing is lost, so its longest gap is for how long the machine lets somebody wait.
        assert kept["received"] == kept["sent"], kept
        late_s = kept["longest_gap_ms"] / 1000
        assert cut["last_at"] - programmed_at <= CUT_S + HANDS * late_s, (cut, kept)
        assert 40 <= cut["received"] <= cut["sent"] - 30, cut


async def test_host_endpoint_closes_the_host_but_for_failsafe(lab: Lab) -> None:
    """A host endpoint without policy leaves the failsafe ports open, and the agent its bus."""
    endpoint = resource(
        "HostEndpoint", "h1-eth0", {"node": "h1", "interfaceName": "eth0"}, labels={"role": "host"}
    )
    await (await lab.prober("h1")).ask("listen", {"port": 22})
    assert await both(lab, "fabric", "h1") == [True, True, False, True]
    ssh: tuple[Proto, int] = ("tcp", 22)
    async with declared(lab, endpoint):
        assert await both(lab, "fabric", "h1") == [False] * 4
        assert await verdicts(lab, "fabric", "h1", ssh) == [[True], [True]]
        assert await both(lab, "far", "web") == [True] * 4
        rules = [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [7000]}}]
        async with declared(lab, gnp("host-in", "role == 'host'", ingress=rules)):
            assert await both(lab, "fabric", "h1") == [True, False, False, False]


async def test_what_a_host_forwards_is_only_what_apply_on_forward_says(lab: Lab) -> None:
    """applyOnForward governs forwarded packets, beside the workload's own policy."""
    endpoint = resource(
        "HostEndpoint", "h1-eth0", {"node": "h1", "interfaceName": "eth0"}, labels={"role": "host"}
    )
    rules = [{"action": "Allow", "protocol": "TCP"}]
    policy = gnp("forward", "role == 'host'", applyOnForward=True, ingress=rules)
    async with declared(lab, endpoint, policy):
        assert await both(lab, "fabric", "web") == [True, False, True, False]
        assert await both(lab, "near", "web") == [True] * 4
        own = [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [7001]}}]
        async with declared(lab, gnp("own", "role == 'web'", ingress=own)):
            assert await both(lab, "fabric", "web") == [False, False, True, False]


async def test_before_nat_and_untracked(lab: Lab) -> None:
    """preDNAT denies before all else; doNotTrack does so without connection tracking."""
    endpoint = resource(
        "HostEndpoint", "h1-eth0", {"node": "h1", "interfaceName": "eth0"}, labels={"role": "host"}
    )
    open_ = gnp("host-open", "role == 'host'", types=["Ingress", "Egress"], order=10)
    open_["spec"] |= {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
    deny = [{"action": "Deny", "protocol": "UDP", "destination": {"ports": [7000]}}]
    for flag in ("preDNAT", "doNotTrack"):
        early = gnp("early", "role == 'host'", applyOnForward=True, ingress=deny, **{flag: True})
        async with declared(lab, endpoint, open_, early):
            assert await both(lab, "fabric", "h1") == [True, False, False, True]
            assert await both(lab, "fabric", "web") == [True, False, True, True]


async def test_nat_outgoing_hides_workloads_from_outside_only(lab: Lab) -> None:
    """With natOutgoing a workload is its host to strangers, and itself to other workloads."""
    pools = [
        resource("IPPool", name, {"cidr": cidr, "natOutgoing": True})
        for name, cidr in (("lab-v4", topo.POOL4), ("lab-v6", topo.POOL6))
    ]
    strangers = (f"{topo.PREFIX4}.1", f"{topo.PREFIX6}1")
    protocols: tuple[Proto, ...] = ("tcp", "udp", "icmp")
    await _way_back(lab, "del")
    try:
        for stranger in strangers:
            assert not await lab.reach("web", stranger, "tcp")
        assert reached(await lab.client.apply(pools, wait="programmed"))
        for stranger in strangers:
            for proto in protocols:
                assert await lab.reach("web", stranger, proto), (stranger, proto)
        own = [{"action": "Allow", "source": {"selector": "role == 'web'"}}]
        async with declared(lab, gnp("itself", "role == 'far'", ingress=own)):
            assert await both(lab, "web", "far") == [True] * 4
    finally:
        await _way_back(lab, "add")
        for pool in pools:
            pool["spec"]["natOutgoing"] = False
        await lab.client.apply(pools, wait="programmed")


async def test_floating_address_reaches_its_workload_from_everywhere(lab: Lab) -> None:
    """Strangers, other hosts, neighbours and the workload itself reach it by its external address."""
    web = next(w for w in WORKLOADS if w.name == "web")
    endpoint = _endpoint(web)
    endpoint["spec"]["ipNATs"] = [
        {"internalIP": web.ipv4, "externalIP": FLOATING[4]},
        {"internalIP": web.ipv6, "externalIP": FLOATING[6]},
    ]
    host = lab.hosts["h1"]
    await lab.run("fabric", ["ip", "route", "add", FLOATING[4], "via", host.ipv4])
    await lab.run("fabric", ["ip", "route", "add", FLOATING[6], "via", host.ipv6])
    try:
        assert reached(await lab.client.apply([endpoint], wait="programmed"))
        for src in ("fabric", "far", "near", "web", "h1"):
            for version in FAMILIES:
                assert await lab.reach(src, FLOATING[version], "tcp"), (src, version)
        rules = [{"action": "Allow", "source": {"selector": "role == 'far'"}}]
        async with declared(lab, gnp("only-far", "role == 'web'", ingress=rules)):
            assert await lab.reach("far", FLOATING[4], "tcp")
            assert not await lab.reach("near", FLOATING[4], "tcp")
            assert not await lab.reach("fabric", FLOATING[4], "tcp")
        await lab.start_flow("fabric", FLOATING[4])
        await flows_until(lab, "fabric", FLOATING[4], received=30)
    finally:
        await lab.client.apply([_endpoint(web)], wait="programmed")
    assert not await lab.reach("fabric", FLOATING[4], "tcp")
    await flows_until(lab, "fabric", FLOATING[4], quiet_s=2.0)
    ended = await lab.stop_flow("fabric", FLOATING[4])
    assert 30 <= ended["received"] <= ended["sent"] - 40, ended


async def test_a_refused_host_endpoint_is_told_and_holds_up_no_other(lab: Lab) -> None:
    """Who declares it hears why from `programmed`; the next write of the same host is enforced and says so."""
    bad = resource("HostEndpoint", "bad", {"node": "h1", "interfaceName": "lo"})
    good = resource("HostEndpoint", "good", {"node": "h1", "interfaceName": "eth9"})
    answer = await lab.client.apply([bad], wait="programmed")
    try:
        assert not reached(answer)
        assert "'lo' cannot be" in answer["status"]["laggards"][0]["reason"]
        async with declared(lab, good):
            pass
    finally:
        await lab.client.delete(kind_named("hep"), namespace="", name="bad", wait="programmed")


async def test_a_policy_without_its_tier_says_so_until_it_has_one(lab: Lab) -> None:
    """It denies, `programmed` and the status say why; the tier makes it right; without it the status falls."""
    policy = gnp("late.open", "role == 'web'", tier="late", ingress=[{"action": "Allow"}])
    answer = await lab.client.apply([policy], wait="programmed")
    try:
        assert not reached(answer)
        assert "tier 'late' does not exist" in answer["status"]["laggards"][0]["reason"]
        assert await both(lab, "far", "web") == [False] * 4
        async with declared(lab, resource("Tier", "late", {"order": 5})):
            assert await both(lab, "far", "web") == [True] * 4
            assert await _state_of(lab, "gnp", "", "late.open") == ("True", [])
        state, reasons = await _state_of(lab, "gnp", "", "late.open")
        assert state == "False"
        assert "tier 'late' does not exist" in reasons[0]
        async with declared(lab, gnp("other", "role == 'web'")):
            pass
    finally:
        await lab.client.delete(
            kind_named("gnp"), namespace="", name="late.open", wait="programmed"
        )


async def test_who_loses_an_address_is_told_whose_it_is(lab: Lab) -> None:
    """Both families, own and floating: the younger endpoint hears it, the owner's status stays true."""
    web = next(w for w in WORKLOADS if w.name == "web")
    owner = _endpoint(web)
    owner["spec"]["ipNATs"] = [{"internalIP": web.ipv4, "externalIP": FLOATING[4]}]
    spec = {
        "node": "h2",
        "interfaceName": "tapyoung",
        "ipNetworks": [f"{web.ipv4}/32", f"{web.ipv6}/128", "10.65.0.77/32"],
        "ipNATs": [{"internalIP": "10.65.0.77", "externalIP": FLOATING[4]}],
    }
    young = resource("WorkloadEndpoint", "young", spec)
    young["metadata"]["namespace"] = "default"
    assert reached(await lab.client.apply([owner], wait="programmed"))
    try:
        answer = await lab.client.apply([young], wait="programmed")
        assert not reached(answer)
        state, reasons = await _state_of(lab, "wep", "default", "young")
        assert state == "False"
        for address in (f"{web.ipv4}/32", f"{web.ipv6}/128", f"{FLOATING[4]}/32"):
            told = (
                f"address {address} of endpoint default/young: It is that of endpoint default/web"
            )
            assert told in reasons[0], (address, reasons)
        assert (await _state_of(lab, "wep", "default", "web"))[0] == "True"
        assert await both(lab, "near", "web") == [True] * 4
    finally:
        await lab.client.delete(
            kind_named("wep"), namespace="default", name="young", wait="programmed"
        )
        await lab.client.apply([_endpoint(web)], wait="programmed")


async def test_the_legacy_backend_says_the_same() -> None:
    """Tiers, named ports, protocol 0, a host endpoint and its failsafe ports, on legacy iptables."""
    async with Lab("policylg", hosts=1, backend="legacy") as lab:
        here = [w for w in WORKLOADS if w.host == "h1"]
        await lab.add(*here)
        await lab.client.apply([open_profile("open")])
        assert reached(await lab.client.apply([_endpoint(w) for w in here], wait="programmed"))
        rules = [
            {"action": "Deny", "protocol": 0},
            {"action": "Pass", "protocol": "TCP", "destination": {"ports": ["service"]}},
            {"action": "Allow", "protocol": "ICMP"},
            {"action": "Allow", "protocol": "ICMPv6"},
        ]
        interface = resource("HostEndpoint", "h1-eth0", {"node": "h1", "interfaceName": "eth0"})
        await lab.prober("fabric")
        await (await lab.prober("h1")).ask("listen", {"port": 22})
        async with declared(
            lab,
            resource("Tier", "security", {"order": 10}),
            gnp("guard", "role == 'web'", tier="security", ingress=rules),
            interface,
        ):
            assert await both(lab, "near", "web") == [True, False, False, True]
            assert await both(lab, "fabric", "h1") == [False] * 4
            assert await verdicts(lab, "fabric", "h1", ("tcp", 22)) == [[True], [True]]
        tables = await lab.run("h1", ["iptables-legacy-save"])
        assert "hw-FORWARD" in tables


async def test_what_is_not_of_this_dataplane_is_refused_by_name(lab: Lab) -> None:
    """http, services and service accounts are refused with the path of the field."""
    refused: dict[str, Doc] = {
        "/spec/ingress/0/http": {"http": {"methods": ["GET"]}, "protocol": "TCP"},
        "/spec/ingress/0/source/services": {"source": {"services": {"name": "a"}}},
        "/spec/ingress/0/source/serviceAccounts": {"source": {"serviceAccounts": {"names": ["a"]}}},
    }
    for pointer, match in refused.items():
        assert pointer in await _refused(
            lab, gnp("x", "all()", ingress=[{"action": "Allow", **match}])
        )
    accounts = gnp("x", "all()", serviceAccountSelector="a == 'b'")
    assert "/spec/serviceAccountSelector" in await _refused(lab, accounts)


async def _state_of(lab: Lab, kind: str, namespace: str, name: str) -> tuple[str, list[str]]:
    """Return whether a resource is programmed, by its status, and what holds it up."""
    where = path_of(kind_named(kind), namespace=namespace, name=name)
    status = (await lab.client.request("GET", where))["status"]
    programmed = next(c for c in status["conditions"] if c["type"] == "Programmed")
    return programmed["status"], [late["reason"] for late in status["laggards"]]


async def _refused(lab: Lab, document: Doc) -> str:
    """Return the pointers of what the API refuses."""
    with pytest.raises(Problem) as caught:
        await lab.client.put(kind_named("gnp"), document)
    assert caught.value.status == 422
    return " ".join(error["pointer"] for error in caught.value.body["errors"])
