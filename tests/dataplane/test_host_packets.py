"""Host endpoints with real packets: what passes an interface of the host, on both backends and in both families."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    TierPolicies,
)
from tests.support.netns import Netns
from tests.support.site import HOST, REMOTE, WORKLOAD, Site, clean

pytestmark = pytest.mark.kernel

BOTH = (4, 6)


@pytest.fixture(scope="module", params=["nft", "legacy"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give a host on each backend in turn."""
    with Site(str(request.param)) as made:
        yield made


def policy(name: str, action: str = "allow", port: int = 0) -> PolicySet:
    """Return a policy of one rule each way, by destination port where one is given."""
    ports = (PortRange(port, port),) if port else ()
    one = ResolvedRule(
        id=f"{name}/r",
        action=action,  # type: ignore[arg-type]
        protocol=6 if port else None,
        destination=Entity(ports=ports),
    )
    return PolicySet(id=PolicyId(name), version=1, ingress=(one,), egress=(one,))


def tier(
    *, ingress: tuple[str, ...] = (), egress: tuple[str, ...] = ()
) -> tuple[TierPolicies, ...]:
    """Return one tier with these policies."""
    return (
        TierPolicies(
            name="t",
            ingress=tuple(PolicyId(p) for p in ingress),
            egress=tuple(PolicyId(p) for p in egress),
        ),
    )


def host_endpoint(name: str = "h", interface: str = "eth0", **fields: object) -> HostEndpointSet:
    """Return a host endpoint; with nothing else said it denies all."""
    return HostEndpointSet(id=HostEndpointId(name), interface=interface, **fields)  # type: ignore[arg-type]


ANY = policy("gnp/any")
WEB = policy("gnp/web", port=80)
NO_WEB = policy("gnp/no-web", "deny", port=80)
OPEN = tier(ingress=("gnp/any",), egress=("gnp/any",))
WORKLOADS = tuple(
    EndpointSet(
        id=EndpointId(f"d/{name}"),
        interface=f"tap{name}",
        addresses=(f"{ips[4]}/32", f"{ips[6]}/128"),
        tiers=OPEN,
    )
    for name, ips in WORKLOAD.items()
)


def from_remote(site: Site, port: int, address: dict[int, str] = HOST) -> list[bool]:
    """Tell for both families whether the remote machine gets through."""
    return [bool(site.sees(site.remote, address[family], port)) for family in BOTH]


def from_host(site: Site, port: int) -> list[bool]:
    """Tell for both families whether the host gets through to the remote machine."""
    return [bool(site.sees(site.host, REMOTE[family], port)) for family in BOTH]


@pytest.mark.parametrize(
    "chosen",
    [
        host_endpoint(),
        host_endpoint(interface="*"),
        host_endpoint(interface="", expected_ips=("192.0.2.1/32",)),
    ],
    ids=["named", "all", "by address"],
)
def test_without_policy_only_failsafe_ports_are_open(site: Site, chosen: HostEndpointSet) -> None:
    """All is denied both ways but failsafe; neighbours are found; loopback and own workloads stay free."""
    assert site.apply(ANY, *WORKLOADS, chosen) == []
    site.remote.run(["ip", "neigh", "flush", "all"])
    site.host.run(["ip", "neigh", "flush", "all"])
    assert from_remote(site, 22) == [True, True]
    assert from_remote(site, 80) == [False, False]
    assert from_host(site, 80) == [False, False]
    assert site.sees(site.host, "127.0.0.1", 80) == "127.0.0.1"
    assert [bool(site.sees(site.host, WORKLOAD["a"][f], 80)) for f in BOTH] == [True, True]
    # A direction without forward policies is open.
    assert from_remote(site, 80, WORKLOAD["a"]) == [True, True]


def test_an_interface_that_no_host_endpoint_has_is_left_alone(site: Site) -> None:
    """No host endpoint: no line of ours is met on the host's own interfaces."""
    assert site.apply(ANY, *WORKLOADS, host_endpoint(interface="eth7")) == []
    assert from_remote(site, 80) == [True, True]
    assert site.apply(ANY, *WORKLOADS) == []
    assert "hw-host" not in site.tables()
    assert "OUTPUT -j" not in site.tables().replace(" -m comment", "")


def test_policies_say_what_the_host_sends_and_receives(site: Site) -> None:
    """Tiers are asked in each direction by themselves, and answers pass."""
    tiers = tier(ingress=("gnp/web",), egress=("gnp/web",))
    site.apply(ANY, WEB, *WORKLOADS, host_endpoint(tiers=tiers))
    assert (from_remote(site, 80), from_remote(site, 81)) == ([True, True], [False, False])
    assert (from_host(site, 80), from_host(site, 81)) == ([True, True], [False, False])


def test_forwarded_packets_need_both_the_host_endpoint_and_the_workload(site: Site) -> None:
    """Forward lists come with the workload's own; failsafe ports do not concern what is forwarded."""
    forward = tier(ingress=("gnp/web",), egress=("gnp/web",))
    chosen = host_endpoint(forward=forward)
    site.apply(ANY, WEB, *WORKLOADS, chosen)
    assert from_remote(site, 80, WORKLOAD["a"]) == [True, True]
    assert from_remote(site, 22, WORKLOAD["a"]) == [False, False]
    workload = site.workloads["a"]
    assert [bool(site.sees(workload, REMOTE[f], 80)) for f in BOTH] == [True, True]
    assert [bool(site.sees(workload, REMOTE[f], 81)) for f in BOTH] == [False, False]
    closed = tuple(
        EndpointSet(id=w.id, interface=w.interface, addresses=w.addresses) for w in WORKLOADS
    )
    site.apply(WEB, *closed, chosen)
    assert from_remote(site, 80, WORKLOAD["a"]) == [False, False]


def test_from_one_interface_of_the_host_to_another(site: Site) -> None:
    """Each end has its say; what a host endpoint allows is accepted, what none decides is left to others."""
    near, there = {4: "198.51.100.1", 6: "fd00:3::1"}, {4: "198.51.100.2", 6: "fd00:3::2"}
    web = tier(ingress=("gnp/web",), egress=("gnp/web",))
    tools = [f"{tool}-{site.backend}" for tool in ("iptables", "ip6tables")]
    with Netns("far") as far:
        site.wire("eth1", far, near, there, "/24", "/64")
        for family in BOTH:
            far.run(["ip", f"-{family}", "route", "add", "default", "via", near[family]])
            route = ["ip", f"-{family}", "route", "add", there[family], "via", HOST[family]]
            site.remote.run(route)
        site.serve(far)
        for tool in tools:
            site.host.run([tool, "-P", "FORWARD", "DROP"])
        site.apply(ANY, WEB, host_endpoint(forward=web))
        assert from_remote(site, 80, there) == [True, True]
        assert from_remote(site, 81, there) == [False, False]
        site.apply(ANY, WEB, host_endpoint(forward=OPEN), host_endpoint("i", "eth1", forward=web))
        assert from_remote(site, 80, there) == [True, True]
        assert from_remote(site, 81, there) == [False, False]
        site.apply(ANY, WEB, host_endpoint(tiers=OPEN))
        assert from_remote(site, 80, there) == [False, False]
        for tool in tools:
            site.host.run([tool, "-P", "FORWARD", "ACCEPT"])
        assert from_remote(site, 81, there) == [True, True]
        site.host.run(["ip", "link", "del", "eth1"])  # the kernel would take its time


def test_before_dnat_a_packet_is_judged_by_the_address_it_came_with(site: Site) -> None:
    """A deny drops before translation; an allow passes the host's own policy; the rest goes on."""
    tool = f"iptables-{site.backend}"
    match = ["PREROUTING", "-i", "eth0", "-p", "tcp", "--dport", "443"]
    site.host.run([tool, "-t", "nat", "-I", *match, "-j", "REDIRECT", "--to-ports", "80"])
    try:
        only_web = tier(ingress=("gnp/web",))
        tls = policy("gnp/tls", port=443)
        site.apply(ANY, WEB, *WORKLOADS, host_endpoint(tiers=only_web))
        assert site.sees(site.remote, HOST[4], 443)
        no_tls = policy("gnp/no-tls", "deny", port=443)
        pre = tier(ingress=("gnp/no-tls",))
        site.apply(ANY, WEB, no_tls, *WORKLOADS, host_endpoint(tiers=only_web, pre_dnat=pre))
        assert not site.sees(site.remote, HOST[4], 443)
        assert from_remote(site, 80) == [True, True]
        site.apply(ANY, tls, *WORKLOADS, host_endpoint(pre_dnat=tier(ingress=("gnp/tls",))))
        assert site.sees(site.remote, HOST[4], 443)
        assert from_remote(site, 80) == [False, False]
        # Allowed as far as the host endpoint goes: the workload's own policy is still asked.
        closed = (
            EndpointSet(id=w.id, interface=w.interface, addresses=w.addresses) for w in WORKLOADS
        )
        site.apply(ANY, *closed, host_endpoint(pre_dnat=OPEN))
        assert from_remote(site, 80, WORKLOAD["a"]) == [False, False]
        assert from_remote(site, 80) == [True, True]
    finally:
        site.host.run([f"iptables-{site.backend}", "-t", "nat", "-F", "PREROUTING"])


def marked_by_others(site: Site, mark: bool) -> None:
    """Let foreign lines set the bit of an allow on what comes from the remote machine, or no more."""
    for tool in (f"iptables-{site.backend}", f"ip6tables-{site.backend}"):
        line = ["PREROUTING", "-i", "eth0", "-j", "MARK", "--set-mark", "0x100"]
        site.host.run([tool, "-t", "mangle", "-A" if mark else "-D", *line])
        site.host.run([tool, "-P", "FORWARD", "DROP" if mark else "ACCEPT"])


@pytest.mark.parametrize("place", ["forward", "pre_dnat"])
@pytest.mark.parametrize("asked", ["eth1", "*"])
def test_a_foreign_mark_forwards_nothing(site: Site, place: str, asked: str) -> None:
    """From an interface that no list of ours is for, a packet that others marked as allowed is theirs to drop."""
    lists = {place: tier(ingress=("gnp/any",))}
    chosen = structs.replace(host_endpoint(interface=asked), **lists)
    silent = (host_endpoint("silent", "eth0"),) if asked == "*" else ()
    with Netns("second") as second:
        near, far = {4: "198.51.100.1", 6: "fd00:5::1"}, {4: "198.51.100.2", 6: "fd00:5::2"}
        site.wire("eth1", second, near, far, "/24", "/64")
        for family, net in ((4, "198.51.100.0/24"), (6, "fd00:5::/64")):
            site.remote.run(["ip", "route", "add", net, "via", HOST[family]])
        marked_by_others(site, mark=True)
        try:
            site.apply(ANY, *WORKLOADS, chosen, *silent)
            for tool in ("iptables", "ip6tables"):
                full = f"{tool}-{site.backend}"
                site.host.run(
                    [full, "-t", "mangle", "-A", "POSTROUTING", "-o", "eth1", "-p", "tcp"]
                )
            assert from_remote(site, 80, far) == [False, False]
            lines = [
                line
                for tool in ("iptables", "ip6tables")
                for line in site.host.run(
                    [f"{tool}-{site.backend}-save", "-c", "-t", "mangle"]
                ).splitlines()
                if "-A POSTROUTING" in line
            ]
            assert [line.split()[0] for line in lines] == ["[0:0]"] * 2
        finally:
            marked_by_others(site, mark=False)
            for tool in ("iptables", "ip6tables"):
                site.host.run([f"{tool}-{site.backend}", "-t", "mangle", "-F", "POSTROUTING"])
            site.remote.run(["ip", "route", "del", "198.51.100.0/24"])
            site.remote.run(["ip", "route", "del", "fd00:5::/64"])
            site.host.run(["ip", "link", "del", "eth1"])  # the kernel would take its time


def tracked(site: Site, tool: str) -> list[bool]:
    """Tell of the packets to port 80 of the host whether any was not tracked, and whether any was."""
    text = site.host.run([f"{tool}-{site.backend}-save", "-c", "-t", "mangle"])
    lines = [x for x in text.splitlines() if "--ctstate" in x and " INPUT -p" in x]
    return ["[0:0]" not in line for line in lines]


def test_untracked_packets_pass_without_a_connection(site: Site) -> None:
    """An allow both ways passes the deny of the host's own list, and nothing is tracked; a deny drops."""
    reply = ResolvedRule(
        id="gnp/reply/r", action="allow", protocol=6, source=Entity(ports=(PortRange(80, 80),))
    )
    replies = PolicySet(id=PolicyId("gnp/reply"), version=1, ingress=(reply,), egress=(reply,))
    lists = tier(ingress=("gnp/web", "gnp/reply"), egress=("gnp/web", "gnp/reply"))
    site.apply(ANY, WEB, replies, *WORKLOADS, host_endpoint(untracked=lists))
    tools = ("iptables", "ip6tables")
    for tool in tools:
        match = ["-t", "mangle", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-m", "conntrack"]
        for negation in ([], ["!"]):
            full = [f"{tool}-{site.backend}", *match, *negation, "--ctstate", "UNTRACKED"]
            site.host.run(full)
    assert from_remote(site, 80) == [True, True]
    assert [tracked(site, tool) for tool in tools] == [[True, False]] * 2
    for tool in tools:
        site.host.run([f"{tool}-{site.backend}", "-t", "mangle", "-F", "INPUT"])
    assert from_remote(site, 22) == [True, True]
    assert from_remote(site, 81) == [False, False]
    site.apply(
        ANY, NO_WEB, *WORKLOADS, host_endpoint(tiers=OPEN, untracked=tier(ingress=("gnp/no-web",)))
    )
    assert from_remote(site, 80) == [False, False]
    assert from_remote(site, 81) == [True, True]


def test_a_workload_reaches_its_host_as_foreign_lines_say(site: Site) -> None:
    """With return, what the workload's own policy allows is left to others' lines."""
    with Site(site.backend, workload_to_host="return") as other:
        other.apply(ANY, *WORKLOADS, host_endpoint(interface="*"))
        workload = other.workloads["a"]
        assert other.sees(workload, HOST[4], 80) == WORKLOAD["a"][4]
        tool = f"iptables-{other.backend}"
        other.host.run([tool, "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"])
        assert other.sees(workload, HOST[4], 80) == ""
    site.apply(ANY, *WORKLOADS, host_endpoint(interface="*"))
    assert site.sees(site.workloads["a"], HOST[4], 80) == ""


def test_the_way_to_nats_is_cut_only_by_force(site: Site) -> None:
    """A host endpoint that would cut NATS off is told of and leaves that one way open."""
    with Site(site.backend, nats_url=("nats://192.0.2.2:443",)) as other:
        [told] = other.apply(host_endpoint())
        assert told.startswith("way to NATS of host endpoint h: ")
        assert "NATS at 192.0.2.2:443" in told
        assert other.sees(other.host, REMOTE[4], 443) == HOST[4]
        assert other.sees(other.host, REMOTE[4], 80) == ""
        assert other.apply(host_endpoint(force=True)) == []
        assert other.sees(other.host, REMOTE[4], 443) == ""
        assert other.apply(ANY, host_endpoint(tiers=OPEN)) == []


def test_cleanup_leaves_nothing_of_host_endpoints(site: Site) -> None:
    """Chains and jumps of every table go."""
    full = host_endpoint(tiers=OPEN, forward=OPEN, pre_dnat=OPEN, untracked=OPEN)
    site.apply(ANY, *WORKLOADS, full)
    assert "hw-host-untracked-out" in site.tables()
    site.host.python(clean, site.settings)
    assert "hw-" not in site.tables()
