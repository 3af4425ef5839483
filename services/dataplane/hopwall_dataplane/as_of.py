"""Which state the kernel was last given, kept in the kernel itself: a set of ours with one element.

The element is a digest of the state, written as an address, as that is what a set can hold. It is exchanged before
anything else is: so a kernel is never ahead of it, and what the file on disk says is the kernel's state exactly when
the digests agree. Nothing looks the set up.

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
        """Return what brings the kernel's digest to the wanted one; nothing while none is wanted."""
        if self._wanted is None or not self.sets:
            return []
        return [*self.sets.plan_removals(), *self.sets.plan_additions()]

    @property
    def stands(self) -> bool:
        """Whether the kernel was given a state since it booted, as far as this set tells."""
        return AS_OF in self.sets.specs.actual

    def is_of(self, digest: str) -> bool:
        """Tell whether what the kernel was last given is the state of this digest, and no other."""
        return set(self.sets.content(AS_OF).actual) == {Element(digest)}
