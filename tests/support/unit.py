"""A systemd unit file as the kernel's own terms: what a service run by it may do.

Read from the file itself, so that a test and the unit it speaks of cannot drift apart.
"""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "packaging" / "systemd"


@dataclass(frozen=True, slots=True)
class Unit:
    """The settings of one unit, each as the words of all its lines in order."""

    name: str
    settings: dict[str, list[str]]

    @classmethod
    def read(cls, name: str) -> "Unit":
        """Read `packaging/systemd/<name>.service`; of all settings there are only those of systemd 252."""
        settings: dict[str, list[str]] = {}
        for line in (FOLDER / f"{name}.service").read_text().splitlines():
            if line and line[0] not in "#;[":
                key, _, value = line.partition("=")
                settings.setdefault(key, []).append(value)
        return cls(name, settings)

    def words(self, key: str) -> list[str]:
        """Return the words of a setting."""
        return " ".join(self.settings.get(key, [])).split()

    def one(self, key: str) -> str:
        """Return a setting that is there once."""
        [value] = self.settings[key]
        return value

    def is_on(self, key: str) -> bool:
        """Tell whether a switch is on."""
        return self.settings.get(key, ["no"])[-1] in ("yes", "true", "strict", "invisible")

    @property
    def syscalls(self) -> list[str]:
        """The system calls that SystemCallFilter leaves."""
        allowed: set[str] = set()
        for line in self.settings["SystemCallFilter"]:
            names = {name for word in line.removeprefix("~").split() for name in _calls(word)}
            allowed = allowed - names if line.startswith("~") else allowed | names
        return sorted(allowed)


@cache
def _calls(word: str) -> frozenset[str]:
    if not word.startswith("@"):
        return frozenset({word})
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", word],
        capture_output=True,
        text=True,
        check=True,
    )
    words = [line.strip() for line in listed.stdout.splitlines()[1:] if line.startswith("    ")]
    return frozenset(name for inner in words if inner[0] != "#" for name in _calls(inner))
