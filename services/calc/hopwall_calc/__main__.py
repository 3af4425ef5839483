"""The command `hopwall-calc`; `--graph` prints the calculation graph as Mermaid text instead."""

import sys

from hopwall_calc.engine import mermaid
from hopwall_calc.graph import Nodes, wire
from hopwall_calc.service import CalcService
from hopwall_calc.settings import CalcSettings
from hopwall_runtime.config import load_or_exit
from hopwall_runtime.link import Link
from hopwall_runtime.main import run


def main() -> None:
    """Run the calculation service until it is told to stop."""
    if sys.argv[1:] == ["--graph"]:
        sys.stdout.write(mermaid(wire(Nodes(routing="bgp"))))
        return
    settings = load_or_exit(CalcSettings, "hopwall-calc")
    sys.exit(run(CalcService(settings, Link("calc")).run, settings))


if __name__ == "__main__":
    main()
