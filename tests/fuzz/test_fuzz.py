"""Hostile input in short: some thousand broken inputs a way in, and admitted policies before the kernel."""

from random import Random

import pytest

from tests.fuzz.kernel import refused_by_kernel
from tests.fuzz.targets import all_targets

N_INPUTS = 1500


@pytest.mark.parametrize("name", all_targets())
def test_nothing_gets_through_or_breaks(name: str) -> None:
    """Whatever comes in is refused as declared, or holds the laws of what is accepted."""
    target, chance = all_targets()[name], Random(name)
    for _ in range(N_INPUTS):
        data = chance.choice(target.seeds)
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = target.mutate(data, chance)
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"the input was {data!r}")
            raise


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_what_is_admitted_the_kernel_takes(backend: str) -> None:
    """No policy that admission lets in has a line that the tools refuse."""
    n_ops, refused = refused_by_kernel(11, 100, backend)

    assert refused == []
    assert n_ops > 500
