"""A service of a version that is still to come: `python -m tests.faults.to_come PYTHON -m MODULE flags…`.

Its messages have fields that this version does not know: in the value itself, and in what has a kind inside it.
"""

import json
import runpy
import sys
from collections.abc import Callable
from typing import Any

from hopwall_model import codec

UNKNOWN = {"of_a_later_version": {"text": "?", "numbers": [1, 2.5, None], "deep": {"a": {"b": []}}}}


def with_unknown(value: Any) -> Any:
    """Return a JSON value with a field that is not known in each object that says its kind."""
    if isinstance(value, list):
        return [with_unknown(one) for one in value]
    if isinstance(value, dict):
        new = {key: with_unknown(one) for key, one in value.items()}
        return {**new, **UNKNOWN} if "kind" in value else new
    return value


def encoded_later(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return how a later version encodes."""

    def later(value: Any) -> bytes:
        found = json.loads(encode(value))
        if isinstance(found, dict):
            found = {**with_unknown(found), **UNKNOWN}
        return json.dumps(found, separators=(",", ":")).encode()

    return later


def main() -> None:
    """Run a service that speaks so."""
    codec.encode = encoded_later(codec.encode)  # type: ignore[assignment]
    arguments = sys.argv[sys.argv.index("-m") + 1 :]
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
