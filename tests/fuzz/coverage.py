"""One target under a coverage-guided fuzzer: `python -m tests.fuzz.coverage TARGET RUNS SEED`.

The fuzzer learns which inputs reach new code, and the target's own mutation makes the next ones out of them.
Ends with 0 after RUNS inputs; with another code, and the input, at the first fault.
Source: atheris (custom mutators), libFuzzer (-runs, -seed, -timeout in seconds, -rss_limit_mb).
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

#: What others' text goes through; seeds and targets themselves are not worth guiding by.
_GUIDED = ("hopwall_model", "hopwall_calc", "hopwall_dataplane", "hopwall_cli", "hopwall_runtime")
_PER_INPUT_S = 5
_MEMORY_MB = 4096


def main(name: str, runs: str, seed: str) -> None:
    """Fuzz the target; does not return."""
    with atheris.instrument_imports(include=list(_GUIDED)):
        from tests.fuzz.targets import all_targets  # instrumented only if imported here

        target = all_targets()[name]

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        return target.mutate(data or target.seeds[0], Random(number))[:max_size]

    with tempfile.TemporaryDirectory(prefix="hwt-fuzz-") as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, given in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(given)
        os.chdir(folder)
        limits = (f"-timeout={_PER_INPUT_S}", f"-rss_limit_mb={_MEMORY_MB}", "-max_len=65536")
        argv = [
            sys.argv[0],
            f"-runs={runs}",
            f"-seed={seed}",
            *limits,
            "-print_final_stats=1",
            str(corpus),
        ]
        atheris.Setup(argv, target.run, custom_mutator=mutate)
        with contextlib.suppress(SystemExit):
            atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
