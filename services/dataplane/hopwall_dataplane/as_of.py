"""Which state the kernel was last given, kept in the kernel itself: a set of ours with one element.

The element is a digest of the state, written as an address, as that is what a set can hold. The new one is added
before anything else is written, and the old one goes when all is: between, the kernel is of both, and as nothing was
reported of the new one, the file on disk may be of either. Nothing looks the set up.

Pure.
"""

from dataclasses import dataclass, field

from hopwall_dataplane.ipsets.elements import Element, SetOp, SetSpec
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.outcome import Family

#: The set's name; as an address it is of the family with room for a digest.
AS_OF = "hw6-as-of"
_SPEC = SetSpec(AS_OF, "hash:ip", Family.V6)


@dataclass(slots=True)
class AsOf:
    """The digest that is wanted, and those that are in the kernel.

    Owner: the agent's one task.
    """

    sets: AddressSets = field(default_factory=AddressSets)
    _wanted: Element | None = None

    def want(self, digest: str) -> None:
        """Take the digest of the state that is enforced from now on."""
        element = Element(digest)
        if element == self._wanted:
            return
        if self._wanted is None:
            self.sets.set_desired(_SPEC)
        else:
            self.sets.remove_element(AS_OF, self._wanted)
        self.sets.set_element(AS_OF, element)
        self._wanted = element

    def plan(self) -> list[SetOp]:
        """Return what names the wanted state in the kernel; nothing while none is wanted."""
        return [] if self._wanted is None else self.sets.plan_additions()

    def plan_settled(self) -> list[SetOp]:
        """Return what takes out the states before, once the wanted one is in the kernel whole."""
        return [] if self._wanted is None else self.sets.plan_removals()

    @property
    def stands(self) -> bool:
        """Whether the kernel was given a state since it booted, as far as this set tells."""
        return AS_OF in self.sets.specs.actual

    def is_of(self, digest: str) -> bool:
        """Tell whether the kernel is of the state of this digest, or was becoming or leaving it."""
        return Element(digest) in self.sets.content(AS_OF).actual
