"""What is rendered does what the documents say: many packets in many clouds, asked of both judges."""

import pytest

from tests.proof.cloud import CASES, read_case
from tests.proof.judges import Rig, Tally
from tests.proof.runs import asked

N_CLOUDS = 150
N_FLOWS = 120


def test_the_lines_do_what_the_documents_say() -> None:
    """Eighteen thousand packets, every match of a rule: the lines decide as the resources mean."""
    tally = Tally()
    found = next(asked(range(N_CLOUDS), N_FLOWS, tally), None)
    assert found is None, found.keep()
    shares = {kind: n / tally.n_answers for kind, n in tally.kinds.items()}
    for kind in ("egress allow", "egress deny", "ingress allow", "ingress deny"):
        assert shares[kind] > 0.1, f"too few of {kind} to say anything: {shares}"
    for kind in ("after a pass", "deny by a rule of a gnp", "allow by a rule of a np"):
        assert shares[kind] > 0.01, f"too few of {kind} to say anything: {shares}"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda p: p.stem)
def test_a_kept_case_stays_right(path: object) -> None:
    """What was once wrong, or is easily got wrong, is asked again for ever."""
    case = read_case(CASES / str(path))
    rig = Rig(case.cloud)
    assert rig.disagreements(case.flows) == []
    for flow, expected in zip(case.flows, case.expected, strict=False):
        judged = rig.semantics.judge(flow)
        assert judged.verdicts == (expected.egress, expected.ingress), f"{case.rule}: {judged}"
