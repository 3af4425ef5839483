"""Has the kernel check senders by the routes, as the routes change: off before one goes, on after all stand.

The thin shell of `links/sources.py`, called by the order of things (`kernel`).
"""

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sources import checks
from hopwall_dataplane.links.sysctl import SetSysctl
from hopwall_dataplane.outcome import Outcome


def check_senders(
    desired: Desired, interfaces: InterfaceSetup, *, on: bool
) -> list[tuple[SetSysctl, Outcome]]:
    """Check the senders where all routes stand, or no longer where one goes; return what was written.

    Errors: OSError when a sysctl cannot be read.
    Cost:   that of the interfaces to which routes have changed.
    """
    if not desired.destinations.touched:
        return []
    senders = desired.senders()
    cidrs = {cidr for who in senders.values() for cidr in who.addresses}
    wanted, standing = (
        desired.destinations.interfaces(cidrs, standing=stands) for stands in (False, True)
    )
    found = checks(senders, wanted, standing)
    names = found.on if on else found.off
    # Until the routes stand, what is to be on stays touched.
    desired.destinations.touched -= names
    return interfaces.check(desired.link_indices, names, on=on)
