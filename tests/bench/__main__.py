"""`make bench`: every benchmark, as ratios against the bare tool in the same run.

Ends with 1 when a ratio is above its bound. A noisy machine shows here; run it on a quiet one.
"""

import sys
from collections.abc import Callable

from tests.bench import (
    bench_bgp_convergence,
    bench_big_policy,
    bench_dispatch,
    bench_ipam,
    bench_ipset,
    bench_iptables,
    bench_latency,
    bench_routes,
    bench_watch,
)
from tests.bench.result import Result, table

BENCHES: tuple[tuple[str, Callable[[], list[Result]]], ...] = (
    ("iptables: one policy chain changes, against a bare long-lived restore", bench_iptables.main),
    ("a policy of 1,024 rules, against a bare restore of the same text", bench_big_policy.main),
    ("routes, against a packed rtnetlink batch and ip -batch", bench_routes.main),
    ("IP sets, against ipset restore", bench_ipset.main),
    (
        "from an address to its chain: 5,000 endpoints (ours) against 100 (floor)",
        bench_dispatch.main,
    ),
    ("looking for damage, against the bare listings", bench_watch.main),
    ("BGP: 10,000 addresses on a third host, against plain BIRDs", bench_bgp_convergence.main),
    ("addresses: 10,000 by 8 clients of 2 API processes", bench_ipam.main),
    ("the whole path in a lab of two hosts", bench_latency.main),
)


def main() -> int:
    """Run all and print; return the exit code."""
    slow = 0
    for title, bench in BENCHES:
        sys.stdout.write(f"\n{title}\n")
        sys.stdout.flush()
        results = bench()
        slow += sum(not result.holds for result in results)
        sys.stdout.write(table(results))
        sys.stdout.flush()
    sys.stdout.write(f"\n{slow} above their bound\n" if slow else "\nall within their bounds\n")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
