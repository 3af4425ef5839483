"""Many clouds before the judges: what is asked, what was found, and how it is kept."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.proof.cloud import CASES, Cloud, case_text
from tests.proof.judges import Disagreement, Rig, Tally
from tests.proof.minimise import minimal
from tests.proof.pipeline import NO_TAMPER, Tamper
from tests.proof.strategies import cloud_of, flows_in


@dataclass(frozen=True)
class Found:
    """A cloud and a flow of it about which the judges differ."""

    number: int
    cloud: Cloud
    first: Disagreement

    def keep(self) -> str:
        """Make it small, write it to the kept cases, and say what it is."""
        small, differ = minimal(self.cloud, self.first.flow)
        text = case_text(f"found by cloud {self.number}", small, (self.first.flow,))
        path = CASES / f"found-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
        path.write_text(text)
        return "\n".join((f"cloud {self.number}, kept as {path.name}", *map(str, differ), text))


def asked(
    numbers: range, n_flows: int, tally: Tally, tamper: Tamper = NO_TAMPER
) -> Iterator[Found]:
    """Ask both judges about the clouds of these numbers; yield the first difference of each."""
    for number in numbers:
        chance = Random(number)
        cloud = cloud_of(chance)
        rig = Rig(cloud, tamper)
        tally.n_clouds += 1
        differ = rig.disagreements(flows_in(rig.semantics, chance, n_flows), tally)
        if differ:
            yield Found(number, cloud, differ[0])
