"""When a state counts as reached: in the kernel, and the flows that it denies are cut."""

from hopwall_dataplane.progress import Progress


def applied(progress: Progress, revision: int, n_owed: int) -> None:
    """Have a revision in the kernel."""
    progress.goal = ("e", revision)
    progress.apply(n_owed)


def test_a_state_is_reached_when_its_flows_were_looked_at() -> None:
    """One that comes while flows are looked at needs another look."""
    progress = Progress()
    applied(progress, 1, 1)
    progress.look(0)
    assert (progress.epoch, progress.revision) == ("", 0)
    applied(progress, 2, 2)
    progress.look(1)
    assert (progress.epoch, progress.revision) == ("e", 1)
    applied(progress, 3, 2)
    progress.look(2)
    assert progress.revision == 3


def test_a_state_that_concerns_no_flow_is_reached_at_once() -> None:
    """And so is each on a host that looks at none."""
    progress = Progress()
    applied(progress, 1, 0)
    progress.look(0)
    assert progress.revision == 1


def test_news_without_end_hold_nothing_back_for_ever() -> None:
    """What waits for a look is reached with it, whatever came since."""
    progress = Progress()
    for revision in range(1, 100):
        applied(progress, revision, revision)
        progress.look(revision - 1)
        assert progress.revision == revision - 1
