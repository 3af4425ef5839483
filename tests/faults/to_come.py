"""A service of a version that is still to come: `python -m tests.faults.to_come PYTHON -m MODULE flags…`.

Its messages have fields that this version does not know: in the value itself, and in what has a kind inside it. Each
line that its agents write is another than this version's: all chains are written anew when they are exchanged.
"""

import importlib
import json
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hopwall_dataplane.iptables import table, transaction
from hopwall_model import codec

UNKNOWN = {"of_a_later_version": {"text": "?", "numbers": [1, 2.5, None], "deep": {"a": {"b": []}}}}

#: The modules that encode what is sent to other services.
SENDERS = (
    "hopwall_runtime.link",
    "hopwall_api.writer",
    "hopwall_calc.service",
    "hopwall_dataplane.agent",
    "hopwall_dataplane.counting",
    "hopwall_dataplane.moves.carrier",
)


def with_unknown(value: Any) -> Any:
    """Return a JSON value with a field that is not known in each object that says its kind."""
    if isinstance(value, list):
        return [with_unknown(one) for one in value]
    if isinstance(value, dict):
        # What users declare is understood whole, or not at all: a rule without a part of it would be another.
        new = {k: one if k == "resource" else with_unknown(one) for k, one in value.items()}
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


class _Later:
    """The codec of a later version, for what is sent; all else is as it is."""

    encode = staticmethod(encoded_later(codec.encode))

    def __getattr__(self, name: str) -> Any:
        return getattr(codec, name)


def hashed_later(hashes: Callable[[str, Sequence[str]], tuple[str, ...]]) -> None:
    """Know lines as a later version does, in all that asks for their hashes."""

    def later(name: str, bodies: Sequence[str]) -> tuple[str, ...]:
        return hashes(f"later:{name}", bodies)

    for module in (table, transaction):
        vars(module)["chain_hashes"] = later


def main() -> None:
    """Become a service that speaks and writes so."""
    hashed_later(table.chain_hashes)
    for name in SENDERS:
        vars(importlib.import_module(name))["codec"] = _Later()
    arguments = sys.argv[sys.argv.index("-m") + 1 :]
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
