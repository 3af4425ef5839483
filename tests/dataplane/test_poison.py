"""An update that the fold fails on: it is closed and named, and the host goes on as if it had not come."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hopwall_dataplane import chains, desired, faults, rule_sets
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.host_endpoints import HostEndpoints
from hopwall_dataplane.ipsets.elements import AddElements
from hopwall_dataplane.iptables import render_policy as render
from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_dataplane.outcome import Done, Family
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.poison import Poison
from hopwall_model.updates import (
    EndpointRemoved,
    EndpointSet,
    HostEndpointId,
    HostEndpointSet,
    NeedRemoved,
    PolicyId,
    SetBucket,
    TierPolicies,
    Update,
)
from tests.dataplane.test_desired import changes, endpoint, fresh, picture, policy, step
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

#: What the fold fails on in these tests.
BAD = ("d/e3", "s:y", "gnp/poison", "hep")


def _failing(work: Callable[..., Any], bad: Callable[..., bool]) -> Callable[..., Any]:
    """Return work that has a bug."""

    def wrapped(*args: Any, **more: Any) -> Any:
        if bad(*args):
            raise KeyError("a bug")
        return work(*args, **more)

    return wrapped


@pytest.fixture(autouse=True)
def buggy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the fold a bug of each kind."""
    bug = _failing(faults.endpoint_fault, lambda e, *_: e.id in BAD)
    monkeypatch.setattr(desired, "endpoint_fault", bug)
    bug = _failing(render.render_policy, lambda p, *_: p.id in BAD)
    monkeypatch.setattr(chains, "render_policy", bug)
    settle = rule_sets.RuleSets.settle
    bug = _failing(settle, lambda sets, one: one in BAD and one in sets)
    monkeypatch.setattr(rule_sets.RuleSets, "settle", bug)
    control = HostEndpoints._control
    bug = _failing(control, lambda _, h: h.id in BAD and bool(h.tiers))
    monkeypatch.setattr(HostEndpoints, "_control", bug)


def is_bad(update: Update) -> bool:
    """Tell whether the fold fails on an update."""
    return isinstance(update, EndpointSet | SetBucket | HostEndpointSet) and update.id in BAD


class Host:
    """A desired state, and what a host keeps beside it."""

    def __init__(self) -> None:
        self.desired = fresh()
        self.told = Mirror()
        self.poison = Poison()

    def say(self, *updates: Update) -> Exception | None:
        """Tell it something, as calc does."""
        return self.take(step(*updates))

    def take(self, one: Step) -> Exception | None:
        """Tell it one step."""
        error = self.poison.apply(self.desired, one, self.told)
        self.told.fold(one)
        return error

    @property
    def named(self) -> list[str]:
        """What its status names."""
        return [one.object for one in self.poison.refusals()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(changes(), max_size=3), max_size=12))
def test_what_is_poison_is_as_if_it_had_not_come(batches: list[list[Update]]) -> None:
    """Whatever else comes, before, beside or after it; and it is named as long as it is there."""
    host, other = Host(), fresh()
    there = set()
    for batch in batches:
        host.say(*batch)
        for update in batch:
            match update:
                case EndpointSet() | SetBucket() if is_bad(update):
                    there.add(update.id)
                    gone = isinstance(update, EndpointSet)
                    if gone:
                        other.apply(step(EndpointRemoved(id=update.id)))  # type: ignore[arg-type]
                    continue
                case EndpointRemoved():
                    there.discard(update.id)
                case NeedRemoved():
                    there.discard(update.scope.partition("/")[2])
            other.apply(step(update))
        assert picture(host.desired) == picture(other)
        assert {name.partition(" ")[2] for name in host.named} == there
    again = Host()
    again.take(host.told.step())
    assert picture(again.desired) == picture(other)


def test_a_policy_that_cannot_be_rendered_denies() -> None:
    """Its endpoints are there, closed in what it was to say; a better value of it opens them."""
    host = Host()
    error = host.say(policy("gnp/poison"), policy("gnp/a"), endpoint(1, "gnp/poison", address=1))
    assert isinstance(error, KeyError)
    assert host.named == ["policy gnp/poison"]
    filters = host.desired.chains.tables[Family.V4, "filter"].desired
    (line,) = filters[policy_chain(PolicyId("gnp/poison"), "ingress", marking=False)]
    assert line.startswith("-j DROP ")
    assert host.say(endpoint(2, "gnp/a", address=2)) is None
    assert host.named == ["policy gnp/poison"]


def test_a_policy_is_blamed_also_when_it_is_met_later() -> None:
    """Not the endpoint that is the first to use it."""
    host = Host()
    assert host.say(policy("gnp/poison")) is None
    assert host.say(endpoint(1, "gnp/poison", address=1)) is not None
    assert host.named == ["policy gnp/poison"]


def test_a_host_endpoint_stays_and_is_closed() -> None:
    """Without it its interface would be open."""
    host = Host()
    tiers = (TierPolicies(name="default", ingress=(PolicyId("gnp/a"),)),)
    bad = HostEndpointSet(id=HostEndpointId("hep"), interface="eth0", tiers=tiers)
    host.desired.set_links({"eth0": LinkState(1, up=True)})
    assert host.say(policy("gnp/a"), bad) is not None
    assert host.named == ["host endpoint hep"]
    placed = host.desired.hosts.by_interface()["eth0"]
    assert placed is not None
    assert not placed.endpoint.tiers


def test_what_is_known_of_the_kernel_is_kept() -> None:
    """Who begins again changes nothing that stands: numbers, elements and routes are as before."""
    host = Host()
    host.say(policy("gnp/a"), policy("gnp/b"), endpoint(0, "gnp/b", address=1))
    host.say(endpoint(1, "gnp/a", address=2, tap=1))
    for op in host.desired.identity.plan_additions():
        host.desired.identity.record(op, Done())
    for key, route in host.desired.routes.pending_sets():
        host.desired.routes.mark_actual(key, route)
    numbers = host.desired.classes.numbers
    assert host.say(endpoint(3, "gnp/a", address=3, tap=2)) is not None
    assert host.desired.classes.numbers == numbers
    adds = [op for op in host.desired.identity.plan_additions() if isinstance(op, AddElements)]
    assert not adds
    assert not host.desired.routes


def test_a_fold_that_fails_whatever_it_is_given_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is guessed then: the service ends, and the kernel stays as it is."""
    monkeypatch.setattr(Desired, "apply", _failing(Desired.apply, lambda *_: True))
    with pytest.raises(KeyError):
        Host().say(policy("gnp/a"))


# ---------------------------------------------------------------- a real agent


@pytest.fixture
def machine() -> Iterator[Netns]:
    """Make a host with three workloads' interfaces."""
    with Netns("poison") as ns:
        for name in ("eth0", "tapa", "tapb", "tapc"):
            ns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"peer-{name}"])
            ns.run(["ip", "link", "set", name, "up"])
        yield ns


#: The agent, with a bug.
_BUGGY = """
from hopwall_dataplane import __main__, desired
was = desired.endpoint_fault
def endpoint_fault(endpoint, *more):
    if endpoint.mac == "poison":
        raise KeyError("a bug")
    return was(endpoint, *more)
desired.endpoint_fault = endpoint_fault
__main__.main()
"""


async def _poisoned(calc: CalcStandIn, agent: AgentProcess) -> tuple[list[list[str]], list[str]]:
    agent.kill()
    agent.argv[1:3] = ["-c", _BUGGY]
    agent.start()
    first = endpoint(0, "gnp/a", address=1)
    one = EndpointSet(id=first.id, interface="tapa", addresses=first.addresses, tiers=first.tiers)
    bad = EndpointSet(
        id=endpoint(1).id,
        interface="tapb",
        addresses=("10.65.0.2/32",),
        tiers=one.tiers,
        mac="poison",
    )
    other = EndpointSet(
        id=endpoint(2).id, interface="tapc", addresses=("10.65.0.3/32",), tiers=one.tiers
    )
    seen, kernels = [], []

    async def look() -> None:
        status = await calc.applied()
        seen.append([refusal.object for refusal in status.refused])
        sets = subprocess.run(
            ["ipset", "save", "hw4-to"], capture_output=True, text=True, check=True
        )
        kernels.append(" ".join(sorted(x.split()[2] for x in sets.stdout.splitlines()[1:])))

    await calc.say(pieces=(policy("gnp/a"),), endpoints=(one,))
    await look()
    await calc.say(endpoints=(bad, other))
    await look()
    agent.kill()  # and one that meets it first thing
    calc.forget()
    agent.start()
    await look()
    await calc.remove(bad.id)
    await look()
    return seen, kernels


@pytest.mark.kernel
@pytest.mark.nats
def test_an_agent_goes_on(machine: Netns, tmp_path: Path) -> None:
    """The bad one is closed and named, what came along with it is applied, and a restart meets the same."""
    flags = ("--backend", "nft", "--state-dir", str(tmp_path / "state"))
    seen, kernels = machine.python(run_scenario, _poisoned, tmp_path, *flags)
    assert seen == [[], ["endpoint d/e1"], ["endpoint d/e1"], []]
    good = "10.65.0.1 10.65.0.3"
    assert kernels == ["10.65.0.1", good, good, good]
