from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.quarantine import closed
from hopwall_dataplane.iptables.table import Chain, Jump, TableState
from hopwall_dataplane.iptables.transaction import (
    Applied,
    ChainWrite,
    Failed,
    Transaction,
    record,
)
from hopwall_dataplane.outcome import Retry
from tests.support.fake_iptables import UNKNOWN_OPTION, FakeRestore, FakeTables

DROP: Chain = ("-j DROP",)
NAMED = f"-p tcp {UNKNOWN_OPTION} 1 -j ACCEPT"
UNNAMED = "-j hw-missing"
NAMES = [f"hw-{n}" for n in range(12)]


def stub(_chain: str) -> Chain:
    """Close any chain."""
    return DROP


def writes(bodies: dict[str, Chain]) -> Transaction:
    """Write new chains."""
    return Transaction("filter", tuple(ChainWrite(n, b, new=True) for n, b in bodies.items()))


@given(
    bad=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([NAMED, UNNAMED])),
    standing=st.sets(st.sampled_from(NAMES)),
    in_front=st.booleans(),
)
async def test_exactly_the_bad_are_closed(
    bad: dict[str, str], standing: set[str], in_front: bool
) -> None:
    """Whichever chains are bad, named or not, new or not, they are closed and no other is."""
    restore = FakeRestore()
    if standing:
        restore.tables.restore(writes(dict.fromkeys(sorted(standing), DROP)).text)
    good = [name for name in NAMES if name not in bad]
    wanted: dict[str, Chain] = {
        name: (bad[name],)
        if name in bad
        else tuple(f"-j {n}" for n in NAMES[NAMES.index(name) + 1 :])
        for name in NAMES
    }
    actual = await restore.read("filter")
    assert isinstance(actual, TableState)
    front = ("hw-",) if in_front else ()
    tx = plan_table("filter", wanted, (Jump("FORWARD", "hw-0"),), actual, in_front=front).now
    assert tx is not None
    outcome = await restore.apply_with_quarantine(tx, stub)
    assert isinstance(outcome, Applied)
    assert outcome.refused.keys() == bad.keys()
    held = closed(tx, dict(outcome.refused), stub)
    assert restore.applied[-1] == held
    record(actual, held)
    after = await restore.read("filter")
    assert isinstance(after, TableState)
    assert after.chains == actual.chains
    chains = restore.tables.tables["filter"]
    for name in good:
        n_behind = 2 if in_front and not bad and name in standing else 0
        assert len(chains[name].lines) == len(wanted[name]) + n_behind


async def test_no_chain_is_open_on_the_way() -> None:
    """A chain that is new is closed until it is as wanted, so no jump to it falls through."""
    restore = FakeRestore()
    seen: list[dict[str, int]] = []

    async def apply(tx: Transaction, *, timeout_s: float | None = None) -> Applied | Failed | Retry:
        outcome = await FakeRestore.apply(restore, tx)
        chains = restore.tables.tables["filter"]
        seen.append({n: len(chain.lines) for n, chain in chains.items() if n.startswith("hw-")})
        return outcome

    restore.apply = apply  # type: ignore[method-assign]  # only to look on
    wanted: dict[str, Chain] = dict.fromkeys(NAMES[1:], ("-j hw-0",))
    tx = writes(wanted | {"hw-0": (UNNAMED,)})
    assert isinstance(await restore.apply_with_quarantine(tx, stub), Applied)
    assert len(seen) > 4
    assert all(n_lines > 0 for chains in seen for n_lines in chains.values())


async def test_retry_ends_the_search() -> None:
    """A machine in trouble is not a bad chain: nobody is blamed."""
    for n_before in range(4):
        restore = FakeRestore()
        restore.fail_next = [*[None] * n_before, Retry("busy")]
        outcome = await restore.apply_with_quarantine(
            writes({"hw-0": (UNNAMED,), "hw-1": DROP}), stub
        )
        assert outcome == Retry("busy")


async def test_chain_that_cannot_be_closed_fails_the_whole() -> None:
    """Where the stub has no closed form for a bad chain, all of it fails and nobody is blamed."""
    for body in (NAMED, UNNAMED):
        restore = FakeRestore()
        tx = writes({"hw-root": (body,), "hw-1": DROP})
        outcome = await restore.apply_with_quarantine(
            tx, lambda name: None if "root" in name else DROP
        )
        assert isinstance(outcome, Failed)


async def test_fault_that_shows_only_in_the_whole_is_found() -> None:
    """Some chains are bad only once packets can reach them: found by closing the others around."""
    tables = FakeTables("legacy")
    restore = FakeRestore(tables=tables)
    real: Callable[[str], None] = tables.restore

    def hooked(text: str) -> None:
        real_text = "-I FORWARD" in text and "-A hw-3 -m owner" in text
        real(text.replace("COMMIT", "-A hw-3 -j hw-missing\nCOMMIT") if real_text else text)

    tables.restore = hooked  # type: ignore[method-assign]  # a kernel that checks hooks
    wanted: dict[str, Chain] = dict.fromkeys(NAMES[1:], DROP)
    wanted["hw-3"] = ("-m owner --uid-owner 1 -j DROP",)
    wanted["hw-0"] = tuple(f"-j {name}" for name in NAMES[1:])
    tx = plan_table("filter", wanted, (Jump("FORWARD", "hw-0"),), TableState()).now
    assert tx is not None

    def no_root(chain: str) -> Chain | None:
        return None if chain == "hw-0" else DROP

    apply: Callable[..., Awaitable[Applied | Failed | Retry]] = restore.apply_with_quarantine
    outcome = await apply(tx, no_root)
    assert isinstance(outcome, Applied)
    assert outcome.refused.keys() == {"hw-3"}


async def test_any_number_of_bad_chains_harms_no_good_one() -> None:
    """A machine may lack what a hundred policies need: those are closed, and nothing waits for them."""
    restore = FakeRestore()
    bad = {f"hw-bad{n}": (NAMED,) for n in range(100)}
    outcome = await restore.apply_with_quarantine(writes({**bad, "hw-good": ("-j ACCEPT",)}), stub)
    assert isinstance(outcome, Applied)
    assert outcome.refused.keys() == bad.keys()
