"""1,000 sets of 100 members, and one member more: our planner and driver against `ipset restore`.

Run as root: `python -m tests.bench.bench_ipset`. It works in a namespace of its own.
"""

import subprocess
import sys
from functools import partial

from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import Element, SetSpec
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.outcome import Family
from hopwall_runtime.main import tune_collector
from tests.bench.result import Result, compare, table, timed_ms
from tests.support.netns import Netns

N_SETS = 1000
N_MEMBERS = 100
N_ROUNDS = 5

NAMES = [f"hw4-s{i:04}" for i in range(N_SETS)]
ADDRESSES = [f"10.{64 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(1, N_MEMBERS + 1)]
Times = dict[str, list[float]]


def restore(text: str) -> None:
    """Run `ipset restore`."""
    subprocess.run(["ipset", "restore"], input=text, text=True, check=True)


def creation() -> str:
    """Return everything as text for `ipset restore`."""
    lines: list[str] = []
    for name in NAMES:
        lines.append(f"create {name} hash:net maxelem 1048576")
        lines += [f"add {name} {address}" for address in ADDRESSES]
    return "\n".join(lines) + "\n"


def settle(driver: IpsetDriver, sets: AddressSets) -> None:
    """Plan, apply and record until nothing is pending."""
    for plan in (sets.plan_additions, sets.plan_removals):
        ops = plan()
        for op, outcome in zip(ops, driver.apply(ops), strict=True):
            sets.record(op, outcome)
    assert not sets


def fold(sets: AddressSets, elements: list[Element]) -> None:
    """Want every set and every member, as the agent does when a snapshot arrives."""
    for name in NAMES:
        sets.set_desired(SetSpec(name, "hash:net", Family.V4))
        for element in elements:
            sets.set_element(name, element)


def measure() -> Times:
    """Interleave both ways, each from an empty kernel."""
    tune_collector()
    driver = IpsetDriver()
    text = creation()
    elements = [Element(f"{address}/32") for address in ADDRESSES]
    times: Times = {name: [] for name in ("ours", "fold", "read", "one", "restore", "restore one")}
    for _ in range(N_ROUNDS):
        sets = AddressSets()
        times["fold"].append(timed_ms(partial(fold, sets, elements)))
        times["ours"].append(timed_ms(partial(settle, driver, sets)))
        times["read"].append(timed_ms(driver.read))
        sets.set_element(NAMES[500], Element("10.99.0.1/32"))
        times["one"].append(timed_ms(partial(settle, driver, sets)))
        subprocess.run(["ipset", "destroy"], check=True)
        times["restore"].append(timed_ms(partial(restore, text)))
        line = f"add {NAMES[500]} 10.99.0.1\n"
        times["restore one"].append(timed_ms(partial(restore, line)))
        subprocess.run(["ipset", "destroy"], check=True)
    driver.close()
    return times


def main() -> list[Result]:
    """Measure in a namespace of its own and return what was found."""
    with Netns("benchipset") as ns:
        times = ns.python(measure)
    whole = [a + b for a, b in zip(times["fold"], times["ours"], strict=True)]
    load = f"{N_SETS:,} sets x {N_MEMBERS}"
    return [
        compare(
            f"{load}: plan, apply, against ipset restore", times["ours"], times["restore"], 1.0
        ),
        compare(f"{load}: fold, plan, apply, against ipset restore", whole, times["restore"], 1.0),
        compare(f"{load}: read back, against ipset restore", times["read"], times["restore"], 1.0),
        compare("one member more, against ipset restore", times["one"], times["restore one"], 0.5),
    ]


if __name__ == "__main__":
    sys.stdout.write(table(main()))
