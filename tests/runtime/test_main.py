"""A service's frame: what it lets happen to its secrets when it crashes."""

import subprocess
import sys

_SERVICE = """
import resource
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.main import run

async def service():
    print(resource.getrlimit(resource.RLIMIT_CORE))

resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
run(service, CommonSettings())
"""


def test_a_crash_leaves_no_core() -> None:
    """Keys and tokens are in the memory of each service; no limit of its surroundings lets them on disk."""
    done = subprocess.run(
        [sys.executable, "-c", _SERVICE], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "(0, 0)\n", done.stderr
