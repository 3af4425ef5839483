"""Who has just arrived is asked for anew."""

import pytest

from hopwall_dataplane.moves.neighbours import forget
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel


def test_what_was_known_or_asked_for_in_vain_is_forgotten() -> None:
    """Entries of both families go, in whichever state; others stay, and what is not there is no fault."""
    with Netns("neigh") as ns:
        ns.run(["ip", "link", "add", "tap1", "type", "veth", "peer", "name", "v1"])
        for name in ("tap1", "v1"):
            ns.run(["ip", "link", "set", name, "up"])
        for line in (
            "10.65.0.5 lladdr 02:00:00:00:00:05 nud reachable",
            "fd65::5 nud incomplete",
            "10.65.0.6 lladdr 02:00:00:00:00:06 nud stale",
        ):
            ns.run(["ip", "neigh", "add", *line.split(), "dev", "tap1"])
        cidrs = ("10.65.0.5/32", "fd65::5/128", "10.65.0.9/32")
        ns.python(forget, "tap1", cidrs)
        left = [
            line for line in ns.run(["ip", "neigh", "show"]).splitlines() if "FAILED" not in line
        ]
        assert [line.split()[0] for line in left if not line.startswith("fe80")] == ["10.65.0.6"]
        assert ns.python(forget, "tap1", cidrs[2:]) == 0
        assert ns.python(forget, "absent", cidrs) == 0
