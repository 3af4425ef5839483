"""What runs of many worlds found is kept by the worlds they lived, and said on the page."""

from pathlib import Path

from tests.simulator.kept import Kept, keep, kept_of, read, section
from tests.simulator.run import Tally

RUN = Kept(commit="c", day="2026-11-27", first=0, seeds=5, packets=70, opened=0, closed=0, lost=0)


def test_a_run_is_kept_in_the_place_of_its_own_beginning(tmp_path: Path) -> None:
    """A long run says now and then how far it is; the last word counts, beside other runs."""
    file = tmp_path / "kept.json"
    tally = Tally(seeds=9, asked=100, closed=2, failing=(7,))
    keep(RUN, file)
    keep(kept_of(tally, first=0, commit="c", day="2026-11-27"), file)
    keep(kept_of(tally, first=0, commit="d", day="2026-11-27"), file)

    assert [(run.commit, run.seeds, run.failing) for run in read(file)] == [
        ("c", 9, (7,)),
        ("d", 9, (7,)),
    ]


def test_the_page_says_how_many_seeds_and_which_failed() -> None:
    """What falls short of the bar, and what failed, can be read."""
    text = "\n".join(
        section(
            [
                RUN,
                Kept(
                    commit="d",
                    day="2026-11-27",
                    first=5,
                    seeds=2,
                    packets=9,
                    opened=1,
                    closed=0,
                    lost=0,
                    failing=(6,),
                ),
            ]
        )
    )

    assert "7 seeds of 100,000 that are wanted; 79 packets." in text
    assert "| 2 | 5 | 9 | 1 | 0 | 0 | 6 | d on 2026-11-27 |" in text
