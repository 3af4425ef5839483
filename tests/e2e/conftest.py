"""What failed in a lab is seen in the logs of its processes, and these go with it."""

from collections.abc import Generator, Iterator

import pytest

from hopwall_cli.lab.lab import Lab

_TAIL = 25


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last lines of each process of the test's lab beside the failure."""
    report = yield
    if report.failed:
        for lab in _labs(item):
            for log in sorted((lab.folder.path / "log").glob("*")):
                lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
                report.sections.append((f"the end of {log.name}", "\n".join(lines)))
    return report


def _labs(item: pytest.Item) -> Iterator[Lab]:
    assert isinstance(item, pytest.Function)
    for value in item.funcargs.values():
        lab = getattr(value, "lab", value)
        if isinstance(lab, Lab):
            yield lab
