"""The command line as a whole."""

from pathlib import Path

import pytest

from hopwall_cli.main import main, parse


@pytest.mark.parametrize(
    "words",
    [
        ["get", "-n", "a", "wep", "x"],
        ["get", "wep", "x", "-n", "a"],
        ["get", "wep", "-n", "a", "x"],
    ],
)
def test_a_name_may_stand_before_or_after_the_flags(words: list[str]) -> None:
    """kubectl and calicoctl take both, so hands are used to both."""
    args = parse(words)
    assert (args.kind, args.name, args.namespace) == ("wep", "x", "a")


def test_names_to_delete_may_come_late_too() -> None:
    """All of them are removed."""
    assert parse(["delete", "wep", "x", "-n", "a", "y"]).names == ["x", "y"]


@pytest.mark.parametrize("words", [["get", "wep", "-n", "a", "x", "y"], ["get", "wep", "--nope"]])
def test_what_cannot_be_meant_is_refused(words: list[str]) -> None:
    """An unknown flag, or one name too many, is a usage error."""
    with pytest.raises(SystemExit) as refused:
        parse(words)
    assert refused.value.code == 2


def test_credentials_are_made_before_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has said already where the token will be makes it all the same; who asks the API is told."""
    monkeypatch.setenv("HOPWALL_TOKEN_FILE", str(tmp_path / "pki/admin/token"))
    monkeypatch.setenv("HOPWALL_CA", str(tmp_path / "pki/ca.crt"))
    assert main(["get", "wep"]) == 1
    assert main(["pki", "init", "--folder", str(tmp_path / "pki")]) == 0
