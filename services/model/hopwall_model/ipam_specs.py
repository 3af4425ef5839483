"""What address management declares and keeps: blocks, reservations, and how it works.

A block is one resource, so one event: an assignment is stored by one compare-and-set, and nothing beside
it (no handle, no affinity object) can fall out of step with it.

Source: Calico v3 API, IPAMBlock, IPReservation, IPAMConfiguration; its allocations by ordinal are here
        allocations by address, which need no arithmetic to be read.
"""

from typing import Annotated

from msgspec import Meta, field

from hopwall_model.cidr import Cidr
from hopwall_model.shapes import Shape

#: The one IPAMConfiguration there is. Source: Calico.
CONFIGURATION_NAME = "default"
DEFAULT_BLOCKS_PER_HOST = 20
DEFAULT_COOLDOWN_S = 30
MAX_COOLDOWN_S = 1200

#: IP family → blockSize of a pool that names none. Source: Calico v3 API, IPPool.
DEFAULT_BLOCK_SIZES = {4: 26, 6: 122}

_AFFINITY = "host:"


class IpamAllocation(Shape, frozen=True):
    """An address that somebody has: `handle` names the owner, `node` the host it was assigned for."""

    address: str
    handle: str
    node: str
    attributes: dict[str, str] = field(default_factory=dict)
    #: RFC 3339 in UTC.
    assigned_at: str = ""


class IpamRelease(Shape, frozen=True):
    """An address that nobody has any more, and since when (RFC 3339 in UTC)."""

    address: str
    released_at: str


class IpamBlockSpec(Shape, frozen=True):
    """A range of a pool, and who has which address of it. Addresses that are not named were never used.

    Shape: allocations and releases by address, in the order of addresses.
    """

    cidr: str
    #: "host:<node>", or "" when no host has the block.
    affinity: str = ""
    affinity_claim_time: str = ""
    allocations: tuple[IpamAllocation, ...] = ()
    released: tuple[IpamRelease, ...] = ()

    @property
    def host(self) -> str:
        """The host that has the block and announces it; "" when none has."""
        return self.affinity.removeprefix(_AFFINITY)


class IpReservationSpec(Shape, frozen=True):
    """Addresses that are never chosen; who names one may have it."""

    reserved_cidrs: tuple[str, ...] = field(default=(), name="reservedCIDRs")


class IpamConfigurationSpec(Shape, frozen=True):
    """How addresses are assigned."""

    #: No host takes an address of another host's block.
    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: Annotated[int, Meta(ge=0, le=100_000)] = DEFAULT_BLOCKS_PER_HOST
    #: A released address is not chosen again for so long.
    ip_cooldown_seconds: Annotated[int, Meta(ge=0, le=MAX_COOLDOWN_S)] = DEFAULT_COOLDOWN_S
    kube_virt_vm_address_persistence: str = field(default="", name="kubeVirtVMAddressPersistence")


def affinity_of(node: str) -> str:
    """Return how a block says that this host has it."""
    return f"{_AFFINITY}{node}"


def block_name(cidr: Cidr) -> str:
    """Return the name of a block's resource: one for each range, so that a claim is a creation.

    Source: Calico, names.CIDRToName; an address that begins with colons gets a zero before them.
    """
    plain = f"0{cidr}" if cidr.startswith(":") else cidr
    return plain.replace(".", "-").replace(":", "-").replace("/", "-")
