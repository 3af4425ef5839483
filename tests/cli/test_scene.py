from hypothesis import given
from hypothesis import strategies as st

from hopwall_cli import scene
from hopwall_model.validate import admit


def test_policies_of_the_demo_are_valid() -> None:
    """Every policy that the demo writes is admitted."""
    for policy in (
        *scene.isolation(),
        scene.exception(allowed=True),
        scene.exception(allowed=False),
    ):
        admit(policy)


def test_isolation_is_between_customers_only() -> None:
    """A customer reaches itself and nobody else; without isolation everybody reaches everybody."""
    wanted = scene.expected(isolated=True)
    assert wanted["vm21", "vm22"]
    assert not wanted["vm21", "vm24"]
    assert all(scene.expected(isolated=False).values())


def test_matrix_marks_what_is_wrong() -> None:
    """A cell that is not as the policy says is marked, and only such a cell."""
    wanted = scene.expected(isolated=True)
    names = tuple(scene.CUSTOMERS)
    assert "WRONG" not in scene.matrix_text(names, wanted, wanted)
    found = {**wanted, ("vm21", "vm24"): True}
    assert scene.matrix_text(names, found, wanted).count("yes WRONG") == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentile_is_a_sample(samples: list[float]) -> None:
    """A percentile is one of the samples, p100 the largest, and it grows with the share."""
    p50, p99 = scene.percentile(samples, 0.5), scene.percentile(samples, 0.99)
    assert min(samples) <= p50 <= p99 <= max(samples)
    assert {p50, p99} <= set(samples)
    assert scene.percentile(samples, 1.0) == max(samples)
