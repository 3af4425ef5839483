"""The BIRD of each machine of a lab: where its files are, how it is started, what it says of its sessions.

Owner:  <run folder>/bird/<machine>/
"""

import asyncio
import contextlib
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from hopwall_cli.lab.bgp import ROUTER
from hopwall_cli.lab.topology import LabError
from hopwall_dataplane.bgp.control import Control, Unreachable

_NEIGHBOUR = re.compile(r"BGP state:\s+Established\s+Neighbor address:\s+(\S+)")
_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class Birds:
    """The folders of the machines' BIRDs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bird"

    def place(self, machine: str) -> Path:
        """Return the folder of a machine's BIRD, made if it is not there."""
        place = self._folder / machine
        (place / "secrets").mkdir(parents=True, exist_ok=True)
        return place

    def machines(self) -> list[str]:
        """Return the machines that have a folder."""
        return sorted(place.name for place in self._folder.glob("*"))

    def forget(self, machine: str) -> None:
        """Remove a machine's folder, as what is under /run goes with the machine."""
        shutil.rmtree(self._folder / machine, ignore_errors=True)

    def socket(self, machine: str) -> Path:
        """Return the control socket of a machine's BIRD."""
        return self.place(machine) / "bird.ctl"

    def command(self, machine: str) -> list[str]:
        """Return the command line of a machine's BIRD, as a host's unit has it."""
        place = self.place(machine)
        files = {"config": "bird.conf", "socket": "bird.ctl", "pid-file": "bird.pid"}
        flags = [word for flag, file in files.items() for word in (f"--{flag}", str(place / file))]
        return [sys.executable, "-m", "hopwall_dataplane.bgp.process", *flags]

    def agent_flags(self, machine: str) -> list[str]:
        """Return what the machine's agent is told of its BIRD."""
        place = self.place(machine)
        return [
            "--bgp",
            *("--bird-socket", str(place / "bird.ctl")),
            *("--bird-config", str(place / "bird.conf")),
            *("--bird-secrets", str(place / "secrets")),
        ]

    def router_command(self, text: str) -> list[str]:
        """Write the configuration of the fabric's router and return its command line.

        Errors: LabError when BIRD is not installed.
        """
        place = self.place(ROUTER)
        (place / "bird.conf").write_text(text)
        files = ["-c", str(place / "bird.conf"), "-s", str(place / "bird.ctl")]
        return [installed(), "-f", *files]

    async def established(self, machine: str) -> list[str]:
        """Return the addresses with which a machine's BIRD has a session up; none while it does not answer."""
        with contextlib.suppress(Unreachable):
            async with Control(self.socket(machine)) as bird:
                return _NEIGHBOUR.findall((await bird.ask("show protocols all")).text)
        return []

    async def recovering(self, machine: str) -> bool:
        """Tell whether a BIRD is back from a crash but has not heard all of its peers yet, or does not answer."""
        with contextlib.suppress(Unreachable):
            async with Control(self.socket(machine)) as bird:
                return "recovery in progress" in (await bird.ask("show status")).text
        return True

    async def until_established(self, wanted: Mapping[str, int], timeout_s: float) -> None:
        """Wait until each machine has as many sessions up as it is to have.

        Errors: LabError when they do not come up in time.
        """
        found: dict[str, int] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while found != wanted:
                    up = await asyncio.gather(*map(self.established, wanted))
                    found = dict(zip(wanted, map(len, up), strict=True))
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            behind = ", ".join(
                f"{name} {found.get(name, 0)} of {n}"
                for name, n in wanted.items()
                if found.get(name) != n
            )
            raise LabError(
                f"BGP sessions are not up after {timeout_s:.0f} s: {behind}; see the logs of bird-…."
            ) from error


def installed() -> str:
    """Return the path of BIRD.

    Errors: LabError when it is not installed.
    """
    found = shutil.which("bird", path=_FOLDERS)
    if found is None:
        raise LabError("bird is not installed: apt-get install bird2.")
    return found
