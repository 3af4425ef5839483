"""`hopwall-api`: the REST service."""

import sys

from hopwall_api.service import serve
from hopwall_api.settings import ApiSettings
from hopwall_runtime.config import load_or_exit
from hopwall_runtime.main import run


def main() -> None:
    """Run the API until it is told to stop."""
    settings = load_or_exit(ApiSettings, "hopwall-api")
    sys.exit(run(lambda: serve(settings), settings))


if __name__ == "__main__":
    main()
