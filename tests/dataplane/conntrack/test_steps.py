"""When flows are looked at: after a change, not without one, not too often, and again after a failure."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import cast

import pytest

from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import DeleteFlow, Flow, FlowOp, HostAddresses, MarkFlow
from hopwall_dataplane.conntrack.hosts import WayTo
from hopwall_dataplane.conntrack.revocation import Revocation
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.outcome import Done, Outcome
from hopwall_dataplane.residents import packed
from hopwall_model.updates import PolicySet
from hopwall_runtime import clock
from tests.dataplane.conntrack.test_plan import FAR, OPEN, A, B, endpoint, flow, host, tell


class FakeDriver:
    """A table in parts of one flow; reading a part takes a while by the clock."""

    def __init__(self, now: list[float], *flows: Flow) -> None:
        self.now = now
        self.flows = flows
        self.done: list[FlowOp] = []
        self.fail = False

    def host_addresses(self) -> HostAddresses:
        """Return none."""
        return HostAddresses()

    def ways(self, _interfaces: Mapping[int, str]) -> WayTo:
        """Know no way."""
        return lambda _address: None

    def read(self, watched: Container[bytes]) -> Iterator[tuple[list[Flow], int]]:
        """Walk the table, a tenth of a second a part."""
        for one in self.flows:
            self.now[0] += 0.1
            if self.fail:
                raise OSError(5, "no")
            yield [one] if any(end in watched for end in one.ends) else [], 1

    def apply(self, ops: Sequence[FlowOp], _bit: int) -> list[Outcome]:
        """Remember what was to be done."""
        self.done += ops
        return [Done()] * len(ops)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the test the clock."""
    time = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])
    return time


def through(revocation: Revocation) -> int:
    """Step until nothing is due now; return how many steps that took."""
    n_steps = 0
    while revocation.due_in_s == 0.0:
        revocation.step()
        n_steps += 1
    return n_steps


def test_a_walk_goes_in_steps_and_the_next_one_waits_and_comes(now: list[float]) -> None:
    """As long as the last worked, four times beyond 50 ms; a change meanwhile is not forgotten, and no change is no walk."""
    desired = host(endpoint(A), endpoint(B))
    driver = FakeDriver(now, flow(A, B), flow(A, FAR))
    revocation = Revocation(desired, cast(ConntrackDriver, driver), Metrics())
    assert through(revocation) == 3
    assert (driver.done, revocation.due_in_s) == ([], None)
    tell(desired, PolicySet(id=OPEN.id, version=2))
    assert revocation.due_in_s == pytest.approx(0.65)
    revocation.step()
    assert driver.done == []
    now[0] += 1.0
    through(revocation)
    assert driver.done == [MarkFlow(one, revoked=True) for one in driver.flows]


def test_a_change_while_the_table_is_walked_is_answered_by_another_walk(now: list[float]) -> None:
    """What was passed already is looked at again."""
    desired = host(endpoint(A))
    driver = FakeDriver(now, flow(A, FAR), flow(A, B))
    revocation = Revocation(desired, cast(ConntrackDriver, driver), Metrics())
    revocation.step()
    before = revocation.n_owed
    tell(desired, PolicySet(id=OPEN.id, version=2))
    assert (before, revocation.n_owed) == (1, 2)
    through(revocation)
    assert revocation.n_done == 1
    now[0] += 10.0
    through(revocation)
    assert MarkFlow(driver.flows[0], revoked=True) in driver.done
    assert revocation.due_in_s is None
    assert revocation.n_done == revocation.n_owed == 2


def test_a_walk_that_fails_is_made_again_with_all_it_had_to_do(now: list[float]) -> None:
    """Who left is not forgotten, and the kernel is not asked all the time."""
    desired = host(endpoint(A))
    desired.residents.leave(packed(FAR))
    driver = FakeDriver(now, flow(B, FAR))
    driver.fail = True
    revocation = Revocation(desired, cast(ConntrackDriver, driver), Metrics())
    assert through(revocation) == 1
    assert revocation.due_in_s == pytest.approx(5.0)
    assert revocation.fault
    assert revocation.n_done < revocation.n_owed
    driver.fail = False
    now[0] += 5.0
    through(revocation)
    assert driver.done == [DeleteFlow(driver.flows[0])]
    assert not revocation.fault
    assert revocation.n_done == revocation.n_owed
