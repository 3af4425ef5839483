"""Making a cloud that fails as small as it can be while it still fails: one step back at a time.

It knows no kind of resource: it drops what can be dropped and sets to its default what has one.
"""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields, replace

from tests.proof.cloud import Cloud, Flow
from tests.proof.judges import Disagreement, Rig
from tests.proof.pipeline import NO_TAMPER, Tamper

_KEPT = ("metadata", "name", "namespace")


def minimise(cloud: Cloud, fails: Callable[[Cloud], bool]) -> Cloud:
    """Return a cloud that fails and of which every smaller one does not.

    Cost: a few hundred questions for a cloud of twenty resources.
    """
    again = True
    while again:
        again = False
        for smaller in _smaller(cloud):
            if fails(smaller):
                cloud, again = smaller, True
                break
    return cloud


def minimal(
    cloud: Cloud, flow: Flow, tamper: Tamper = NO_TAMPER
) -> tuple[Cloud, list[Disagreement]]:
    """Return the smallest cloud in which the judges still differ about the flow, and how they differ."""

    def differ(smaller: Cloud) -> list[Disagreement]:
        try:
            return Rig(smaller, tamper).disagreements([flow])
        except (AssertionError, KeyError, TypeError, ValueError):
            return []  # what makes no sense is not smaller

    small = minimise(cloud, lambda smaller: bool(differ(smaller)))
    return small, differ(small)


def _smaller(value: Any) -> Iterator[Any]:
    """Return what is one step smaller than the value, the greatest steps first."""
    if isinstance(value, tuple):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]
        for index, part in enumerate(value):
            for smaller in _smaller(part):
                yield (*value[:index], smaller, *value[index + 1 :])
    elif isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, Struct):
        for info in fields(type(value)):
            yield from _smaller_field(value, info)


def _smaller_field(value: Struct, info: FieldInfo) -> Iterator[Struct]:
    held, default = getattr(value, info.name), _default(info)
    if held == default or info.name in _KEPT[1:]:
        return
    if default is not NODEFAULT:
        yield replace(value, **{info.name: default})
    for smaller in _smaller(held):
        yield replace(value, **{info.name: smaller})


def _default(info: FieldInfo) -> Any:
    if info.default_factory is not NODEFAULT:
        return info.default_factory()
    return info.default
