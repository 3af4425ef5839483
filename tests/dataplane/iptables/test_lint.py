"""Every line that is rendered has a known form; whatever else comes into a line does not pass."""

from collections.abc import Iterator
from random import Random

import pytest

from hopwall_dataplane.iptables.lint import suspicious
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.render_policy import policy_chain
from hopwall_dataplane.iptables.static import TABLES
from hopwall_dataplane.iptables.table import TableState
from hopwall_dataplane.iptables.transaction import ChainWrite, Transaction
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import PolicyId
from tests.dataplane.test_desired import endpoint, policy
from tests.dataplane.test_kernel import turn
from tests.proof.nat_judges import nat_cloud_of
from tests.proof.pipeline import desired_of, graph_of
from tests.proof.strategies import cloud_of, host_cloud_of
from tests.support.fake_kernel import FakeHost

GOOD = (
    "-p 6 -m multiport --dports 80,443:445 -s 10.65.0.0/16 -j ACCEPT",
    "-m set ! --match-set hw4-s-ahrxoznlfvcx4rx4 src -g hw-pe-dppkszfh7uagj6q4",
    '-m limit --limit 10/second --limit-burst 20 -j NFLOG --nflog-group 100 --nflog-prefix "hw:e:deny:-:a:b"',
    "-m mark --mark 0x100/0x300 -j MARK --set-xmark 0x0/0x200",
)
#: Each with what would follow it, had a value been written out as it came.
INTRUDERS = (
    " -j ACCEPT",
    " -i lo",
    " -s 0.0.0.0/0 -s 10.0.0.0/8",
    " -g INPUT",
    " --dport 22 -j hw-x -j ACCEPT",
    ' "',
    "'",
    "\\",
    ";reboot",
    " ! !",
    " -m comment --comment x",
    "\u2028-A INPUT -j ACCEPT",
)


def transaction(*bodies: str) -> Transaction:
    """Return one that writes one chain."""
    return Transaction("filter", (ChainWrite("hw-pi-a", bodies, new=True),))


def rendered() -> Iterator[Transaction]:
    """Yield what hosts of many clouds write into empty tables."""
    for number in range(25):
        for cloud in (cloud_of, host_cloud_of, nat_cloud_of):
            graph = graph_of(cloud(Random(number)))
            for host in ("h1", "h2"):
                desired = desired_of(host, graph.snapshot(host))
                for family in Family:
                    for table in TABLES:
                        chains = desired.chains.tables[family, table]
                        plan = plan_table(table, chains.desired, chains.jumps, TableState())
                        if plan.now is not None:
                            yield plan.now


def test_whatever_is_rendered_passes() -> None:
    """No cloud, of policies, host endpoints or translations, makes a line of no known form."""
    n_lines = 0
    for tx in rendered():
        assert suspicious(tx) == {}
        n_lines += tx.n_lines
    assert n_lines > 10_000


@pytest.mark.parametrize("good", GOOD)
@pytest.mark.parametrize("intruder", INTRUDERS)
def test_no_value_brings_anything_along(good: str, intruder: str) -> None:
    """Behind whichever word of a line an intruder stands, its chain is named."""
    assert suspicious(transaction(good)) == {}

    words = good.split(" ")
    for at in range(1, len(words) + 1):
        odd = " ".join(words[:at]) + intruder + " ".join(["", *words[at:]])
        if odd.isprintable():
            assert suspicious(transaction(good, odd)).keys() == {"hw-pi-a"}, odd


async def test_an_odd_line_closes_its_chain_alone() -> None:
    """The chain is closed and named in the status before the tool sees it; all others stand."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, policy("p"), endpoint(1, "p"))
    chain = policy_chain(PolicyId("p"), "ingress")

    kernel.desired.chains.tables[Family.V4, "filter"].put(
        chain, ("-s 10.0.0.0/8 -i lo -i eth0 -j ACCEPT",)
    )
    assert (await kernel.apply()).held_by == ""

    assert host.chain(Family.V4, chain) == ["-j DROP"]
    assert any("known form" in why for why in kernel.refused.values())


async def test_an_odd_line_where_nothing_can_be_closed_holds_the_table() -> None:
    """An entry chain is not emptied to be rid of a line: nothing of the table is written."""
    host = FakeHost()
    kernel = host.agent()
    await turn(kernel, policy("p"))
    before = host.chain(Family.V4, "hw-FORWARD")

    kernel.desired.chains.tables[Family.V4, "filter"].put("hw-FORWARD", ("-j ACCEPT -j DROP",))

    assert "known form" in (await kernel.apply()).held_by
    assert host.chain(Family.V4, "hw-FORWARD") == before
