"""How many tracked flows an address of a workload may have begun, where nobody says.

The kernel's table of flows is one for all. Pure.
"""

MOST_FLOWS = "net/netfilter/nf_conntrack_max"
#: Source: nf_conntrack_init_start() in net/netfilter/nf_conntrack_core.c, on a machine of some gigabytes.
_KERNELS_MOST = 65_536
#: A workload has as many addresses as it is given, and there are two families, so a share is a small one.
_SHARE = 16
_LEAST = 1_024


def flow_limit(setting: int, most_flows: str | None) -> int:
    """Return the limit for a setting: itself, or for -1 a share of the flows that the kernel can track.

    Shape: 0 is no limit. `most_flows` is `nf_conntrack_max`, None where it is not told.
    """
    if setting >= 0:
        return setting
    most = _KERNELS_MOST if most_flows is None else int(most_flows)
    return max(most // _SHARE, _LEAST)
