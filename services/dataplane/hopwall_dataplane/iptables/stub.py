"""What stands in place of a chain that the tool will not have: closed, or nothing where nothing is filtered.

Pure. A chain without a stub cannot be closed by itself: its failure holds the whole table.
"""

from hopwall_dataplane.iptables.nat_chains import NAT_PREFIX
from hopwall_dataplane.iptables.render_policy import CLOSED
from hopwall_dataplane.iptables.table import Chain

_CLOSED_ALONE = ("hw-pe-", "hw-pi-", "hw-pm-", "hw-cf", "hw-ct", "hw-l")


def stub_of(chain: str) -> Chain | None:
    """Return the body of a chain that is refused; None where there is none."""
    if chain.startswith(NAT_PREFIX):
        return ()  # nothing is filtered there, and a table that fails would hold up those that do
    return CLOSED if chain.startswith(_CLOSED_ALONE) else None
