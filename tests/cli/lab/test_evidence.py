"""A lab that does not come up says what its processes said last."""

import sys
from pathlib import Path

import pytest

from hopwall_cli.lab.birds import Birds
from hopwall_cli.lab.evidence import noted
from hopwall_cli.lab.run_folder import RunFolder
from hopwall_cli.lab.services import Services
from hopwall_cli.lab.topology import LabError
from hopwall_cli.supervisor import Child


async def test_what_goes_wrong_bears_logs_processes_and_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a BIRD that does not answer, and the fault stays what it was."""
    monkeypatch.setattr("hopwall_cli.lab.run_folder.ROOT", tmp_path)
    folder, services, birds = RunFolder("one"), Services(print), Birds(tmp_path / "one")
    folder.make()
    folder.log("calc").write_text("\n".join(f"line {number}" for number in range(100)))
    birds.place("h1")
    services.children["calc"] = Child("calc", [sys.executable], say=print)
    with pytest.raises(LabError, match="not up") as caught:
        async with noted(folder, services, birds):
            raise LabError("sessions are not up")
    said = "\n".join(caught.value.__notes__)
    assert "calc: does not run, started 0 times" in said
    assert "line 99" in said
    assert "line 1\n" not in said
    assert "sessions of h1\nBIRD does not answer" in said
