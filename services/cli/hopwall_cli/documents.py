"""Read resources from YAML and JSON text: many documents, lists, and folders of files.

Checks only what the API cannot: that a file is readable, that a mapping has no key twice (the
last would silently be kept), that every document is an object. What a resource may be is the API's matter.
"""

import json
import re
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from hopwall_cli.errors import Failure

SUFFIXES = (".yaml", ".yml", ".json")


class Document(Struct, frozen=True):
    """One resource, and where it was read."""

    file: str
    #: From 1, counting the documents of the file.
    number: int
    #: From 1, within a `kind: List`; 0 outside.
    item: int
    value: dict[str, Any]

    @property
    def where(self) -> str:
        """The place, for people."""
        item = f", item {self.item}" if self.item else ""
        return f"{self.file}, document {self.number}{item}"


class _KeyTwiceError(Exception):
    """A JSON object has a key twice."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types, as orchestrators write it: no timestamps, and no key twice.

    YAML 1.1, which the library reads, takes 20:21 for the number 1221 and 010 for 8; here both stay text.
    """


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
        if key in seen and key != "<<":
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is there twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
        for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_NOT_OURS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _NOT_OURS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Source: YAML 1.2.2, 10.3.2 (core schema), decimal numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def load_text(text: str, file: str) -> list[Document]:
    """Return the resources of a text, in their order; empty documents are left out.

    Errors: Failure names the file and the place.
    """
    try:
        values = _values(text, json_only=file.endswith(".json"))
    except json.JSONDecodeError as error:
        raise Failure(f"{file}: line {error.lineno} is no JSON: {error.msg}.") from error
    except _KeyTwiceError as error:
        raise Failure(f"{file}: {error}.") from error
    except yaml.YAMLError as error:
        raise Failure(f"{file}: {_yaml_fault(error)}.") from error
    found: list[Document] = []
    for number, value in enumerate(values, start=1):
        found += _resources(file, number, value)
    return found


def _values(text: str, *, json_only: bool) -> list[Any]:
    """Read JSON where it is all JSON: a hundred times faster than to read it as YAML."""
    if json_only or text.lstrip()[:1] in ("{", "["):
        try:
            return [json.loads(text, object_pairs_hook=_object)]
        except json.JSONDecodeError:
            if json_only:
                raise
    return list(yaml.load_all(text, _Loader))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _KeyTwiceError(f"the key {twice!r} is there twice")
    return found


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {said}" if mark is not None else said


def _resources(file: str, number: int, value: Any) -> list[Document]:
    if value is None:
        return []
    items = value if isinstance(value, list) else [value]
    listed = isinstance(value, list)
    if isinstance(value, dict) and str(value.get("kind", "")).endswith("List"):
        items, listed = value.get("items") or [], True
    found = []
    for index, item in enumerate(items, start=1):
        place = f"{file}, document {number}" + (f", item {index}" if listed else "")
        if not isinstance(item, dict):
            raise Failure(f"{place} is no object, but {type(item).__name__}.")
        _check_plain(place, item)
        found.append(Document(file, number, index if listed else 0, item))
    return found


def _check_plain(place: str, item: dict[str, Any]) -> None:
    try:
        json.dumps(item, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Failure(f"{place} holds a value that JSON has not: {error}.") from error


def files_of(path: Path) -> list[Path]:
    """Return the files that a path names: itself, or all of a folder, sorted.

    Errors: Failure when there is none.
    """
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise Failure(f"The folder {path} holds no file ending in {', '.join(SUFFIXES)}.")
        return found
    return [path]


def read(names: Sequence[str]) -> list[Document]:
    """Return the resources of files, folders and "-" (standard input), in this order.

    Errors: Failure for the first that cannot be read, or when there is no resource at all.
    """
    found: list[Document] = []
    for name in names:
        if name == "-":
            found += load_text(sys.stdin.read(), "standard input")
            continue
        for path in files_of(Path(name)):
            found += load_text(_text_of(path), str(path))
    if not found:
        raise Failure(f"There is no resource in {', '.join(names)}.")
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not UTF-8 text.") from error
